"""The learner's weights on its GPU in the engines' type, from which engines load while the learner continues.

A snapshot takes two bytes for each parameter in bfloat16, and lets neither side wait for the other.
Publishing a version is one copy within the GPU's memory, and while engines load from the snapshot, the
learner's own parameters may change. One snapshot serves both backends, areal.weights.cuda_ipc and
areal.weights.broadcast.
"""

from __future__ import annotations

import torch

from areal.weights.digest import digest
from areal.weights.layout import BUCKET, NamedParameters, WeightLayout


class Snapshot:
    """A few large allocations on a GPU, or in host memory."""

    def __init__(self, parameters: NamedParameters, dtype: torch.dtype, device: str | torch.device) -> None:
        """Allocate memory on ``device`` for ``(name, tensor)`` pairs, all of them in ``dtype``."""
        self.device = torch.device(device)
        if self.device.type == "cuda":
            torch.cuda.ipc_collect()  # frees the memory of an earlier snapshot, if its engine has released it
        self.layout = WeightLayout.of(parameters, BUCKET, dtype)
        self.buckets = [
            torch.empty(size, dtype=torch.uint8, device=self.device) for size in self.layout.sizes
        ]

    def write(self, parameters: NamedParameters, whole: bool = True) -> None:
        """Copy the current values into the memory and wait for the copy, as :meth:`Memory.write` does."""
        self._synchronize()  # the previous version has been sent completely
        self.layout.write(parameters, self.buckets, whole)
        self._synchronize()  # readers use another stream

    def digest(self) -> str:
        """Return the digest of the written values, as :meth:`Memory.digest` does."""
        return digest(self.layout.views(self.buckets))

    def close(self) -> None:
        """Release the memory; memory that an engine has mapped is freed when the engine releases it, too."""
        self.buckets = []
        if self.device.type == "cuda":
            torch.cuda.ipc_collect()

    def _synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
