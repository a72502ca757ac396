"""A group of workers that do everything together: the ranks of a learner."""

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
"""Seconds for the others after one has failed: to raise the same, or to be found dead."""


class WorkerGroup(Generic[W]):
    """Workers that get the same calls in the same order, as their collectives need.

    - What all of them raise alike is raised, and the group goes on.
    - When one has ended, or fails alone, the others are ended, too: they may wait for it in a collective. One
      that raises WorkerLost counts as ended: it says that it is of no use any more.
      Every call from then on raises ``lost`` with one line that says which worker it was, until the group is
      started again. It stays the same object, so that whoever has it goes on with the new workers.

    Args:
        start_workers: starts all workers; returns them, rank 0 first.
        lost: the error of a group that has ended.
        advice: returns what the user can do about a worker that ended for a reason; it ends that line.

    Attributes:
        start_workers: as given; whoever lets them start elsewhere sets another.
        workers: rank 0 first; its answers are the group's.
        ended: done when the group has ended; the result is that line. A group that is started again has a
            new one.
        error: of a worker that failed alone, if that is how it ended.
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
        """Start the workers, also where those before were lost: these have ended then, and hold nothing.

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

        A call that was made goes on when the task that waits for it is cancelled: if one worker dropped it
        and another had begun, that one would wait for ever.

        Raises:
            WorkerLost: a worker has ended.
            Exception: what a worker raised.
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
            work.exception()  # perhaps nobody waits for it any more

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
        """End all workers at once; whoever waits for them gets WorkerLost."""
        for worker in self.workers:
            worker.kill()

    async def close(self, grace: float = 5.0) -> None:
        """End all workers: in order, unless one has failed or does something that nobody waits for."""
        self._closing = True
        if self.ended.done() or self._calls:
            self.kill()
        await asyncio.gather(*(worker.close(grace) for worker in self.workers))
