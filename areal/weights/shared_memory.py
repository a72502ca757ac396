"""Transfers weights to an engine on the same host through shared memory, without files to clean up.

The learner writes its parameters into one anonymous memory file (memfd). Each vLLM worker maps the same pages
through ``/proc/<pid>/fd`` and loads them with vLLM's own checkpoint loader (areal.weights.receiver). An
anonymous file has no name, and disappears with its last user, however that user ends.
"""

from __future__ import annotations

import faulthandler
import os
from typing import Any

import torch

from areal.lifetime import end_of_crashes
from areal.weights.digest import digest
from areal.weights.interface import VLLM_BACKEND, Receiver, Sender, TransferBackend
from areal.weights.layout import NamedParameters, WeightLayout
from areal.without_torchvision import look_past_torchvision

BACKEND: TransferBackend = "shared memory"


class SharedMemorySender(Sender):
    """The learner's end: owns the memory and writes each new version into it."""

    def __init__(self, parameters: NamedParameters, dtype: torch.dtype | None = None) -> None:
        """Lay out memory for ``(name, tensor)`` pairs of fixed shapes, in ``dtype`` or in their own types."""
        self.device = torch.device("cpu")
        self.layout = WeightLayout.of(parameters, dtype=dtype)
        self.nbytes = sum(self.layout.sizes)
        self._fd = os.memfd_create("areal-weights")
        os.ftruncate(self._fd, self.nbytes)
        self.buckets = _mapped(self._path, self.layout)

    @property
    def _path(self) -> str:
        return f"/proc/{os.getpid()}/fd/{self._fd}"

    def init_info(self, workers: int = 1) -> dict[str, Any]:
        """Return the data with which an engine maps the memory once in each of its workers."""
        return {
            "backend": BACKEND,
            "layout": self.layout.to_dict(),
            "address": {"path": self._path},
        }

    def write(self, parameters: NamedParameters, whole: bool = True) -> None:
        """Copy the current values into the memory, as :meth:`Memory.write` does."""
        self.layout.write(parameters, self.buckets, whole)

    def digest(self) -> str:
        """Return the digest of the written values, as :meth:`Memory.digest` does."""
        return digest(self.layout.views(self.buckets))

    def close(self) -> None:
        """Release the memory; workers that have mapped it keep it until they end."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class SharedMemoryReceiver(Receiver):
    """The engine's end: maps the memory."""

    def __init__(
        self, address: dict[str, Any], layout: WeightLayout, device: torch.device, worker: int = 0
    ) -> None:
        self.tensors = layout.views(_mapped(address["path"], layout))


def _mapped(path: str, layout: WeightLayout) -> list[torch.Tensor]:
    """Return the buckets, which are contiguous in a file."""
    memory = torch.from_file(path, shared=True, size=sum(layout.sizes), dtype=torch.uint8)
    return list(memory.split(layout.sizes))


def register() -> None:
    """Register areal's weight receiver in a process of vLLM (``vllm.general_plugins``)."""
    from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory

    look_past_torchvision()
    if faulthandler.is_enabled():  # a process of areal, which has already imported vLLM
        end_of_crashes()
    if VLLM_BACKEND not in WeightTransferEngineFactory._registry:
        WeightTransferEngineFactory.register_engine(VLLM_BACKEND, "areal.weights.receiver", "WeightReceiver")
