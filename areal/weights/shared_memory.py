"""Weights to an engine on the same host through shared memory: no copy on disk, nothing to clean up.

The learner writes its parameters into one anonymous memory file (memfd); each vLLM worker maps the same
pages through ``/proc/<pid>/fd`` and loads them with vLLM's own checkpoint loader (areal.weights.receiver).
An anonymous file has no name: it is gone when its last user is, however that one ended.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

import torch

BACKEND = "areal_shared_memory"
_ALIGN = 64

Named = Iterable[tuple[str, torch.Tensor]]


class SharedMemoryChannel:
    """The learner's end: holds the memory and writes each new version into it."""

    def __init__(self, parameters: Named) -> None:
        """Lay out memory for ``(name, tensor)`` pairs; shapes and types stay as they are now."""
        self._slots: dict[str, tuple[int, torch.Tensor]] = {}
        end = 0
        for name, tensor in parameters:
            self._slots[name] = (end, tensor.detach())
            end += -(-tensor.numel() * tensor.element_size() // _ALIGN) * _ALIGN
        self._fd = os.memfd_create("areal-weights")
        os.ftruncate(self._fd, end)
        self._bytes = torch.from_file(self._path, shared=True, size=end, dtype=torch.uint8)
        self.nbytes = end

    @property
    def _path(self) -> str:
        return f"/proc/{os.getpid()}/fd/{self._fd}"

    def init_info(self) -> dict[str, object]:
        """What a worker needs once, to map the memory."""
        return {
            "path": self._path,
            "nbytes": self.nbytes,
            "names": list(self._slots),
            "offsets": [offset for offset, _ in self._slots.values()],
            "dtypes": [str(t.dtype).removeprefix("torch.") for _, t in self._slots.values()],
            "shapes": [list(t.shape) for _, t in self._slots.values()],
        }

    @torch.no_grad()
    def write(self, parameters: Named) -> None:
        """Copy the current values in; no engine may be loading meanwhile.

        Raises:
            ValueError: the parameters are not the ones that the channel was laid out for.
        """
        missing = set(self._slots)
        for name, tensor in parameters:
            offset, template = self._slots[name]
            if tensor.shape != template.shape or tensor.dtype != template.dtype:
                raise ValueError(f"{name} changed from {template.shape} {template.dtype} to {tensor.shape}")
            view(self._bytes, offset, template.dtype, list(template.shape)).copy_(tensor)
            missing.discard(name)
        if missing:
            raise ValueError(f"no value for {sorted(missing)}")

    def close(self) -> None:
        """Let go of the memory; workers that mapped it keep it until they end."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def view(memory: torch.Tensor, offset: int, dtype: torch.dtype, shape: list[int]) -> torch.Tensor:
    """Return the tensor that lies at ``offset`` (bytes) of ``memory`` (uint8), sharing its storage."""
    count = 1
    for size in shape:
        count *= size
    return memory[offset : offset + count * dtype.itemsize].view(dtype).view(shape)


def register() -> None:
    """Make the channel known to vLLM in this process (entry point ``vllm.general_plugins``)."""
    from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory

    if BACKEND not in WeightTransferEngineFactory._registry:
        WeightTransferEngineFactory.register_engine(BACKEND, "areal.weights.receiver", "SharedMemoryReceiver")
