"""The learner's end of the weight transfer to all engines of a run."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from areal.waiting import cancel

if TYPE_CHECKING:
    import torch

    from areal.weights.interface import Memory, Sender, TransferBackend
    from areal.weights.layout import NamedParameters

T = TypeVar("T")

_GRACE = 5.0
"""Seconds to wait for the failure of the learner's part after the engines' part has failed."""


class WeightSender:
    """Sends weights to all engines: from one memory, with one sender for each backend (:func:`open_sender`).

    Args:
        memory: the memory of a version while engines load it.
        make: creates the sender of a backend, when an engine first needs it.
        workers: number of processes of each engine.
    """

    def __init__(self, memory: Memory, make: Callable[[TransferBackend], Sender], workers: int) -> None:
        self._memory, self._make, self._workers = memory, make, workers
        self._backends: Sequence[TransferBackend] = ()
        self._senders: dict[TransferBackend, Sender] = {}

    def open(self, backends: Sequence[TransferBackend]) -> None:
        """Begin an epoch with the current engines; no load may be in progress, except a broken one.

        Engines with a broadcast must connect again; a connection of another backend remains.

        Args:
            backends: the backend of each engine.
        """
        self._backends = backends
        for backend in backends:
            if backend not in self._senders:
                self._senders[backend] = self._make(backend)
        for backend, sender in self._senders.items():
            sender.open(list(backends).count(backend), self._workers)

    @property
    def tensors(self) -> dict[str, torch.Tensor]:
        """The tensors in the memory by name, from which engines load."""
        return dict(self._memory.layout.views(self._memory.buckets))

    def init_infos(self) -> list[dict[str, Any]]:
        """Return the data with which each engine opens its end; each call is for one connection of each."""
        return [self._senders[backend].init_info(self._workers) for backend in self._backends]

    def write(self, parameters: NamedParameters, whole: bool = True) -> str:
        """Make the current values ready to load, as :meth:`Memory.write` does; return their digest."""
        self._memory.write(parameters, whole)
        return self._memory.digest()

    def send(self) -> None:
        """Do the learner's part of a load, while the engines load."""
        for sender in self._senders.values():
            sender.send()

    def close(self) -> None:
        """Release all resources."""
        for sender in self._senders.values():
            sender.close()
        self._memory.close()


def open_sender(
    backends: Sequence[TransferBackend],
    parameters: NamedParameters,
    dtype: torch.dtype,
    device: str | torch.device,
    address: str = "127.0.0.1",
    workers: int = 1,
    in_turn: bool = False,
) -> WeightSender:
    """Open the learner's end, and begin its first epoch.

    Args:
        backends: the backend of each engine.
        parameters: pairs of name and unsharded tensor, whose shapes never change.
        dtype: type of the engines' weights.
        device: device of the weights while engines load them; engines can share memory of the CPU.
        address: address at which engines on other hosts reach this one.
        workers: number of processes of each engine, one for each part of its weights.
        in_turn: whether engines load one after another, in this order; if not, all load at the same time.
    """
    from areal.weights.broadcast import BroadcastSender
    from areal.weights.cuda_ipc import CudaIpcSender
    from areal.weights.shared_memory import SharedMemorySender
    from areal.weights.snapshot import Snapshot

    shared = str(device) == "cpu" or "shared memory" in backends
    memory: Any = SharedMemorySender(parameters, dtype) if shared else Snapshot(parameters, dtype, device)

    def make(backend: TransferBackend) -> Sender:
        if backend == "shared memory":
            return memory
        return CudaIpcSender(memory) if backend == "CUDA IPC" else BroadcastSender(memory, address, in_turn)

    sender = WeightSender(memory, make, workers)
    sender.open(backends)
    return sender


async def transfer(loading: Awaitable[T], sending: Awaitable[Any]) -> T:
    """Wait for the engines' part of a load and for the learner's; return the result of the engines' part.

    If the learner's part fails, its error is raised, but only after the engines have noticed it. A load that
    stops in the middle would leave an engine with unknown weights. A failed engine takes no part in a
    broadcast, so the learner's part might wait for it in vain; this wait is limited to :data:`_GRACE`.
    """
    works = [asyncio.ensure_future(loading), asyncio.ensure_future(sending)]
    try:
        await asyncio.wait(works[:1])
        await asyncio.wait(works, timeout=_GRACE if works[0].exception() else None)
        if works[1].done():
            works[1].result()
        return works[0].result()
    finally:
        await cancel(*works)
