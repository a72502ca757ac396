"""Waits that end with the first failure of what goes on in the background."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any, TypeVar

T = TypeVar("T")


class Watch:
    """Background work, of which any failure ends any wait: nobody waits for what can no longer come."""

    def __init__(self) -> None:
        self._watched: list[asyncio.Future[Any]] = []

    def add(self, work: Awaitable[T]) -> asyncio.Future[T]:
        """Start work, if it has not begun yet, and watch it from now on."""
        task = asyncio.ensure_future(work)
        self._watched.append(task)
        return task

    async def wait(self, awaited: Awaitable[T]) -> T:
        """Wait, but not past a failure of anything that is watched.

        What is given up is cancelled, unless it is watched itself.

        Raises:
            BaseException: what the first of it failed of, or ``awaited`` itself.
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
        """Raise what has failed by now, the earliest added first."""
        await asyncio.sleep(0)  # what was just set off comes to its end
        self._raise()

    def _raise(self) -> None:
        """Raise what the first failed of, once; forget what has ended well."""
        for task in [task for task in self._watched if task.done()]:
            self._watched.remove(task)
            task.result()

    async def drop(self, *tasks: asyncio.Future[Any]) -> None:
        """Cancel tasks, and watch them no longer."""
        self._watched = [task for task in self._watched if task not in tasks]
        await cancel(*tasks)

    async def close(self) -> None:
        """Cancel whatever still goes on."""
        await self.drop(*self._watched)


async def cancel(*tasks: asyncio.Future[Any]) -> None:
    """Cancel tasks and wait for their end, whatever it is."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
