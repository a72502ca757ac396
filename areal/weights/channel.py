"""Which ways weights take from the learner to its engines, chosen here alone."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar

if TYPE_CHECKING:
    import torch

    from areal.weights.layout import Named

T = TypeVar("T")

BACKEND = "areal"
"""Name of the engine's end (areal.weights.receiver) among vLLM's weight-transfer engines."""
Way = Literal["shared memory", "CUDA IPC", "broadcast"]


class Memory(Protocol):
    """Where a version lies while engines load it."""

    def write(self, parameters: Named) -> None:
        """Make the current values ready to load; no engine may be loading meanwhile."""
        ...

    def close(self) -> None:
        """Let go of it."""
        ...


class Channel(Protocol):
    """The learner's end of one way; the engine's end is in areal.weights.receiver."""

    def init_info(self) -> dict[str, Any]:
        """What an engine needs once, to open its end; each call is for exactly one connection."""
        ...

    def send(self) -> None:
        """The learner's part of a load, made on any thread while the engines load; mostly there is none."""
        ...

    def close(self) -> None:
        """Let go of all resources."""
        ...


def ways_of(device: str, cards: Sequence[int] = (0,)) -> list[Way]:
    """Return how weights travel to each engine.

    Args:
        device: ``cpu`` or ``cuda``, of all.
        cards: the GPU of each engine; the weights are written by the learner on GPU 0.
    """
    if device == "cpu":
        return ["shared memory" for _ in cards]
    return ["broadcast" if card else "CUDA IPC" for card in cards]


class Channels:
    """The learner's ends of the ways to all engines of a run: one memory, and one channel for each kind."""

    def __init__(self, ways: Sequence[Way], memory: Memory, ends: dict[Way, Channel]) -> None:
        """Put them together; :func:`open_channels` makes them."""
        self._ways, self._memory, self._ends = ways, memory, ends

    def init_infos(self) -> list[dict[str, Any]]:
        """What each engine needs once, to open its end; asked for anew for each connection of them all."""
        return [self._ends[way].init_info() for way in self._ways]

    def write(self, parameters: Named) -> None:
        """Make the current values ready to load; no engine may be loading meanwhile.

        Raises:
            ValueError: the parameters are not the ones that the channels were opened for.
        """
        self._memory.write(parameters)

    def send(self) -> None:
        """The learner's part of a load, made while the engines load."""
        for end in self._ends.values():
            end.send()

    def close(self) -> None:
        """Let go of all resources."""
        for end in self._ends.values():
            end.close()
        self._memory.close()


def open_channels(ways: Sequence[Way], parameters: Named, dtype: torch.dtype) -> Channels:
    """Open the learner's ends.

    Args:
        ways: how weights travel to each engine; where they do not stay in the host's memory, from the
            current card.
        parameters: pairs of name and whole tensor, whose shapes stay as they are.
        dtype: of the engines' weights.
    """
    from areal.weights.broadcast import BroadcastChannel
    from areal.weights.cuda_ipc import CudaIpcChannel
    from areal.weights.shared_memory import SharedMemoryChannel
    from areal.weights.snapshot import Snapshot

    if "shared memory" in ways:
        memory = SharedMemoryChannel(parameters, dtype)
        return Channels(ways, memory, {"shared memory": memory})
    snapshot, ends = Snapshot(parameters, dtype), dict[Way, Channel]()
    if "CUDA IPC" in ways:
        ends["CUDA IPC"] = CudaIpcChannel(snapshot)
    if "broadcast" in ways:
        ends["broadcast"] = BroadcastChannel(snapshot, list(ways).count("broadcast"))
    return Channels(ways, snapshot, ends)


async def together(loading: Awaitable[T], sending: Awaitable[None]) -> T:
    """Wait for the engines' part of a load and for the learner's; return what the engines' returns.

    The first failure ends it. An engine that failed takes no part in a broadcast, so that the learner's
    part may wait for it in vain: nobody waits for that.
    """
    load, send = asyncio.ensure_future(loading), asyncio.ensure_future(sending)
    try:
        return (await asyncio.gather(load, send))[0]
    finally:
        load.cancel()
        send.cancel()
        await asyncio.gather(load, send, return_exceptions=True)
