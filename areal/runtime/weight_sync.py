"""Brings the weights of each update to the engines, while the learner and generation continue.

If an engine is lost during a load, the learner and the other engines continue. Engines that did not get the
version load it again, over new connections among the remaining ones.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from areal.errors import TransferFailed
from areal.rollout.engines import Engines
from areal.runtime.learner_rank import LearnerRank
from areal.waiting import Watch, cancel
from areal.weights.sender import transfer

if TYPE_CHECKING:
    from areal.rollout.engine import Engine, SingleEngine
    from areal.workers.group import WorkerGroup

log = logging.getLogger(__name__)

_GRACE = 5.0
"""Seconds to wait for the report of a lost engine after a failed transfer."""
_TRIES = 3
"""Number of consecutive transfers that may fail without a lost engine before the run ends."""


async def _nothing() -> None: ...


@dataclass(eq=False)
class WeightSync:
    """Publishes the learner's weights and lets the engine load them, one version at a time.

    Attributes:
        engine: loads the weights.
        learner: sends the weights.
        advance: called with each version once the engine samples with it.
        waits: whether :meth:`publish` waits for its own load (η=0). If not, the load is in progress while the
            learner makes its next update, and the next call waits for it.
        watch: the run's waits; a load that fails ends any of them.
        connect: opens the weight sender of a learner that has none, and connects the engine to it; by default
            they are already connected. It is replaced if engines can join and leave.
        log_event: records what the learner has sent, and which engine has loaded what.
        reconnect: connects the present engines to the learner again, if their connections must change with
            them; None: the loss of an engine ends the run.
    """

    engine: Engine
    learner: WorkerGroup[LearnerRank]
    advance: Callable[[int], None]
    waits: bool
    watch: Watch
    connect: Callable[[], Awaitable[None]] = _nothing
    log_event: Callable[..., None] = lambda event, **fields: None
    reconnect: Callable[[], Awaitable[None]] | None = None

    def __post_init__(self) -> None:
        if isinstance(self.engine, Engines):
            self.engine.on_loaded = self._loaded
        self._digest = ""
        self._lost = asyncio.Event()  # an engine that takes part in transfers is lost
        self._version = 0  # the version that is ready to load
        self._changing = asyncio.Lock()
        self._loading: asyncio.Future[dict[str, float]] | None = None

    async def start(self, version: int) -> None:
        """Connect the engine to a new learner, and load the learner's weights, as ``version``.

        The engine may already have these weights, but a broken load is detected here, before any training. In
        an active run, this is called between loads.
        """
        self._loading = None
        self._lost.clear()
        await self.connect()
        await self._publish(version)
        await self._load(version)

    async def publish(self, version: int) -> dict[str, float]:
        """Pass the weights of the last update to the engine, as ``version``.

        Returns:
            The metrics of the last finished load, such as ``time/sync``; empty if there is none.
        """
        begun = time.monotonic()
        await self.watch.wait(self._changing.acquire(), "the learner", "an engine that joins or leaves")
        try:
            metrics = await self.finish()  # the memory of a load in progress must not be overwritten
            await self._publish(version, begun)
            self._loading = self.watch.add(self._load(version))
        finally:
            self._changing.release()
        return await self.finish() if self.waits else metrics

    @asynccontextmanager
    async def between_loads(self) -> AsyncIterator[int]:
        """Prevent loads in the context, so that :meth:`publish` waits; yields the version that is ready."""
        async with self._changing:
            if self._loading is not None:
                await asyncio.wait([self._loading])
            yield self._version

    def _loaded(self, name: str, version: int, digest: str, pause: float) -> None:
        self.log_event("loaded", engine=name, version=version, digest=digest, pause=round(pause, 4))

    async def load_in(self, name: str, engine: SingleEngine, version: int) -> None:
        """Load the ready version in one engine, the only one that is connected, between loads.

        Raises:
            EngineLost, TransferFailed: the version was not loaded.
        """
        metrics = await transfer(engine.load(version, self._digest), self.learner.call(LearnerRank.send))
        self._loaded(name, version, self._digest, metrics["time/pause"])

    async def finish(self) -> dict[str, float]:
        """Wait for the load in progress, if there is one, and return its metrics."""
        if self._loading is None:
            return {}
        return await self.watch.wait(self._loading, "the learner", "the engines to load weights")

    async def settle(self) -> None:
        """Wait for the end of the load in progress, even a failure: the run ends, or the learner was lost."""
        if self._loading is not None:
            await asyncio.wait([self._loading])
            await self.watch.drop(self._loading)

    async def _publish(self, version: int, begun: float | None = None) -> None:
        """Make a version ready to load.

        Args:
            begun: when its update was finished, in monotonic seconds; None: the learner is new.
        """
        self._digest = await self.learner.call(LearnerRank.publish)
        self._version = version
        # Another learner may have different bits of a version, because its sums have a different order.
        fields: dict[str, Any] = {"of_new_learner": True}
        if begun is not None:
            fields = {"seconds": round(time.monotonic() - begun, 4)}
        self.log_event("published", version=version, digest=self._digest, **fields)

    def lose(self) -> None:
        """Record the loss of an engine, which is not waited for and takes no part in later transfers."""
        self._lost.set()

    async def renew(self) -> None:
        """Connect the present engines again. No load may be in progress, except one that has failed."""
        assert self.reconnect is not None
        self._lost.clear()
        await self.reconnect()

    async def _load(self, version: int) -> dict[str, float]:
        started, tries = time.monotonic(), 0
        while True:
            try:
                while self._lost.is_set():
                    await self.renew()
                metrics = await self._transfer(version)
                break
            except TransferFailed:
                tries += not self._lost.is_set()
                if self.reconnect is None or tries == _TRIES:
                    raise
                self.lose()
        self.advance(version)
        return {"time/sync": time.monotonic() - started, **metrics}

    async def _transfer(self, version: int) -> dict[str, float]:
        """Let the engine load.

        Raises:
            TransferFailed: only some engines have the version, or none.
            LearnerLost: the learner is lost.
        """
        loading = asyncio.ensure_future(self.engine.load(version, self._digest))
        sending = asyncio.ensure_future(self.learner.call(LearnerRank.send))
        helping = asyncio.ensure_future(self._end_when_lost())
        try:
            metrics = await transfer(loading, sending)
            if (failed := sending.result()) and not self._lost.is_set():
                # All have it, but their connection is broken.
                log.warning("the learner's part of a weight update failed: %s", failed)
                self._lost.set()
            return metrics
        except TransferFailed:
            if self.reconnect is not None and not self._lost.is_set():
                await asyncio.wait([helping], timeout=_GRACE)
            raise
        finally:
            await cancel(helping)

    async def _end_when_lost(self) -> None:
        """If an engine is lost, end the transfers on the present connections, which wait for it."""
        await self._lost.wait()
        await self.learner.call(LearnerRank.reopen_sender, [])
