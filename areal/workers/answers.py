"""Calls over one connection: each has a number, and answers may come in any order."""

from __future__ import annotations

import asyncio
import itertools
import sys
import traceback
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from areal.errors import UserError, WorkerLost
from areal.workers.calls import portable
from areal.workers.messages import Kind, Messages, packed, unpacked


class Caller:
    """The calling end; its owner receives the messages, and passes it those that are answers."""

    def __init__(self, messages: Messages) -> None:
        self._messages = messages
        self._numbers = itertools.count()
        self._answers: dict[int, asyncio.Future[Any]] = {}

    @property
    def waiting(self) -> int:
        """Number of calls without an answer so far."""
        return len(self._answers)

    async def call(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Send a call, and wait for its result; cancelling this cancels the call."""
        content, number = packed((function, args, kwargs)), next(self._numbers)
        answer = self._answers[number] = asyncio.get_running_loop().create_future()
        self._messages.send("call", number, content)
        try:
            return await answer
        finally:
            del self._answers[number]
            if answer.cancelled():
                self._messages.send("cancel", number)

    def take(self, kind: Kind, number: int, body: bytes) -> None:
        """Process an answer or an error; if nobody waits for it anymore, nothing happens."""
        answer = self._answers.get(number)
        if answer is None or answer.done():
            return
        try:
            content = unpacked(body)
        except (ImportError, AttributeError) as unknown:  # a class that does not exist here
            kind, content = "error", unknown
        if kind == "error":
            answer.set_exception(content)
        else:
            answer.set_result(content)

    def fail(self, lost: Callable[[], WorkerLost]) -> None:
        """Raise an error, created for each, in all waiting calls."""
        for answer in self._answers.values():
            if not answer.done():
                answer.set_exception(lost())


class Callee:
    """The answering end; its owner receives the messages, and passes it those that are calls.

    Args:
        name: name of the worker.
        run: makes a call, given its number, the function and its arguments.
    """

    def __init__(self, name: str, messages: Messages, run: Callable[..., Awaitable[Any]]) -> None:
        self._name, self._messages, self._run = name, messages, run
        self._running: dict[int, asyncio.Task[None]] = {}

    def take(self, kind: Kind, number: int, body: bytes) -> None:
        """Begin a call, or cancel a running one."""
        if kind == "call":
            task = self._running[number] = asyncio.create_task(self._answer(number, body))
            task.add_done_callback(partial(self._forget, number))
        elif (running := self._running.get(number)) is not None:
            running.cancel()

    def cancel(self) -> None:
        """Cancel all running calls."""
        for running in self._running.values():
            running.cancel()

    def _forget(self, number: int, task: asyncio.Task[None]) -> None:
        del self._running[number]

    async def _answer(self, number: int, body: bytes) -> None:
        try:
            function, args, kwargs = unpacked(body)
            answer = packed(await self._run(number, function, *args, **kwargs))
        except BaseException as failure:
            task = asyncio.current_task()
            if task is not None and task.cancelling():  # nobody waits for it
                raise
            if not isinstance(failure, UserError | WorkerLost):
                traceback.print_exception(failure, file=sys.stderr)
            self._messages.send("error", number, packed(portable(failure, self._name)))
        else:
            self._messages.send("answer", number, answer)
