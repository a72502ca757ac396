"""Which way weights take from the learner to the engine, chosen here alone."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar

if TYPE_CHECKING:
    import torch

    from areal.weights.layout import Named

T = TypeVar("T")

BACKEND = "areal"
"""Name of the engine's end (areal.weights.receiver) among vLLM's weight-transfer engines."""
Way = Literal["shared memory", "CUDA IPC", "broadcast"]


class Channel(Protocol):
    """The learner's end of the way; the engine's end is in areal.weights.receiver."""

    def init_info(self) -> dict[str, Any]:
        """What the engine needs once, to open its end; asked for anew for each connection."""
        ...

    def write(self, parameters: Named) -> None:
        """Make the current values ready to load; no engine may be loading meanwhile."""
        ...

    def send(self) -> None:
        """The learner's part of a load, made on any thread while the engine loads; mostly there is none."""
        ...

    def close(self) -> None:
        """Let go of all resources."""
        ...


def way_of(device: str, apart: bool = False) -> Way:
    """Return how weights travel between a learner and an engine on ``cpu`` or ``cuda``.

    Args:
        device: of both.
        apart: whether they have cards of their own.
    """
    if device == "cpu":
        return "shared memory"
    return "broadcast" if apart else "CUDA IPC"


def open_channel(way: Way, parameters: Named, dtype: torch.dtype) -> Channel:
    """Open the learner's end.

    Args:
        way: how weights travel; where they do not stay in the host's memory, from the current card.
        parameters: pairs of name and whole tensor, whose shapes stay as they are.
        dtype: of the engine's weights.
    """
    from areal.weights.broadcast import BroadcastChannel
    from areal.weights.cuda_ipc import CudaIpcChannel
    from areal.weights.shared_memory import SharedMemoryChannel

    if way == "broadcast":
        return BroadcastChannel(parameters, dtype)
    return CudaIpcChannel(parameters, dtype) if way == "CUDA IPC" else SharedMemoryChannel(parameters, dtype)


async def load(channel: Channel, loading: Awaitable[T]) -> T:
    """Let the learner's end send while an engine loads (``loading``); return what that returns."""
    sending = asyncio.create_task(asyncio.to_thread(channel.send))
    found = await loading
    await sending
    return found
