"""What each process that areal starts does first: live and die with us, not with the terminal."""

from __future__ import annotations

import ctypes
import os
import signal
import threading

from areal.rollout.vllm_start import OWNED

_PR_SET_PDEATHSIG = 1


def adopt() -> None:
    """Leave the terminal's process group, and end when the process that started us ends.

    vLLM calls this in each of its processes (entry point ``vllm.general_plugins``). Ctrl-C then reaches
    areal alone, which saves a checkpoint and stops the engine in order; and a SIGKILL of areal leaves no
    engine behind. A vLLM that areal did not start is left alone.
    """
    parent = os.environ.get(OWNED)
    if parent is None or os.getpid() == int(parent):
        return
    _hold_no_semaphore()
    if os.getppid() == int(parent):
        die_with(int(parent))


def die_with(parent: int) -> None:
    """Leave the terminal's process group, and be killed when ``parent``, which started this process, ends."""
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
