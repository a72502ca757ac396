"""Mixed precision on one rank: weights and gradients in float32, and their roundings for the passes between.

On several ranks FSDP does the same, layer by layer. One has nothing to gather: without FSDP's hooks and
copies the host is sooner done, which a fast GPU waits for.
"""

from __future__ import annotations

from typing import Any

import torch


class Lowered:
    """A module of float32 weights that computes with them in another type.

    From a pass until :meth:`restore` its parameters hold the roundings; the float32 weights are kept here.

    Args:
        module: what is called.
        dtype: what it computes in.
    """

    def __init__(self, module: torch.nn.Module, dtype: torch.dtype) -> None:
        self._parameters = list(module.parameters())
        self._dtype = dtype
        self._weights: list[torch.Tensor] = []
        self._gradients: dict[torch.nn.Parameter, torch.Tensor] = {}
        module.register_forward_pre_hook(self._lower)

    @torch.no_grad()
    def _lower(self, *_: Any) -> None:
        if self._weights:
            return
        self._weights = [parameter.data for parameter in self._parameters]
        rounded = [torch.empty_like(weight, dtype=self._dtype) for weight in self._weights]
        torch._foreach_copy_(rounded, self._weights)
        for parameter, values in zip(self._parameters, rounded, strict=True):
            parameter.data = values

    @torch.no_grad()
    def gather(self) -> None:
        """Add the gradients of a backward pass, in float32, to those of the passes before it."""
        found = {p: p.grad for p in self._parameters if p.grad is not None}
        again = [p for p in found if p in self._gradients]
        if again:
            torch._foreach_add_([self._gradients[p] for p in again], [found[p] for p in again])
        self._gradients |= {p: gradient.float() for p, gradient in found.items() if p not in self._gradients}
        for parameter in found:
            parameter.grad = None

    def restore(self) -> None:
        """Give the parameters their float32 weights back, and the gradients in float32."""
        self.gather()
        for parameter, weight in zip(self._parameters, self._weights, strict=False):
            parameter.data = weight
        for parameter, gradient in self._gradients.items():
            parameter.grad = gradient
        self._weights, self._gradients = [], {}
