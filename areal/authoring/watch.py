"""Runs what may raise or never return, on threads of its own, and says what happened and where."""

from __future__ import annotations

import sys
import threading
import time
import traceback
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import Any, TypeVar

from areal.errors import place_of

T = TypeVar("T")
_TICK = 0.05


class Hang(Exception):
    """A call did not return within the limit; the message says which one, and where it is."""


class CallWatch:
    """Calls with a time limit in seconds.

    A thread that hangs cannot be ended: it is a daemon, which does not outlive the process.
    """

    def __init__(self, limit: float) -> None:
        self._limit = limit
        self._calls: dict[int, tuple[str, float]] = {}

    def call(self, what: str, function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """Call a function; ``what`` names the call if it raises or hangs."""
        me = threading.get_ident()
        self._calls[me] = (what, time.monotonic())
        result = function(*args, **kwargs)
        del self._calls[me]  # what raised stays, to be named
        return result

    def run(self, work: Callable[[], T]) -> T:
        """Run on a new thread, and wait.

        Raises:
            Hang: a call of it, or of a thread that it started, took too long.
            BaseException: whatever the work raised.
        """
        outcome = self.start(work)
        while not wait([outcome], _TICK).done:
            self._look_for_hangs()
        return outcome.result()

    def start(self, work: Callable[[], T]) -> Future[T]:
        """Run on a new thread, beside the caller."""
        outcome: Future[T] = Future()

        def main() -> None:
            try:
                outcome.set_result(work())
            except BaseException as error:  # noqa: BLE001 (it is raised where the outcome is asked for)
                if (call := self._calls.get(threading.get_ident())) and not hasattr(error, "call"):
                    error.call = call[0]  # type: ignore[attr-defined]
                outcome.set_exception(error)
            finally:
                self._calls.pop(threading.get_ident(), None)

        threading.Thread(target=main, daemon=True).start()
        return outcome

    def _look_for_hangs(self) -> None:
        now = time.monotonic()
        for thread, (what, started) in list(self._calls.items()):
            frame = sys._current_frames().get(thread)
            if now - started > self._limit and frame is not None:
                place = place_of(traceback.extract_stack(frame), __file__)
                raise Hang(f"{what} has not returned after {self._limit:g} s; it is at {place}")
