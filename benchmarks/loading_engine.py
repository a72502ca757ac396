"""Defines an engine for worker processes that only loads weights: it has a run's receiver, but no model."""

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
    """An engine that only loads weights."""

    def __init__(self) -> None:
        torch.set_num_threads(1)
        self._receiver: Receiver | None = None
        self._own: list[torch.Tensor] = []

    async def connect(self, init_infos: list[dict[str, Any]]) -> None:
        """Open a receiver, which replaces the previous one."""
        if self._receiver is not None:
            self._receiver.close()
        [info] = init_infos
        layout = WeightLayout.from_dict(info["layout"])
        self._receiver = RECEIVERS[info["backend"]](info["address"], layout, torch.device("cpu"))
        self._own = [torch.zeros_like(tensor) for _, tensor in self._receiver.tensors]

    async def load(self, version: int, digest: str = "") -> dict[str, float]:
        """Receive and copy the weights, which takes all of the measured time."""
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
        """Return the first number of the last tensor."""
        return float(self._own[-1].flatten()[0])

    def progress(self) -> Any:
        """Return None, because nothing is monitored."""
        return None

    async def sampled(self, known: Mapping[str, tuple[str, int]]) -> list[tuple[str, str, Partial]]:
        """Return an empty list, because nothing is known before the end."""
        return []

    async def close(self) -> None:
        """Close the receiver, which leaves the group."""
        if self._receiver is not None:
            self._receiver.close()
