"""The learner's weights on its card in the engines' type: what they load from while the learner goes on.

Two bytes for each parameter in bfloat16 are the price for neither side waiting for the other: to publish a
version is one copy from memory to memory on the card, and while engines load from the snapshot, the learner's
own parameters may change. One snapshot serves all ways (areal.weights.cuda_ipc, areal.weights.broadcast).
"""

from __future__ import annotations

import torch

from areal.weights.layout import BUCKET, Layout, Named


class Snapshot:
    """A few large allocations on the current card, or in the host's memory if there is no card."""

    def __init__(self, parameters: Named, dtype: torch.dtype) -> None:
        """Allocate memory for ``(name, tensor)`` pairs, all of them in ``dtype``."""
        on_card = torch.cuda.is_available()
        if on_card:
            torch.cuda.ipc_collect()  # frees what an earlier snapshot held, if its engine has let go of it
        self.device = torch.device("cuda", torch.cuda.current_device()) if on_card else torch.device("cpu")
        self.layout = Layout.of(parameters, BUCKET, dtype)
        self.buckets = [
            torch.empty(size, dtype=torch.uint8, device=self.device) for size in self.layout.sizes
        ]

    def write(self, parameters: Named) -> None:
        """Copy the current values in, and return when they are there; no engine may be loading meanwhile.

        Raises:
            ValueError: the parameters are not the ones that were laid out.
        """
        self._synchronize()  # of what was sent last, all has gone
        self.layout.write(parameters, self.buckets)
        self._synchronize()  # whoever reads it does so on another stream

    def close(self) -> None:
        """Let go of the memory; what an engine has mapped is free when that has let go of it, too."""
        self.buckets = []
        if self.device.type == "cuda":
            torch.cuda.ipc_collect()

    def _synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
