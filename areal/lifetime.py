"""What each process that areal starts does first: live and die with us, not with the terminal."""

from __future__ import annotations

import ctypes
import faulthandler
import os
import signal
from contextlib import suppress

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None)


def kill_with_parent() -> None:
    """Have the kernel kill this process when its parent ends, also if it is stopped then.

    The parent is the *thread* that started this process: see :func:`areal.starting.start_process`. Call this
    again after a change of user or a fork, which end it. The parent may have ended before.
    """
    with suppress(AttributeError):  # another system than Linux
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def die_with(parent: int) -> None:
    """Leave the terminal's process group, and be killed when ``parent``, which started this process, ends.

    Ctrl-C then reaches areal's own process alone, which ends the others in order; and a SIGKILL of that
    process leaves none of them behind.
    """
    if os.getsid(0) != os.getpid():
        os.setsid()
    kill_with_parent()
    if os.getppid() != parent:  # it died in between
        os._exit(1)
    _hold_no_semaphore()


def forks_die_with_us() -> None:
    """Have each process die with this one that it forks, and so on below it."""
    forking: list[int] = []
    os.register_at_fork(
        before=lambda: forking.append(os.getpid()),
        after_in_parent=forking.clear,
        after_in_child=lambda: die_with(forking.pop()),
    )


def end_of_crashes() -> None:
    """Have this process end at once when native code crashes, and write Python's stacks to standard error.

    Call it again after imports: libraries handle SIGSEGV, too. That of tvm_ffi, which vLLM imports, looks up
    the names of native code for seconds. It allocates for that, and never ends if the allocator has crashed.
    """
    faulthandler.disable()  # puts back what was there before the first call
    faulthandler.enable()


def _hold_no_semaphore() -> None:
    """Keep progress bars from making a lock for several processes: each of ours has none but its own bars.

    In a spawned process that lock has a name in /dev/shm, which stays when it is killed with all its kin.
    """
    import threading

    from tqdm import tqdm

    tqdm.set_lock(threading.RLock())
