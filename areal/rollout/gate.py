"""A gate that keeps requests out of an engine while it loads weights."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from areal.errors import TransferFailed


class Gate:
    """Admits requests unless the gate is closed, and knows when the last one has left."""

    def __init__(self) -> None:
        self._inside = 0
        self._open = asyncio.Event()
        self._open.set()
        self._empty = asyncio.Event()
        self._empty.set()

    @asynccontextmanager
    async def request(self) -> AsyncIterator[None]:
        """Wait until the gate is open; the request is inside within the block."""
        while not self._open.is_set():
            await self._open.wait()
        self._inside += 1
        self._empty.clear()
        try:
            yield
        finally:
            self._inside -= 1
            if not self._inside:
                self._empty.set()

    @asynccontextmanager
    async def drained(self) -> AsyncIterator[None]:
        """Close the gate, and wait until all requests have left. The gate opens again when the block ends.

        If the block raises TransferFailed, the gate stays closed. Generation is paused then, and a request
        could not leave before the next load.
        """
        self._open.clear()
        try:
            await self._empty.wait()
            yield
        except TransferFailed:
            raise
        except BaseException:
            self._open.set()
            raise
        self._open.set()
