"""What every weight-transfer backend has: a sender at the learner, and a receiver in each engine."""

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
    """Where a version lies while engines load it."""

    layout: WeightLayout
    buckets: list[torch.Tensor]

    def write(self, parameters: NamedParameters, whole: bool = True) -> None:
        """Make the current values ready to load; no engine may be loading meanwhile.

        Args:
            parameters: all of them, or without ``whole`` those that change (:meth:`WeightLayout.write`).

        Raises:
            ValueError: the parameters are not the ones that the memory was laid out for.
        """
        ...

    def digest(self) -> str:
        """Return the digest of what was written, as :func:`areal.weights.digest.digest` makes it."""
        ...

    def close(self) -> None:
        """Release it."""
        ...


class Sender(ABC):
    """The learner's end of one backend."""

    def open(self, engines: int, workers: int = 1) -> None:  # noqa: B027 (only a group has members)
        """Begin an epoch in which so many engines connect, each by so many workers, and no others."""

    @abstractmethod
    def init_info(self, workers: int = 1) -> dict[str, Any]:
        """Return what an engine needs once to open its end; each call is for exactly one connection.

        Args:
            workers: processes of the engine, each of which opens an end of its own with this same value.
        """

    def send(self) -> None:  # noqa: B027 (where engines read the memory themselves there is none)
        """Do the learner's part of a load, on any thread while the engines load."""

    def close(self) -> None:  # noqa: B027 (a snapshot's memory is free when both sides have released it)
        """Release all resources."""


class Receiver:
    """An engine's end of one backend."""

    tensors: list[tuple[str, torch.Tensor]]

    def receive(self) -> None:
        """Make the tensors hold what the learner wrote; where its memory is mapped, they do."""

    def close(self) -> None:
        """Release all resources but the memory of the tensors, which goes with this object."""
