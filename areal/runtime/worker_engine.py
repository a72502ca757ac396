"""An engine that is a worker (:mod:`areal.workers`), as the rollout side knows engines."""

from __future__ import annotations

from typing import Any

from areal.errors import EngineLost, WorkerLost
from areal.rollout.busy_clock import BusyClock
from areal.rollout.engine import Completion, Sampling
from areal.rollout.vllm_engine import DIED, VLLMEngine
from areal.workers.handle import Handle

_GRACE = 15.0
"""Seconds for vLLM to stop in order: it releases the learner's memory on a GPU."""


class WorkerEngine:
    """A :class:`areal.rollout.engine.Engine` over the handle of a vLLM engine.

    A request is one message each way.

    Attributes:
        worker: the handle; whatever else is asked of the engine goes by it.
        version: of the weights that sample now.
    """

    def __init__(self, worker: Handle[VLLMEngine]) -> None:
        self.worker = worker
        self.version = 0
        self._clock = BusyClock()

    @property
    def busy_seconds(self) -> float:
        """Seconds so far in which requests were in flight and generation was not paused."""
        return self._clock.total()

    async def generate(self, ids: list[int], sampling: Sampling) -> Completion:
        """Continue ``ids``; cancelling the call aborts the request."""
        with self._clock.request():
            return await self._call(VLLMEngine.generate, ids, sampling)

    async def connect(self, init_infos: list[dict[str, Any]]) -> None:
        """Open the engine's end of the weight transfer."""
        await self._call(VLLMEngine.connect, init_infos)

    async def load(self, version: int) -> dict[str, float]:
        """Load weights; see :meth:`areal.rollout.vllm_engine.VLLMEngine.load`."""
        begun = self._clock.total()
        metrics = await self._call(VLLMEngine.load, version)
        self._clock.paused(metrics["time/pause"], begun)
        self.version = version
        return metrics

    async def close(self) -> None:
        """Stop the engine and every process of it."""
        await self.worker.close(_GRACE)

    async def _call(self, method: Any, *args: Any) -> Any:
        """Call a method of the engine.

        Raises:
            EngineLost: the engine has died, or cannot do it.
        """
        try:
            return await self.worker.call(method, *args)
        except EngineLost:
            raise
        except WorkerLost as lost:
            raise EngineLost(f"{DIED}: {lost}" if self.worker.host else DIED) from lost
