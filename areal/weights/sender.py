"""The learner's end of the weight transfer to all engines of a run."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from areal.waiting import wait_all

if TYPE_CHECKING:
    import torch

    from areal.weights.interface import Memory, Sender, TransferBackend
    from areal.weights.layout import NamedParameters

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class WeightSender:
    """Sends weights to all engines: from one memory, by one sender for each backend (:func:`open_sender`)."""

    _backends: Sequence[TransferBackend]
    _memory: Memory
    _senders: dict[TransferBackend, Sender]

    def init_infos(self) -> list[dict[str, Any]]:
        """Return what each engine needs to open its end; each call is for one connection of them all."""
        return [self._senders[backend].init_info() for backend in self._backends]

    def write(self, parameters: NamedParameters) -> None:
        """Make the current values ready to load, as :meth:`Memory.write` does."""
        self._memory.write(parameters)

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
) -> WeightSender:
    """Open the learner's end.

    Args:
        backends: the backend of each engine.
        parameters: pairs of name and whole tensor, whose shapes stay as they are.
        dtype: of the engines' weights.
        device: where the weights lie while engines load them, unless that is memory shared with them.
        address: by which engines on other hosts reach this one.
    """
    from areal.weights.broadcast import BroadcastSender
    from areal.weights.cuda_ipc import CudaIpcSender
    from areal.weights.shared_memory import SharedMemorySender
    from areal.weights.snapshot import Snapshot

    if "shared memory" in backends:
        memory = SharedMemorySender(parameters, dtype)
        return WeightSender(backends, memory, {"shared memory": memory})
    snapshot = Snapshot(parameters, dtype, device)
    senders: dict[TransferBackend, Sender] = {}
    if "CUDA IPC" in backends:
        senders["CUDA IPC"] = CudaIpcSender(snapshot)
    if "broadcast" in backends:
        senders["broadcast"] = BroadcastSender(snapshot, list(backends).count("broadcast"), address)
    return WeightSender(backends, snapshot, senders)


async def transfer(loading: Awaitable[T], sending: Awaitable[None]) -> T:
    """Wait for the engines' part of a load and for the learner's; return the result of the engines' part.

    The first failure ends it. An engine that failed takes no part in a broadcast, so that the learner's
    part may wait for it in vain: nobody waits for that.
    """
    works: tuple[Awaitable[Any], ...] = (loading, sending)
    return (await wait_all(*works))[0]
