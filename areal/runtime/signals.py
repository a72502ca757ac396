"""Ctrl-C, SIGTERM and SIGHUP: they stop a run at once while nothing can be lost, and gracefully later."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from areal.errors import Interrupted

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@asynccontextmanager
async def abandoned_on_signal(notice: Callable[[str], None] = lambda line: None) -> AsyncIterator[None]:
    """Let a signal cancel the start of workers in the context; a cancelled start leaves no workers.

    A KeyboardInterrupt is not suitable: it can be raised anywhere, and it sometimes causes a hang.

    Args:
        notice: called with a line when there is a signal.

    Raises:
        Interrupted: there was a signal.
    """
    task, signaled = asyncio.current_task(), False
    assert task is not None

    def cancel() -> None:
        nonlocal signaled
        if not signaled:
            signaled = True
            notice("stopping")
            task.cancel()

    release = _handled_by(cancel)
    try:
        yield
        await asyncio.sleep(0)  # a signal is handled here at the latest
    except BaseException as error:
        if signaled:
            task.uncancel()
            raise Interrupted("stopped during startup; nothing was trained") from error
        raise
    finally:
        release()


def on_signals(first: Callable[[], object], again: Callable[[], object]) -> Callable[[], None]:
    """Call ``first`` on the first signal and ``again`` on the second; a third has its default effect.

    Returns:
        A function that restores the old handlers.
    """

    def second() -> None:
        release()
        again()

    following = iter((first, second))
    release = _handled_by(lambda: next(following)())
    return release


def _handled_by(handle: Callable[[], object]) -> Callable[[], None]:
    """Let the event loop call a function on each signal that ends a run, if Python allows it.

    A signal that is ignored, for example under ``nohup``, stays ignored.

    Returns:
        A function that restores the old handlers.
    """
    if threading.current_thread() is not threading.main_thread():
        return lambda: None
    loop = asyncio.get_running_loop()
    saved = {number: signal.getsignal(number) for number in _SIGNALS}
    saved = {number: handler for number, handler in saved.items() if handler is not signal.SIG_IGN}

    def release() -> None:
        for number, handler in saved.items():
            loop.remove_signal_handler(number)
            signal.signal(number, handler)

    for number in saved:
        loop.add_signal_handler(number, handle)
    return release
