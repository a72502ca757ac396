"""Ctrl-C, SIGTERM and SIGHUP: at once while nothing is at stake, in order afterwards."""

from __future__ import annotations

import asyncio
import multiprocessing
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from areal.errors import Interrupted

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def _heeded() -> list[signal.Signals]:
    """Return the signals that end a run; one that is ignored, as under ``nohup``, stays so."""
    return [number for number in _SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]


@contextmanager
def abandoned_on_signal(notify: Callable[[str], None] = lambda line: None) -> Iterator[None]:
    """Let a signal end a start of vLLM within, by killing the processes that it started.

    A KeyboardInterrupt would not do: it is raised anywhere inside vLLM's and torch's imports and start-up,
    where it is at times swallowed and at times leaves a hang. A start whose process died fails by itself.

    Args:
        notify: called with a line when there is a signal, on a thread.

    Raises:
        Interrupted: there was a signal.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    ours = {child.pid for child in multiprocessing.active_children()}
    signalled, finished = threading.Event(), threading.Event()

    def kill_children() -> None:
        notify("stopping")
        while not finished.wait(0.1):
            for child in multiprocessing.active_children():
                if child.pid not in ours:
                    child.kill()

    def handle(number: int, frame: object) -> None:
        if not signalled.is_set():
            signalled.set()
            threading.Thread(target=kill_children, daemon=True).start()

    saved = {number: signal.signal(number, handle) for number in _heeded()}
    try:
        yield
    except Exception as error:
        if signalled.is_set():
            raise Interrupted("stopped while starting; nothing was done yet") from error
        raise
    finally:
        finished.set()
        for number, handler in saved.items():
            signal.signal(number, handler)
    if signalled.is_set():
        raise Interrupted("stopped while starting; nothing was done yet")


def on_signals(first: Callable[[], object], again: Callable[[], object]) -> Callable[[], None]:
    """Call ``first`` on the first signal and ``again`` on the second; a third acts as without us.

    Returns:
        A function that puts the old handlers back.
    """
    if threading.current_thread() is not threading.main_thread():
        return lambda: None
    loop = asyncio.get_running_loop()
    saved = {number: signal.getsignal(number) for number in _heeded()}

    def release() -> None:
        for number, handler in saved.items():
            loop.remove_signal_handler(number)
            signal.signal(number, handler)

    def second() -> None:
        release()
        again()

    def handle() -> None:
        for number in saved:
            loop.add_signal_handler(number, second)
        first()

    for number in saved:
        loop.add_signal_handler(number, handle)
    return release
