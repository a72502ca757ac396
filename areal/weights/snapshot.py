"""The learner's weights on its GPU in the engines' type: what they load from while the learner goes on.

Two bytes for each parameter in bfloat16 are the price for neither side waiting for the other: to publish a
version is one copy from memory to memory on the GPU, and while engines load from the snapshot, the learner's
own parameters may change. One snapshot serves both backends, areal.weights.cuda_ipc and
areal.weights.broadcast.
"""

from __future__ import annotations

import torch

from areal.weights.digest import digest
from areal.weights.layout import BUCKET, NamedParameters, WeightLayout


class Snapshot:
    """A few large allocations on a GPU, or in the host's memory."""

    def __init__(self, parameters: NamedParameters, dtype: torch.dtype, device: str | torch.device) -> None:
        """Allocate memory on ``device`` for ``(name, tensor)`` pairs, all of them in ``dtype``."""
        self.device = torch.device(device)
        if self.device.type == "cuda":
            torch.cuda.ipc_collect()  # frees what an earlier snapshot held, if its engine has released it
        self.layout = WeightLayout.of(parameters, BUCKET, dtype)
        self.buckets = [
            torch.empty(size, dtype=torch.uint8, device=self.device) for size in self.layout.sizes
        ]

    def write(self, parameters: NamedParameters, whole: bool = True) -> None:
        """Copy the current values in, and return when they are there, as :meth:`Memory.write` does."""
        self._synchronize()  # of what was sent last, all has gone
        self.layout.write(parameters, self.buckets, whole)
        self._synchronize()  # whoever reads it does so on another stream

    def digest(self) -> str:
        """Return the digest of what was written, as :meth:`Memory.digest` does."""
        return digest(self.layout.views(self.buckets))

    def close(self) -> None:
        """Release the memory; what an engine has mapped is free when that has released it, too."""
        self.buckets = []
        if self.device.type == "cuda":
            torch.cuda.ipc_collect()

    def _synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
