"""What each process that areal starts does first: it ties its lifetime to areal's, not to the terminal's."""

from __future__ import annotations

import ctypes
import faulthandler
import os
import signal
from contextlib import suppress

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None)


def kill_with_parent() -> None:
    """Have the kernel kill this process when its parent ends, even if this process is stopped.

    The parent is the *thread* that started this process: see :func:`areal.starting.start_process`. Call this
    again after a change of user or a fork, which cancel it. The parent may have ended already.
    """
    with suppress(AttributeError):  # another system than Linux
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def die_with(parent: int) -> None:
    """Leave the terminal's process group, and die with ``parent``, which started this process.

    Ctrl-C then reaches only areal's main process, which ends the others in order, and a SIGKILL of the main
    process leaves none of them behind.
    """
    if os.getsid(0) != os.getpid():
        os.setsid()
    kill_with_parent()
    if os.getppid() != parent:  # it died in between
        os._exit(1)
    _hold_no_semaphore()


def forks_die_with_us() -> None:
    """Have the processes that this one forks die with it, and so on."""
    forking: list[int] = []
    os.register_at_fork(
        before=lambda: forking.append(os.getpid()),
        after_in_parent=forking.clear,
        after_in_child=lambda: die_with(forking.pop()),
    )


def end_of_crashes() -> None:
    """Have this process end when native code crashes, and write the Python stacks to standard error.

    Call this again after imports, because libraries also install handlers of SIGSEGV. The handler of tvm_ffi,
    which vLLM imports, looks up native symbols for seconds. It allocates memory for that, and hangs if the
    allocator has crashed.
    """
    faulthandler.disable()  # restores the handlers from before the first call
    faulthandler.enable()


def _hold_no_semaphore() -> None:
    """Keep progress bars from creating a lock for several processes: each process shows only its own bars.

    In a spawned process, that lock is a file in /dev/shm, which remains if all processes of a run are killed.
    """
    import threading

    from tqdm import tqdm

    tqdm.set_lock(threading.RLock())
