"""Rollout workers in separate processes, from the perspective of the run's process."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from areal.errors import EngineLost, RolloutWorkerLost, WorkerLost
from areal.rollout.busy_clock import BusyClock
from areal.rollout.engine import Engine, Sampling
from areal.runtime.rollout_process import RolloutProcess
from areal.trajectory import Episode
from areal.waiting import wait_all
from areal.workers.attach import Address
from areal.workers.handle import Handle

log = logging.getLogger(__name__)

Start = Callable[[], Awaitable[Handle[RolloutProcess]]]
"""Starts a rollout worker."""


async def first_that_starts(starts: Sequence[Start]) -> Handle[RolloutProcess]:
    """Start a rollout worker in the first of several ways that works, because a host may be gone."""
    for start in starts[:-1]:
        try:
            return await start()
        except WorkerLost as lost:
            log.warning("%s; it runs again on another host", lost)
    return await starts[-1]()


@dataclass(eq=False, slots=True)
class _Place:
    """A place for a rollout worker, in which another worker starts if it is lost.

    Attributes:
        start: starts a worker.
        handle: the worker in this place; None: there is currently none.
        starting: the start of another worker, if there is one.
        in_flight: number of episodes of the worker.
        counts: the latest counts of the worker.
        counted: the counts of earlier workers.
    """

    start: Start
    handle: Handle[RolloutProcess] | None = None
    starting: asyncio.Task[None] | None = None
    in_flight: int = 0
    counts: dict[str, float] = field(default_factory=dict)
    counted: Counter[str] = field(default_factory=Counter)


class RolloutWorkers:
    """Spreads episodes over rollout workers; a :class:`areal.rollout.worker.EpisodeRunner`.

    If a worker is lost, its episodes fail like those of an environment that raised. They are run again,
    within the run's budget, while another worker starts in its place.

    Args:
        starts: starts each of the workers.

    Attributes:
        engine: all engines, through which the run's process loads weights; set by :meth:`connect`.
    """

    engine: Engine

    def __init__(self, starts: Sequence[Start]) -> None:
        self._places = [_Place(start) for start in starts]
        self._addresses: list[Address] = []
        self._clock = BusyClock()
        self._closing = False

    def counts(self) -> dict[str, float]:
        """Return the counts of failed, refused and repeated work so far, by names in a run's metrics."""
        found = Counter[str]()
        for place in self._places:
            found.update(place.counted)
            found.update(place.counts)
        return dict(found)

    @property
    def handles(self) -> list[Handle[RolloutProcess]]:
        """The present workers."""
        return [place.handle for place in self._places if place.handle is not None]

    @property
    def busy_seconds(self) -> float:
        """Number of seconds so far in which episodes were in flight."""
        return self._clock.total()

    async def start(self) -> None:
        """Start all workers. They have no engines yet."""
        await wait_all(*(self._start(place) for place in self._places))

    async def connect(self, engine: Engine, addresses: Sequence[Address]) -> None:
        """Give the workers their engines, at these addresses. :meth:`close` closes the engines, too."""
        self.engine = engine
        await self.use_engines(addresses)

    async def use_engines(self, addresses: Sequence[Address], patience: float | None = None) -> None:
        """Let all workers send their requests to these engines from now on.

        Args:
            addresses: where the engines listen.
            patience: seconds after which requests in flight on other engines continue on these; None: never.
        """
        self._addresses = list(addresses)

        async def tell(handle: Handle[RolloutProcess]) -> None:
            try:
                await handle.call(RolloutProcess.use_engines, self._addresses, patience)
            except WorkerLost:
                if not handle.ended.done():
                    raise
                # The worker that starts in its place uses these engines.

        await wait_all(*map(tell, self.handles))

    async def run_episode(self, task: dict[str, Any], sampling: Sampling) -> Episode:
        """Run one episode of a task on the worker that has the fewest episodes.

        Raises:
            RolloutWorkerLost: the worker has ended.
        """
        place = min(self._places, key=lambda place: (place.handle is None, place.in_flight))
        place.in_flight += 1
        try:
            handle = place.handle or await self._restarted(place)
            with self._clock.request():
                answer = await handle.call(RolloutProcess.run_episode, task, sampling)
        except EngineLost:
            raise
        except WorkerLost as lost:
            raise RolloutWorkerLost(str(lost)) from lost
        finally:
            place.in_flight -= 1
        place.counts = answer.counts
        return answer.episode

    async def close(self) -> None:
        """Close all workers, and then the engine."""
        self._closing = True
        try:
            await asyncio.gather(*(self._close(place) for place in self._places))
        finally:
            if hasattr(self, "engine"):
                await self.engine.close()

    async def _start(self, place: _Place) -> None:
        handle = await place.start()
        try:
            if self._addresses:
                await handle.call(RolloutProcess.use_engines, self._addresses)
        except BaseException:
            handle.kill()
            raise
        place.handle = handle
        handle.ended.add_done_callback(lambda ended: self._lost(place, ended))

    def _lost(self, place: _Place, ended: asyncio.Future[str]) -> None:
        """Start another worker in the place of one that has ended unexpectedly."""
        assert place.handle is not None
        name, place.handle = place.handle.name, None
        if self._closing:
            return
        log.warning("%s ended: %s; a new one replaces it", name, ended.result())
        place.counted.update(place.counts)
        place.counts = {}
        place.starting = asyncio.create_task(self._start(place), name=f"start of {name}")

    async def _restarted(self, place: _Place) -> Handle[RolloutProcess]:
        """Wait for the worker that starts in a place."""
        if place.starting is not None:
            await asyncio.shield(place.starting)
        if place.handle is None:
            raise WorkerLost("the rollout workers were closed")
        return place.handle

    async def _close(self, place: _Place) -> None:
        if place.starting is not None:
            place.starting.cancel()
            await asyncio.gather(place.starting, return_exceptions=True)
        if place.handle is not None:
            await place.handle.close()
