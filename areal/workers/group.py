"""A group of workers that make all calls together: the ranks of a learner."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from functools import partial
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar, overload

from areal.errors import WorkerLost
from areal.workers.handle import Handle

P = ParamSpec("P")
T = TypeVar("T")
W = TypeVar("W")

_GRACE = 5.0
"""Seconds for the others after one has failed: to raise the same error, or to be found dead."""


class WorkerGroup(Generic[W]):
    """Workers that receive the same calls in the same order, as their collectives require.

    - An error that all of them raise is raised, and the group continues.
    - If one has ended, or fails alone, the others are ended, too, because they may wait for it in a
      collective. One that raises WorkerLost counts as ended, because it is no longer usable. Every later call
      raises ``lost`` with a line that names the worker, until the group is restarted. The group stays the
      same object, so its users continue with the new workers.

    Args:
        start_workers: starts all workers; returns them, rank 0 first.
        lost: the error of a group that has ended.
        advice: returns what the user can do about the reason for which a worker ended; it is added to that
            line.

    Attributes:
        start_workers: as given; it may be replaced to start the workers elsewhere.
        workers: the workers, rank 0 first, whose answers are those of the group.
        ended: done when the group has ended; the result is that line. A restarted group has a new one.
        error: error of a worker that failed alone, if that ended the group.
    """

    def __init__(
        self,
        start_workers: Callable[[], Awaitable[Sequence[Handle[W]]]],
        lost: type[WorkerLost] = WorkerLost,
        advice: Callable[[str], str] = lambda reason: "",
    ) -> None:
        self.start_workers = start_workers
        self.workers: list[Handle[W]] = []
        self.ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.error: BaseException | None = None
        self._error, self._advice = lost, advice
        self._calls: set[asyncio.Future[Any]] = set()
        self._closing = False

    async def start(self) -> None:
        """Start the workers. Earlier ones that were lost have ended and released everything by then.

        Raises:
            WorkerLost: one of them did not start.
        """
        self.kill()
        await asyncio.gather(*(asyncio.shield(worker.ended) for worker in self.workers))
        try:
            started = await self.start_workers()
        except WorkerLost as lost:
            raise self._error(f"{lost}{self._advice(str(lost))}") from lost
        self.workers, self.ended = list(started), asyncio.get_running_loop().create_future()
        for worker in self.workers:
            worker.ended.add_done_callback(partial(self._lost, worker))

    @overload
    async def call(
        self, method: Callable[Concatenate[W, P], Coroutine[Any, Any, T]], *args: P.args, **kwargs: P.kwargs
    ) -> T: ...

    @overload
    async def call(self, method: Callable[Concatenate[W, P], T], *args: P.args, **kwargs: P.kwargs) -> T: ...

    async def call(self, method: Any, *args: Any, **kwargs: Any) -> Any:
        """Call a method of all workers and return the answer of rank 0, once all have answered.

        A call continues if the task that waits for it is cancelled: if one worker dropped it and another had
        begun, the latter would wait forever.

        Raises:
            WorkerLost: a worker has ended.
            Exception: the exception of a worker.
        """
        if self.ended.done():
            raise self._error(self.ended.result())
        work = asyncio.ensure_future(self._call(method, args, kwargs))
        self._calls.add(work)
        work.add_done_callback(self._over)
        return await asyncio.shield(work)

    def _over(self, work: asyncio.Future[Any]) -> None:
        self._calls.discard(work)
        if not work.cancelled():
            work.exception()  # nobody may be waiting for it

    async def _call(self, method: Any, args: Any, kwargs: Any) -> Any:
        calls = [asyncio.ensure_future(each.call(method, *args, **kwargs)) for each in self.workers]
        _, waiting = await asyncio.wait(calls, return_when=asyncio.FIRST_EXCEPTION)
        if waiting:
            _, waiting = await asyncio.wait(waiting, timeout=_GRACE)
        failures = [call.exception() if call.done() else None for call in calls]
        if not any(failures):
            return calls[0].result()
        for worker, failure in zip(self.workers, failures, strict=True):
            if isinstance(failure, WorkerLost):
                self._end(f"{worker.name} ended: {failure}{self._advice(str(failure))}")  # unless it is known
                await asyncio.gather(*calls, return_exceptions=True)
                raise self._error(self.ended.result())
        rank, failure = next((rank, failure) for rank, failure in enumerate(failures) if failure is not None)
        if {type(other) for other in failures} != {type(failure)}:
            self.error = failure
            self._end(f"{self.workers[rank].name} failed: {type(failure).__name__}: {failure}")
            await asyncio.gather(*calls, return_exceptions=True)
        raise failure

    def _lost(self, worker: Handle[W], ended: asyncio.Future[str]) -> None:
        reason = ended.result()
        self._end(f"{worker.name} ended: {reason}{self._advice(reason)}")

    def _end(self, line: str) -> None:
        if not self.ended.done():
            self.ended.set_result(line)
        if not self._closing:
            self.kill()

    def kill(self) -> None:
        """End all workers at once; callers that wait for them get WorkerLost."""
        for worker in self.workers:
            worker.kill()

    async def close(self, grace: float = 5.0) -> None:
        """Shut down all workers gracefully, unless one has failed or runs a call that nobody waits for."""
        self._closing = True
        if self.ended.done() or self._calls:
            self.kill()
        await asyncio.gather(*(worker.close(grace) for worker in self.workers))
