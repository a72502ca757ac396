"""The interface of a weight-transfer backend: a sender at the learner, and a receiver in each engine."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    import torch

    from areal.weights.layout import NamedParameters, WeightLayout

TransferBackend = Literal["shared memory", "CUDA IPC", "broadcast"]
VLLM_BACKEND = "areal"
"""Name of areal.weights.receiver among the weight-transfer backends of vLLM."""


class Memory(Protocol):
    """The memory of a version while engines load it."""

    layout: WeightLayout
    buckets: list[torch.Tensor]

    def write(self, parameters: NamedParameters, whole: bool = True) -> None:
        """Make the current values ready to load; no engine may be loading at this time.

        Args:
            parameters: all parameters, or without ``whole`` those that change (:meth:`WeightLayout.write`).

        Raises:
            ValueError: the parameters do not match the layout of the memory.
        """
        ...

    def digest(self) -> str:
        """Return the digest of the written values, from :func:`areal.weights.digest.digest`."""
        ...

    def close(self) -> None:
        """Release the memory."""
        ...


class Sender(ABC):
    """The learner's end of one backend."""

    def open(self, engines: int, workers: int = 1) -> None:  # noqa: B027 (only a broadcast has epochs)
        """Begin an epoch with this number of engines, each with this number of workers."""

    @abstractmethod
    def init_info(self, workers: int = 1) -> dict[str, Any]:
        """Return the data with which an engine opens its end; each call is for exactly one connection.

        Args:
            workers: number of processes of the engine, each of which opens its own end with this value.
        """

    def send(self) -> None:  # noqa: B027 (nothing to do if engines read the memory themselves)
        """Do the learner's part of a load; runs on any thread while the engines load."""

    def close(self) -> None:  # noqa: B027 (a snapshot's memory is free when both sides have released it)
        """Release all resources."""


class Receiver:
    """An engine's end of one backend."""

    tensors: list[tuple[str, torch.Tensor]]

    def receive(self) -> None:
        """Fill the tensors with what the learner wrote; mapped memory already contains it."""

    def close(self) -> None:
        """Release all resources except the memory of the tensors, which lives as long as this object."""
