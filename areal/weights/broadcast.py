"""Broadcasts weights to engines on other GPUs than the learner's, with NCCL on GPUs and gloo on CPUs.

The learner sends its snapshot (areal.weights.snapshot), so that it can continue while the engines load a
version. Each engine receives it into its own snapshot and loads from that: two bytes for each parameter on
either GPU, in bfloat16. All members must take part at the same time (:func:`areal.weights.sender.transfer`).
The learner uses its own stream, which does not wait for other work of its GPU.

The learner, rank 0, and all workers of the engines have a process group for this purpose alone. Its members
cannot change, so each change of the engines begins a new *epoch*: a group under a new name, with the engines
that exist then. A member that is dead or frozen would block the others. A member that sees a broadcast fail
therefore reports it in the store that all members share, and the others stop waiting. No member waits longer
than :data:`LIMIT`. The epoch then ends, and the next one is not affected.

If engines load in turn, each has its own group with the learner, which sends to one after another.

If only factors change (areal.factors), an epoch begins with all weights and continues with the factors alone.

vLLM's own ``nccl`` engine would also need its trainer side, which differs between releases.
"""

from __future__ import annotations

import datetime
import threading
import time
from concurrent import futures
from contextlib import suppress
from functools import partial
from typing import Any, Protocol

import torch
import torch.distributed as dist

from areal.threads import CallThread
from areal.weights.interface import Receiver, Sender, TransferBackend
from areal.weights.layout import WeightLayout

BACKEND: TransferBackend = "broadcast"
LIMIT = 180.0
"""Maximum seconds that a member waits for the others, including the transfer."""
_LEARNER = 0
_LOOK = 0.1
"""Interval in seconds at which a waiting member checks whether another one has failed."""
_TIMEOUT = datetime.timedelta(seconds=2 * LIMIT)
"""torch's own limit; no member waits for a call that reaches it. NCCL's limit ends the process."""


class Buckets(Protocol):
    """Memory of the learner that is sent as a whole."""

    device: torch.device
    layout: WeightLayout
    buckets: list[torch.Tensor]


class BroadcastSender(Sender):
    """The learner's end: sends each new version to all engines of the epoch.

    Args:
        memory: the memory to send.
        address: address at which other hosts reach this one.
        in_turn: whether to send to one engine after another, in the order in which they connect.
    """

    def __init__(self, memory: Buckets, address: str = "127.0.0.1", in_turn: bool = False) -> None:
        self._memory, self._address, self._in_turn = memory, address, in_turn
        on_gpu = memory.device.type == "cuda"
        self._stream = torch.cuda.Stream(memory.device, priority=-1) if on_gpu else None
        self._store = dist.TCPStore(address, 0, is_master=True, wait_for_workers=False, timeout=_TIMEOUT)
        self._epoch = self._size = self._connected = 0
        self._groups: list[_Group] = []

    def open(self, engines: int, workers: int = 1) -> None:
        """Begin the next epoch; the first broadcast creates its groups."""
        self.close()
        count, together = (engines, 1) if self._in_turn else (min(1, engines), engines)
        self._epoch, self._size, self._connected = self._epoch + 1, 1 + together * workers, 0
        server, device = (self._address, self._store.port), self._memory.device
        self._groups = [
            _Group(*server, self._name(number), _LEARNER, self._size, device, self._stream)
            for number in range(count)
        ]

    def _name(self, group: int) -> str:
        return f"{self._epoch}/{group}"

    def init_info(self, workers: int = 1) -> dict[str, Any]:
        """Return the data with which the next engine joins; ``rank`` is that of its first worker."""
        group, rank = divmod(self._connected, self._size - 1)
        assert group < len(self._groups), "all workers joined"
        address = {
            "host": self._address,
            "port": self._store.port,
            "group": self._name(group),
            "rank": 1 + rank,
            "size": self._size,
        }
        self._connected += workers
        return {"backend": BACKEND, "layout": self._memory.layout.to_dict(), "address": address}

    def send(self) -> None:
        """Send the memory; all engines must be loading, or load in turn.

        Raises:
            RuntimeError, TimeoutError: a member of the epoch failed, or did not take part in time.
        """
        for group in self._groups:
            group.broadcast(self._memory.buckets, self._memory.layout.changing)

    def close(self) -> None:
        """End the epoch."""
        groups, self._groups = self._groups, []
        for group in groups:
            group.leave()


class BroadcastReceiver(Receiver):
    """The end of one worker of an engine: receives into its own snapshot."""

    def __init__(
        self, address: dict[str, Any], layout: WeightLayout, device: torch.device, worker: int = 0
    ) -> None:
        rank, size = address["rank"] + worker, address["size"]
        self._group = _Group(address["host"], address["port"], address["group"], rank, size, device)
        self._changing = layout.changing
        self._buckets = [torch.empty(size, dtype=torch.uint8, device=device) for size in layout.sizes]
        self.tensors = layout.views(self._buckets)

    def receive(self) -> None:
        """Receive what the learner sends.

        Raises:
            RuntimeError, TimeoutError: a member of the epoch failed, or did not take part in time.
        """
        self._group.broadcast(self._buckets, self._changing)

    def close(self) -> None:
        """Leave the group."""
        self._group.leave()


class _Group:
    """A process group of one epoch; the first broadcast creates it.

    Torch's calls run on a separate thread, which may be abandoned, because some of them cannot be ended.

    Args:
        host: host of the learner's store, which serves all groups.
        port: port of the store.
        name: unique name of the group.
        stream: stream of a GPU for the broadcasts; None: the default stream.
    """

    def __init__(
        self,
        host: str,
        port: int,
        name: str,
        rank: int,
        size: int,
        device: torch.device,
        stream: torch.cuda.Stream | None = None,
    ) -> None:
        # Two connections, because a connection with a waiting call serves no other.
        self._store = dist.PrefixStore(f"areal-weights/{name}", _client(host, port))
        self._looking = _client(host, port)
        self._over = f"areal-weights/{name}/over"
        self._rank, self._size, self._device, self._stream = rank, size, device, stream
        self._group: Any = None
        self._sound = True
        self._begun = False
        self._thread = CallThread("areal-weights")

    def broadcast(self, buckets: list[torch.Tensor], changing: int = 0) -> None:
        """Broadcast from the learner to the engines; returns when the data has arrived.

        Args:
            buckets: all buckets.
            changing: index of the first bucket that is sent again each time.
        """
        self._sound = False
        sent = buckets[changing:] if self._begun else buckets
        broadcasting = self._thread.start(partial(self._broadcast, sent))
        begun = time.monotonic()
        while not futures.wait([broadcasting], _LOOK).done:
            if self._looking.check([self._over]):
                raise RuntimeError("another member of the weight broadcast has failed")
            if time.monotonic() - begun > LIMIT:
                self._give_up()
                raise TimeoutError(f"the weight broadcast has not finished within {LIMIT:g} s")
        if (error := broadcasting.result()[1]) is not None:
            self._give_up()
            raise error
        self._sound = self._begun = True

    def leave(self) -> None:
        """End the group; if this is the learner's end, on all sides."""
        if self._rank == _LEARNER:
            self._give_up()
        self._thread.end()
        group, self._group = self._group, None
        if group is None:
            return
        if self._sound:
            group.abort()
        # Gloo's abort does not end a call; its thread keeps the group until torch's own limit.
        elif self._device.type == "cuda":
            threading.Thread(target=group.abort, name="areal-abort", daemon=True).start()

    def _give_up(self) -> None:
        """Tell the others to stop waiting."""
        with suppress(dist.DistError):  # the learner owns the store; if it is gone, the others have stopped
            self._looking.set(self._over, "")

    def _broadcast(self, buckets: list[torch.Tensor]) -> None:
        if self._device.type == "cpu":
            self._take_part(buckets)
            return
        with torch.cuda.device(buckets[0].device), torch.cuda.stream(self._stream):
            self._take_part(buckets)
            torch.cuda.current_stream().synchronize()

    def _take_part(self, buckets: list[torch.Tensor]) -> None:
        if self._group is None:
            self._group = self._join()
        group = self._group  # so that its destructor, which waits for its calls, runs here, not in leave()
        for work in [group.broadcast(bucket, _LEARNER) for bucket in buckets]:
            work.wait()

    def _join(self) -> Any:
        if self._device.type == "cpu":
            return dist.ProcessGroupGloo(self._store, self._rank, self._size, _TIMEOUT)
        options = dist.ProcessGroupNCCL.Options(is_high_priority_stream=True)
        options._timeout = _TIMEOUT
        return dist.ProcessGroupNCCL(self._store, self._rank, self._size, options)


def _client(host: str, port: int) -> dist.Store:
    return dist.TCPStore(host, port, is_master=False, timeout=_TIMEOUT)
