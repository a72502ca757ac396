"""Runs first in a process that a worker's process spawns by multiprocessing, as vLLM does; it ends with it.

Such a process starts with the ``__main__`` of its parent. A worker's process names this file as its own
(:mod:`areal.workers.process_main`), and so does each of its descendants. Processes that such a process forks
end with it, too.
"""

from __future__ import annotations

import os

from areal.lifetime import die_with, end_of_crashes, forks_die_with_us
from areal.workers.vitals import write_stacks_to_parents

if os.getppid() == 1:  # the parent, a worker's process, has already ended
    os._exit(1)
die_with(os.getppid())
forks_die_with_us()
write_stacks_to_parents()
end_of_crashes()
