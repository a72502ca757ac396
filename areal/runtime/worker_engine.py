"""An engine in a worker (:mod:`areal.workers`), with the interface of the rollout side."""

from __future__ import annotations

import asyncio
import itertools
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from areal.errors import EngineLost, TransferFailed, WorkerFrozen, WorkerLost
from areal.images import Image
from areal.rollout.busy_clock import BusyClock
from areal.rollout.engine import Completion, Partial, Sampling
from areal.rollout.quantization import Layer
from areal.rollout.vllm_engine import DIED, VLLMEngine
from areal.workers.attach import Address, listen
from areal.workers.guard import beat
from areal.workers.handle import Handle

_OFTEN = 1.0
"""Interval in seconds at which an engine is asked for its samples, which also shows that it is alive."""
_LOOK = 0.05
"""Interval in seconds at which an engine that owes a token checks for one."""
_GRACE = 15.0
"""Seconds for vLLM to shut down, because it releases the learner's memory on a GPU."""


class WorkerEngine:
    """A :class:`areal.rollout.engine.SingleEngine` that calls a vLLM engine through its handle.

    A request is one message each way.

    Attributes:
        worker: the handle of the engine.
        version: the version of the weights that currently sample.
    """

    def __init__(self, worker: Handle[VLLMEngine]) -> None:
        self.worker = worker
        self.version = 0
        self._clock = BusyClock()
        self._address: Address | None = None
        # Several processes may send requests to one engine, each with its own names.
        self._names = (f"{prefix}/{n}" for prefix in [secrets.token_hex(8)] for n in itertools.count())
        self._open: dict[str, _Open] = {}
        self._watching: asyncio.Task[None] | None = None
        self._lost = False

    @property
    def busy_seconds(self) -> float:
        """Number of seconds so far in which requests were in flight and generation was not paused."""
        return self._clock.total()

    async def generate(
        self,
        ids: list[int],
        sampling: Sampling,
        partial: Partial | None = None,
        *,
        images: Sequence[Image] = (),
    ) -> Completion:
        """Continue ``ids``. If the call is cancelled, the request is aborted."""
        name = next(self._names)
        if partial is not None:
            self._open[name] = _Open(partial)
        try:
            with self._clock.request():
                return await self._call(VLLMEngine.generate, ids, sampling, name, images)
        finally:
            self._open.pop(name, None)

    def watch(self, lost: Callable[[EngineLost], None]) -> None:
        """Ask the engine every second for its samples, and call ``lost`` when it is lost."""
        if self._watching is not None:
            self._watching.cancel()
        self._watching = asyncio.create_task(self._watch(lost), name=f"watch over {self.worker.name}")

    async def _watch(self, lost: Callable[[EngineLost], None]) -> None:
        try:
            while True:
                await asyncio.wait([self.worker.ended], timeout=_OFTEN)
                known = {name: (each.request, len(each.partial.ids)) for name, each in self._open.items()}
                for name, request, new in await self._call(VLLMEngine.sampled, known):
                    if (each := self._open.get(name)) is not None:
                        each.take(request, new)
        except EngineLost as error:
            lost(error)

    async def lives(self) -> None:
        """Wait for a token if one is owed, otherwise for an answer, and for stopped processes."""
        await self._call(_lives)

    async def connect(self, init_infos: list[dict[str, Any]]) -> None:
        """Open the engine's end of the weight transfer."""
        await self._call(VLLMEngine.connect, init_infos)

    async def layers(self) -> list[Layer]:
        """Return the layers of the engine's model, with the types of their weights."""
        return await self._call(VLLMEngine.layers)

    async def load(self, version: int, digest: str = "") -> dict[str, float]:
        """Load weights; see :meth:`areal.rollout.vllm_engine.VLLMEngine.load`."""
        begun = self._clock.total()
        metrics = await self._call(VLLMEngine.load, version, digest)
        self._clock.paused(metrics["time/pause"], begun)
        self.version = version
        return metrics

    async def listen(self, host: str) -> Address:
        """Let the engine listen for rollout workers in other processes, at an address of its host."""
        if self._address is None:
            self._address = await self._call(listen, self.worker.name, host)
        return self._address

    async def close(self) -> None:
        """Stop the engine and every process of it."""
        if self._watching is not None:
            self._watching.cancel()
        if self._lost:
            self.worker.kill()
        await self.worker.close(_GRACE)

    async def _call(self, method: Any, *args: Any) -> Any:
        """Call a method of the engine.

        Raises:
            EngineLost: the engine has died, or cannot perform the call.
            TransferFailed: something else that the engine needs for the call has died.
        """
        try:
            return await self.worker.call(method, *args)
        except TransferFailed:
            raise
        except EngineLost:
            self._lost = True
            raise
        except WorkerFrozen as frozen:
            self._lost = True
            raise EngineLost(str(frozen)) from frozen
        except WorkerLost as lost:
            self._lost = True
            if self.worker.host:  # its output is not here
                raise EngineLost(f"{DIED}: {lost}") from lost
            how = f" ({self.worker.ended.result()})" if self.worker.ended.done() else ""
            raise EngineLost(f"{DIED}{how}") from lost


async def _lives(engine: VLLMEngine) -> None:
    """Return when a token has come, if one is owed, and no process of the engine is stopped."""
    before = engine.progress()
    while True:
        runs, now = beat(None).stopped is None, engine.progress()
        if runs and (not now.open or now.done > before.done):
            return
        before = now  # an aborted request removes its tokens
        await asyncio.sleep(_LOOK)


@dataclass(slots=True)
class _Open:
    """A request in flight: its known tokens, and vLLM's id of the request."""

    partial: Partial
    request: str = ""

    def take(self, request: str, new: Partial) -> None:
        """Add new samples. A request with another id has begun again."""
        if request != self.request:
            self.request = request
            self.partial.clear()
        self.partial.extend(new)
