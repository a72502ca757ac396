"""Waits that end with the first failure of any concurrent work.

A run must not wait for something that can no longer happen: a dead engine does not answer, and a batch does
not grow after generation has failed.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeVar

T = TypeVar("T")


class Work(NamedTuple):
    """The work that a worker has completed, and the work in progress.

    Attributes:
        done: a count that increases with the work.
        unit: the unit of that count, such as tokens.
        open: number of pieces of work in progress, such as requests; 0: no answer is due.
        version: the version of the weights that the worker has.
        elsewhere: number of things that the worker waits for and that have their own time limits, such as
            environment calls.
    """

    done: int
    unit: str
    open: int
    version: int
    elsewhere: int = 0

    def __str__(self) -> str:
        """Describe the work in a few words."""
        return f"{self.done:,} {self.unit}, {self.open} in progress"


async def wait_all(*works: Awaitable[T]) -> list[T]:
    """Wait for all of ``works`` concurrently, and return their results.

    The first failure cancels the others. When they have ended, its error is raised.
    """
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(_awaited(work)) for work in works]
    except BaseExceptionGroup as failures:
        first = failures.exceptions[0]
    else:
        return [task.result() for task in tasks]
    raise first  # outside of the handler, to keep its own cause


async def _awaited(work: Awaitable[T]) -> T:
    return await work


async def cancel(*tasks: asyncio.Future[Any]) -> None:
    """Cancel tasks, and wait until they have ended, in whatever way."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


class Wait(NamedTuple):
    """A wait: what waits for what, and since when, in seconds of the monotonic clock."""

    who: str
    what: str
    since: float


class Waits:
    """The current waits of a run. Each has a name, so that no wait is invisible."""

    def __init__(self) -> None:
        self.now: list[Wait] = []

    @contextmanager
    def named(self, who: str, what: str) -> Iterator[None]:
        """Register a wait for the duration of the block."""
        wait = Wait(who, what, time.monotonic())
        self.now.append(wait)
        try:
            yield
        finally:
            self.now.remove(wait)


class Watch:
    """Background work. If any of it fails, every wait ends with its error.

    Args:
        waits: where waits are registered; None: they are not registered.
    """

    def __init__(self, waits: Waits | None = None) -> None:
        self.waits = waits or Waits()
        self._watched: list[asyncio.Future[Any]] = []
        self._waiting: set[asyncio.Future[None]] = set()

    def add(self, work: Awaitable[T]) -> asyncio.Future[T]:
        """Start some work, unless it has started already, and watch it from now on."""
        task = asyncio.ensure_future(work)
        self._watched.append(task)
        for more in self._waiting:
            if not more.done():
                more.set_result(None)
        return task

    async def wait(self, awaited: Awaitable[T], who: str, what: str) -> T:
        """Wait for something, until it is done or anything that is watched fails.

        If the wait ends early, the awaited work is cancelled, unless it is watched itself.

        Args:
            awaited: what to wait for.
            who: who waits, for messages.
            what: what is awaited, for messages.

        Raises:
            BaseException: the error of the work that failed first, or of ``awaited`` itself.
        """
        wanted = asyncio.ensure_future(awaited)
        try:
            with self.waits.named(who, what):
                while not wanted.done():
                    self._raise()
                    more = asyncio.get_running_loop().create_future()  # done when more is watched
                    self._waiting.add(more)
                    await asyncio.wait({wanted, more, *self._watched}, return_when=asyncio.FIRST_COMPLETED)
                    self._waiting.discard(more)
            return wanted.result()
        finally:
            if not wanted.done() and wanted not in self._watched:
                await cancel(wanted)

    async def check(self) -> None:
        """Raise the error of failed work; if several failed, that of the work that was added first."""
        await asyncio.sleep(0)  # let work that was just started fail
        self._raise()

    def _raise(self) -> None:
        """Raise the first error once, and drop the work that has succeeded."""
        for task in [task for task in self._watched if task.done()]:
            self._watched.remove(task)
            task.result()

    async def drop(self, *tasks: asyncio.Future[Any]) -> None:
        """Cancel tasks, and stop watching them."""
        self._watched = [task for task in self._watched if task not in tasks]
        await cancel(*tasks)

    async def close(self) -> None:
        """Cancel all work that has not ended."""
        await self.drop(*self._watched)
