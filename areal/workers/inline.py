"""Workers in this process, for tests, with the errors and the cancellation of other workers."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, Generic, TypeVar

from areal.errors import WorkerLost
from areal.workers.calls import Dispatcher, portable
from areal.workers.handle import CLOSED

W = TypeVar("W")


async def launch(
    name: str, environment: Mapping[str, str], factory: Any, *args: Any, **kwargs: Any
) -> InlineHandle[Any]:
    """Create a worker here; it has this process's environment (see :class:`areal.workers.handle.Launch`)."""
    handle = InlineHandle[Any](name)
    await handle._run(handle._calls.make(factory, *args, **kwargs))
    return handle


class InlineHandle(Generic[W]):
    """A worker in this process; see :class:`areal.workers.handle.Handle`.

    A running plain method cannot be stopped; :meth:`kill` leaves it to its thread.
    """

    def __init__(self, name: str) -> None:
        self.name, self.host = name, ""
        self.ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"areal-{name}")
        self._calls = Dispatcher(self._thread)
        self._running: set[asyncio.Task[Any]] = set()
        self._reason = ""

    async def call(self, method: Any, *args: Any, **kwargs: Any) -> Any:
        """Call a method of the worker and return its result."""
        if self._reason:
            raise self._lost()
        return await self._run(self._calls.call(method, *args, **kwargs))

    async def _run(self, work: Any) -> Any:
        task = asyncio.ensure_future(work)
        self._running.add(task)
        try:
            return await task
        except asyncio.CancelledError:
            if self._reason:
                raise self._lost() from None
            raise
        except Exception as failure:  # noqa: BLE001 (it is raised, as it is elsewhere)
            raise portable(failure, self.name) from None
        finally:
            self._running.discard(task)

    def _lost(self) -> WorkerLost:
        return WorkerLost(f"{self.name} ended: {self._reason}")

    def kill(self) -> None:
        """End the worker at once."""
        self._reason = self._reason or "killed"
        self._end()

    def _end(self) -> None:
        if not self.ended.done():
            self.ended.set_result(self._reason)
        for task in self._running:
            task.cancel()
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def close(self, grace: float = 5.0) -> None:
        """Shut down the worker."""
        if self._reason:
            return
        self._reason = CLOSED
        with suppress(TimeoutError):
            async with asyncio.timeout(grace):
                await self._calls.close()
        self._end()
