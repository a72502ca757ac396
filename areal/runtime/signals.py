"""Ctrl-C and SIGTERM: at once while nothing is at stake, in order afterwards."""

from __future__ import annotations

import asyncio
import multiprocessing
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from areal.errors import Interrupted

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def abandoned_on_signal() -> Iterator[None]:
    """Let a signal end a start of vLLM within, by killing the processes that it started.

    A KeyboardInterrupt would not do: it is raised anywhere inside vLLM's and torch's imports and start-up,
    where it is at times swallowed and at times leaves a hang. A start whose process died fails by itself.

    Raises:
        Interrupted: there was a signal.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    ours = {child.pid for child in multiprocessing.active_children()}
    signalled, finished = threading.Event(), threading.Event()

    def kill_children() -> None:
        while not finished.wait(0.1):
            for child in multiprocessing.active_children():
                if child.pid not in ours:
                    child.kill()

    def handle(number: int, frame: object) -> None:
        if not signalled.is_set():
            signalled.set()
            threading.Thread(target=kill_children, daemon=True).start()

    saved = {number: signal.signal(number, handle) for number in _SIGNALS}
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


def on_first_signal(handle: Callable[[], None]) -> Callable[[], None]:
    """Call ``handle`` on the first SIGINT or SIGTERM; a second one acts as it would have without us.

    Returns:
        A function that puts the old handlers back.
    """
    if threading.current_thread() is not threading.main_thread():
        return lambda: None
    loop = asyncio.get_running_loop()
    saved = {number: signal.getsignal(number) for number in _SIGNALS}

    def release() -> None:
        for number, handler in saved.items():
            loop.remove_signal_handler(number)
            signal.signal(number, handler)

    def first() -> None:
        release()
        handle()

    for number in _SIGNALS:
        loop.add_signal_handler(number, first)
    return release
