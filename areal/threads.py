"""Threads for calls that may never return.

A thread cannot be ended from outside, unless it runs Python code. A thread with an abandoned call is a
daemon, so that neither the run nor the end of the process waits for it.
"""

from __future__ import annotations

import asyncio
import ctypes
import sys
import threading
import traceback
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from contextlib import suppress
from queue import SimpleQueue
from typing import Any, TypeVar

from areal.errors import place_of

T = TypeVar("T")
Outcome = tuple[Any, BaseException | None]
"""The result of a call, or what it raised, which may be anything, including exceptions that end an event
loop."""


class GivenUp(BaseException):
    """The call was abandoned."""


class CallThread:
    """A thread that makes one call after another."""

    def __init__(self, name: str) -> None:
        self._calls: SimpleQueue[tuple[Future[Outcome], Callable[[], Any]] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    def start(self, call: Callable[[], Any]) -> Future[Outcome]:
        """Make a call after the earlier ones."""
        outcome: Future[Outcome] = Future()
        self._calls.put((outcome, call))
        return outcome

    def run(self, call: Callable[[], T]) -> Coroutine[Any, Any, T]:
        """Make a call after the earlier ones; awaiting it returns the result, or raises the error."""
        return _result_of(self.start(call))

    def end(self) -> None:
        """Make no further calls after those that were started; the thread then ends."""
        self._calls.put(None)

    def give_up(self) -> None:
        """Abandon the running call: an exception ends it at its next line of Python, and then the thread.

        If the call has just returned, its outcome may never arrive.
        """
        self.end()
        thread = ctypes.c_ulong(self._thread.ident or 0)
        ctypes.pythonapi.PyThreadState_SetAsyncExc(thread, ctypes.py_object(GivenUp))

    @property
    def alive(self) -> bool:
        """Whether the thread is still running."""
        return self._thread.is_alive()

    def location(self, caller: str) -> str:
        """Return where the running call is, as ``file:line``; see :func:`areal.errors.place_of`."""
        frame = sys._current_frames().get(self._thread.ident or 0)
        return "its end" if frame is None else place_of(traceback.extract_stack(frame), caller)

    def _work(self) -> None:
        with suppress(GivenUp):
            self._make_calls()

    def _make_calls(self) -> None:
        while (given := self._calls.get()) is not None:
            outcome, call = given
            if outcome.set_running_or_notify_cancel():
                outcome.set_result(tried(call))
            del given, outcome, call  # free what they hold before the wait for the next call


async def _result_of(outcome: Future[Outcome]) -> Any:
    result, error = await asyncio.wrap_future(outcome)
    if error is not None:
        raise error
    return result


def tried(call: Callable[[], Any]) -> Outcome:
    """Make a call."""
    try:
        return call(), None
    except BaseException as error:  # noqa: BLE001 (it is raised where the outcome is awaited)
        return None, error
