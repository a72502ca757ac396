"""Weights to an engine on a card of its own, by a broadcast: NCCL between cards, gloo between CPUs.

As with CUDA IPC (areal.weights.cuda_ipc), the learner keeps a snapshot of its parameters, so that it goes on
while the engine takes a version. The engine receives it into a snapshot of its own and loads from that: two
bytes for each parameter on either card, in bfloat16. Both ends have to take part at the same time
(:func:`areal.weights.channel.load`), the learner's on a stream of its own: what its card has to do meanwhile
is not waited for.

A process group of two, by which nothing else goes. vLLM's own ``nccl`` engine would need its trainer's side
too, which differs from release to release.
"""

from __future__ import annotations

import datetime
from contextlib import nullcontext
from typing import Any

import torch
import torch.distributed as dist

from areal.weights.channel import Way
from areal.weights.layout import BUCKET, Layout, Named

WAY: Way = "broadcast"
_LEARNER, _ENGINE = 0, 1
_TIMEOUT = datetime.timedelta(minutes=3)
"""Longest wait for the other end: one that died takes no part in anything."""
_HOST = "127.0.0.1"


class BroadcastChannel:
    """The learner's end: holds the snapshot and sends each new version."""

    def __init__(self, parameters: Named, dtype: torch.dtype) -> None:
        """Allocate a snapshot of ``(name, tensor)`` pairs, all of them in ``dtype``, on the current card."""
        on_card = torch.cuda.is_available()
        self._device = torch.device("cuda", torch.cuda.current_device()) if on_card else torch.device("cpu")
        self._layout = Layout.of(parameters, BUCKET, dtype)
        self._buckets = [
            torch.empty(size, dtype=torch.uint8, device=self._device) for size in self._layout.sizes
        ]
        self._stream = torch.cuda.Stream(self._device, priority=-1) if on_card else None
        self._group: _Pair | None = None

    def init_info(self) -> dict[str, Any]:
        """What an engine needs once, to join; each call is for exactly one connection."""
        store = dist.TCPStore(_HOST, 0, is_master=True, wait_for_workers=False, timeout=_TIMEOUT)
        self._group = _Pair(store, _LEARNER, self._device)
        return {"way": WAY, "layout": self._layout.describe(), "place": {"host": _HOST, "port": store.port}}

    def write(self, parameters: Named) -> None:
        """Copy the current values in, and return when they are there; no engine may be loading meanwhile.

        Raises:
            ValueError: the parameters are not the ones that the channel was laid out for.
        """
        if self._stream is not None:
            self._stream.synchronize()  # of what was sent last, all has gone
        self._layout.write(parameters, self._buckets)
        if self._stream is not None:
            torch.cuda.synchronize(self._device)  # our stream knows nothing of the learner's

    def send(self) -> None:
        """Send the snapshot; an engine must be loading."""
        with torch.cuda.stream(self._stream) if self._stream is not None else nullcontext():
            assert self._group is not None, "init_info first"
            self._group.broadcast(self._buckets)

    def close(self) -> None:
        """Let go of the snapshot and leave the group."""
        self._group, self._buckets = None, []


class BroadcastSource:
    """The engine's end: receives into a snapshot of its own."""

    def __init__(self, place: dict[str, Any], layout: Layout, device: torch.device) -> None:
        store = dist.TCPStore(place["host"], place["port"], is_master=False, timeout=_TIMEOUT)
        self._group = _Pair(store, _ENGINE, device)
        self._buckets = [torch.empty(size, dtype=torch.uint8, device=device) for size in layout.sizes]
        self.tensors = layout.views(self._buckets)

    def receive(self) -> None:
        """Take part in what the learner sends."""
        self._group.broadcast(self._buckets)


class _Pair:
    """A process group of learner and engine; it comes about with the first broadcast."""

    def __init__(self, store: dist.Store, rank: int, device: torch.device) -> None:
        self._store = store  # the learner's serves both
        self._rank, self._device = rank, device
        self._group: Any = None

    def broadcast(self, buckets: list[torch.Tensor]) -> None:
        """From the learner to the engine, on the current stream; without a card, wait for it."""
        if self._group is None:
            self._group = self._join()
        works = [self._group.broadcast(bucket, _LEARNER) for bucket in buckets]
        for work in works:
            work.wait()

    def _join(self) -> Any:
        store = dist.PrefixStore("areal-weights", self._store)
        if self._device.type == "cpu":
            return dist.ProcessGroupGloo(store, self._rank, 2, _TIMEOUT)
        options = dist.ProcessGroupNCCL.Options(is_high_priority_stream=True)
        options._timeout = _TIMEOUT
        return dist.ProcessGroupNCCL(store, self._rank, 2, options)
