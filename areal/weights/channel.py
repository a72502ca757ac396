"""Which way weights take to the engine, chosen here alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import torch

    from areal.weights.layout import Named


class Channel(Protocol):
    """The learner's end of the way; the engine's end is in areal.weights.receiver."""

    def init_info(self) -> dict[str, Any]:
        """What the engine needs once, to open its end; asked for anew for each connection."""
        ...

    def write(self, parameters: Named) -> None:
        """Make the current values ready to load; no engine may be loading meanwhile."""
        ...

    def close(self) -> None:
        """Let go of all resources."""
        ...


def weight_backend(device: str) -> str:
    """Return the name that the way has in vLLM, for a learner and an engine on one ``cpu`` or ``cuda``."""
    from areal.weights import cuda_ipc, shared_memory

    return cuda_ipc.BACKEND if device == "cuda" else shared_memory.BACKEND


def open_channel(device: str, parameters: Named, dtype: torch.dtype) -> Channel:
    """Open the learner's end of the way that :func:`weight_backend` names.

    Args:
        device: ``cpu`` or ``cuda``, of the learner and the engine.
        parameters: pairs of name and whole tensor, whose shapes stay as they are.
        dtype: of the engine's weights.
    """
    from areal.weights.cuda_ipc import CudaIpcChannel
    from areal.weights.shared_memory import SharedMemoryChannel

    return CudaIpcChannel(parameters, dtype) if device == "cuda" else SharedMemoryChannel(parameters, dtype)
