"""Waits that end with the first failure of what goes on at the same time.

Nobody waits for what can no longer come: an engine that died answers nothing, and a batch does not grow where
generation has failed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any, TypeVar

T = TypeVar("T")


async def wait_all(*works: Awaitable[T]) -> list[T]:
    """Wait for all of ``works`` at once and return their results.

    The first one that fails cancels the others. When they have ended, its error is raised.
    """
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(_awaited(work)) for work in works]
    except BaseExceptionGroup as failures:
        first = failures.exceptions[0]
    else:
        return [task.result() for task in tasks]
    raise first  # outside of the handler: its own cause stays its cause


async def _awaited(work: Awaitable[T]) -> T:
    return await work


async def cancel(*tasks: asyncio.Future[Any]) -> None:
    """Cancel tasks and wait until they have ended, in whatever way."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


class Watch:
    """Work in the background, any failure of which ends any wait."""

    def __init__(self) -> None:
        self._watched: list[asyncio.Future[Any]] = []

    def add(self, work: Awaitable[T]) -> asyncio.Future[T]:
        """Start work, unless it has begun already, and watch it from now on."""
        task = asyncio.ensure_future(work)
        self._watched.append(task)
        return task

    async def wait(self, awaited: Awaitable[T]) -> T:
        """Wait for something, but not past a failure of anything that is watched.

        Something that is no longer waited for is cancelled, unless it is watched itself.

        Raises:
            BaseException: the error of the work that failed first, or of ``awaited`` itself.
        """
        wanted = asyncio.ensure_future(awaited)
        try:
            while not wanted.done():
                self._raise()
                await asyncio.wait({wanted, *self._watched}, return_when=asyncio.FIRST_COMPLETED)
            return wanted.result()
        finally:
            if not wanted.done() and wanted not in self._watched:
                await cancel(wanted)

    async def check(self) -> None:
        """Raise the error of work that has failed by now; of several the one that was added first."""
        await asyncio.sleep(0)  # work that was just set off may be about to end
        self._raise()

    def _raise(self) -> None:
        """Raise the first error once, and forget the work that has ended well."""
        for task in [task for task in self._watched if task.done()]:
            self._watched.remove(task)
            task.result()

    async def drop(self, *tasks: asyncio.Future[Any]) -> None:
        """Cancel tasks and watch them no longer."""
        self._watched = [task for task in self._watched if task not in tasks]
        await cancel(*tasks)

    async def close(self) -> None:
        """Cancel all work that still goes on."""
        await self.drop(*self._watched)
