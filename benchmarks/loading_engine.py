"""An engine for worker processes that only loads weights: a run's receiver, without a model."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Any

import torch

from areal.rollout.engine import Partial
from areal.rollout.vllm_engine import VLLMEngine
from areal.weights.broadcast import BroadcastReceiver
from areal.weights.interface import Receiver
from areal.weights.layout import WeightLayout
from areal.weights.shared_memory import SharedMemoryReceiver

RECEIVERS: dict[str, Any] = {"shared memory": SharedMemoryReceiver, "broadcast": BroadcastReceiver}


class LoadingEngine(VLLMEngine):
    """An engine that does nothing but load weights."""

    def __init__(self) -> None:
        torch.set_num_threads(1)
        self._receiver: Receiver | None = None
        self._own: list[torch.Tensor] = []

    async def connect(self, init_infos: list[dict[str, Any]]) -> None:
        """Open the receiver, in place of the one before."""
        if self._receiver is not None:
            self._receiver.close()
        [info] = init_infos
        layout = WeightLayout.from_dict(info["layout"])
        self._receiver = RECEIVERS[info["backend"]](info["address"], layout, torch.device("cpu"))
        self._own = [torch.zeros_like(tensor) for _, tensor in self._receiver.tensors]

    async def load(self, version: int, digest: str = "") -> dict[str, float]:
        """Receive and copy, which takes all of the time that is measured."""
        begun = time.monotonic()
        await asyncio.to_thread(self._load)
        seconds = time.monotonic() - begun
        return {"time/pause": seconds, "time/load": seconds}

    def _load(self) -> None:
        assert self._receiver is not None
        self._receiver.receive()
        for own, (_, tensor) in zip(self._own, self._receiver.tensors, strict=True):
            own.copy_(tensor)

    def first(self) -> float:
        """Return the first number of its last tensor."""
        return float(self._own[-1].flatten()[0])

    def progress(self) -> Any:
        """Nothing is watched."""
        return None

    async def sampled(self, known: Mapping[str, tuple[str, int]]) -> list[tuple[str, str, Partial]]:
        """Nothing is known before the end."""
        return []

    async def close(self) -> None:
        """Leave the group."""
        if self._receiver is not None:
            self._receiver.close()
