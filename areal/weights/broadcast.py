"""Weights to engines on other GPUs than the learner's, by a broadcast: NCCL between GPUs, gloo between CPUs.

The learner sends its snapshot (areal.weights.snapshot), so that it goes on while the engines load a version.
Each engine receives it into a snapshot of its own and loads from that: two bytes for each parameter on either
GPU, in bfloat16. All have to take part at the same time (:func:`areal.weights.sender.transfer`), the
learner on a stream of its own, which does not wait for other work of its GPU.

The learner, rank 0, and the engines have one process group for this alone. vLLM's own ``nccl`` engine would
need its trainer's side too, which differs from release to release.
"""

from __future__ import annotations

import datetime
from contextlib import nullcontext
from typing import Any

import torch
import torch.distributed as dist

from areal.weights.interface import Receiver, Sender, TransferBackend
from areal.weights.layout import WeightLayout
from areal.weights.snapshot import Snapshot

BACKEND: TransferBackend = "broadcast"
_LEARNER = 0
_TIMEOUT = datetime.timedelta(minutes=3)
"""Longest wait for the others: one that died takes no part in anything."""


class BroadcastSender(Sender):
    """The learner's end: sends each new version of the snapshot to all engines at once."""

    def __init__(self, snapshot: Snapshot, engines: int, address: str = "127.0.0.1") -> None:
        """Prepare a group with so many ``engines``; it comes about when all of them take part.

        Args:
            snapshot: what is sent.
            engines: how many.
            address: by which they reach this host.
        """
        self._snapshot = snapshot
        on_gpu = snapshot.device.type == "cuda"
        self._stream = torch.cuda.Stream(snapshot.device, priority=-1) if on_gpu else None
        store = dist.TCPStore(address, 0, is_master=True, wait_for_workers=False, timeout=_TIMEOUT)
        self._address, self._port, self._size = address, store.port, 1 + engines
        self._group = _Group(store, _LEARNER, self._size, snapshot.device)
        self._connected = 0

    def init_info(self) -> dict[str, Any]:
        """Return what the next engine needs once, to join; each call is for exactly one connection."""
        self._connected += 1
        assert self._connected < self._size, "all engines have joined"
        address = {"host": self._address, "port": self._port, "rank": self._connected, "size": self._size}
        return {"backend": BACKEND, "layout": self._snapshot.layout.to_dict(), "address": address}

    def send(self) -> None:
        """Send the snapshot; all engines must be loading."""
        with torch.cuda.stream(self._stream) if self._stream is not None else nullcontext():
            self._group.broadcast(self._snapshot.buckets)

    def close(self) -> None:
        """Leave the group."""
        self._group.leave()


class BroadcastReceiver(Receiver):
    """The engine's end: receives into a snapshot of its own."""

    def __init__(self, address: dict[str, Any], layout: WeightLayout, device: torch.device) -> None:
        store = dist.TCPStore(address["host"], address["port"], is_master=False, timeout=_TIMEOUT)
        self._group = _Group(store, address["rank"], address["size"], device)
        self._buckets = [torch.empty(size, dtype=torch.uint8, device=device) for size in layout.sizes]
        self.tensors = layout.views(self._buckets)

    def receive(self) -> None:
        """Take part in what the learner sends."""
        self._group.broadcast(self._buckets)

    def close(self) -> None:
        """Leave the group."""
        self._group.leave()


class _Group:
    """A process group of the learner and its engines; it comes about with the first broadcast."""

    def __init__(self, store: dist.Store, rank: int, size: int, device: torch.device) -> None:
        self._store = store  # the learner's serves all
        self._rank, self._size, self._device = rank, size, device
        self._group: Any = None
        self._sound = True

    def broadcast(self, buckets: list[torch.Tensor]) -> None:
        """From the learner to the engines, on the current stream; without a GPU, wait for it."""
        self._sound = False
        if self._group is None:
            self._group = self._join()
        works = [self._group.broadcast(bucket, _LEARNER) for bucket in buckets]
        for work in works:
            work.wait()
        self._sound = True

    def leave(self) -> None:
        """Destroy the group on this side, which needs no other.

        One that failed, or in which a broadcast still waits for somebody, ends with its process: to destroy
        it might wait as well.
        """
        group, self._group = self._group, None
        if group is not None and self._sound:
            group.abort()

    def _join(self) -> Any:
        store = dist.PrefixStore("areal-weights", self._store)
        if self._device.type == "cpu":
            return dist.ProcessGroupGloo(store, self._rank, self._size, _TIMEOUT)
        options = dist.ProcessGroupNCCL.Options(is_high_priority_stream=True)
        options._timeout = _TIMEOUT
        return dist.ProcessGroupNCCL(store, self._rank, self._size, options)
