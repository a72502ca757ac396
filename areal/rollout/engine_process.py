"""What each process of vLLM does first."""

from __future__ import annotations

import multiprocessing
import os

from areal.lifetime import die_with
from areal.rollout.vllm_start import OWNED


def adopt() -> None:
    """End when the process that started this one ends, and leave the terminal's process group.

    vLLM calls this in each process that it spawns (entry point ``vllm.general_plugins``). A vLLM that areal
    did not start is left alone.
    """
    parent = multiprocessing.parent_process()
    if OWNED in os.environ and parent is not None and parent.pid is not None:
        die_with(parent.pid)
