"""Brings the weights of each update to the engine, while the learner and generation go on."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from areal.runtime.learner_rank import LearnerRank
from areal.waiting import Watch
from areal.weights.sender import transfer

if TYPE_CHECKING:
    from areal.rollout.engine import Engine
    from areal.workers.group import WorkerGroup


class WeightSync:
    """Publishes the learner's weights and has the engine load them, one version at a time.

    Args:
        engine: connected to the learner's weight sender.
        advance: called with each version once the engine samples with it.
        waits: whether :meth:`publish` waits for its own load (η=0). If not, the load is in flight while the
            learner makes its next update, and the next call waits for it.
        watch: of the run; a load that fails ends any of its waits.
    """

    def __init__(
        self,
        engine: Engine,
        learner: WorkerGroup[LearnerRank],
        advance: Callable[[int], None],
        waits: bool,
        watch: Watch,
    ) -> None:
        self.engine = engine
        self._learner = learner
        self._advance = advance
        self._waits = waits
        self._watch = watch
        self._loading: asyncio.Future[dict[str, float]] | None = None

    async def start(self, version: int) -> None:
        """Load the weights that the run begins with, as ``version``.

        The engine may have them already, but a load that does not work shows here, before any training.
        """
        await self._learner.call(LearnerRank.publish)
        await self._load(version)

    async def publish(self, version: int) -> dict[str, float]:
        """Hand the weights of the last update to the engine, as ``version``.

        Returns:
            The metrics of the last load that is over, such as ``time/sync``; empty if there is none.
        """
        metrics = await self.finish()  # the memory of a load in flight must not be written
        await self._learner.call(LearnerRank.publish)
        self._loading = self._watch.add(self._load(version))
        return await self.finish() if self._waits else metrics

    async def finish(self) -> dict[str, float]:
        """Wait for the load in flight, if there is one, and return its metrics."""
        return {} if self._loading is None else await self._watch.wait(self._loading)

    async def settle(self) -> None:
        """Wait for the load in flight at the end of a run, whatever becomes of it.

        The engine is about to close, and what ends the run is known.
        """
        if self._loading is not None:
            await asyncio.gather(self._loading, return_exceptions=True)

    async def _load(self, version: int) -> dict[str, float]:
        started = time.monotonic()
        metrics = await transfer(self.engine.load(version), self._learner.call(LearnerRank.send))
        self._advance(version)
        return {"time/sync": time.monotonic() - started, **metrics}
