"""Ctrl-C and SIGTERM: at once while nothing is at stake, in order afterwards."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def stopping_at_once() -> Iterator[None]:
    """Let Ctrl-C raise KeyboardInterrupt within, whatever runs.

    asyncio would only cancel the main task, which takes effect when the event loop is free: vLLM's start
    blocks it for half a minute.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    saved = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, saved)


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
