"""What each process that areal starts does first: live and die with us, not with the terminal."""

from __future__ import annotations

import ctypes
import os
import signal
import threading

_PR_SET_PDEATHSIG = 1


def die_with(parent: int) -> None:
    """Leave the terminal's process group, and be killed when ``parent``, which started this process, ends.

    Ctrl-C then reaches areal's own process alone, which ends the others in order; and a SIGKILL of that
    process leaves none of them behind.
    """
    if os.getsid(0) != os.getpid():
        os.setsid()
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died in between
        os._exit(1)
    _hold_no_semaphore()


def _hold_no_semaphore() -> None:
    """Keep progress bars from making a lock for several processes: each of ours has none but its own bars.

    In a spawned process that lock has a name in /dev/shm, which stays when it is killed with all its kin.
    """
    from tqdm import tqdm

    tqdm.set_lock(threading.RLock())
