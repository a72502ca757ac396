"""An adapted linear layer that computes with the same merged weight as the engines.

peft adds B·(A·x) to W·x. In 16 bits this differs from the engine's function, whose weight is W + B·A,
rounded: the part that rounding drops would change the learner's log-probabilities but not the engine's. The
learner therefore also merges the weight for the duration of a product, and again for the backward pass. Only
the factors have gradients, which pass through the rounding unchanged, as they do when all weights are trained
in 16 bits.
"""

from __future__ import annotations

from typing import Any

import torch

from areal.factors import merge
from areal.nf4 import dequantised, quantised

ADAPTER = "default"
"""Name of the adapter in peft's layers."""
_MERGING: dict[type, type] = {}
"""For each class of peft's layers, a subclass that computes with the merged weight."""


class QuantisedBase(torch.nn.Module):
    """A frozen linear layer with a weight in 4 bits (areal.nf4)."""

    packed: torch.Tensor
    scales: torch.Tensor
    scales2: torch.Tensor

    def __init__(self, layer: Any, device: torch.device) -> None:
        super().__init__()
        parts = quantised(layer.weight.detach().to(device))
        for name, part in zip(("packed", "scales", "scales2"), parts, strict=True):
            self.register_buffer(name, part, persistent=False)
        self.bias = layer.bias

    @property
    def parts(self) -> tuple[torch.Tensor, ...]:
        """The stored parts of the weight."""
        return self.packed, self.scales, self.scales2

    @property
    def weight(self) -> torch.Tensor:
        """The weight in bfloat16, computed anew each time."""
        return dequantised(*self.parts)


def compute_merged(layer: Any) -> None:
    """Let a linear layer of peft with one adapter, ``ADAPTER``, compute with its merged weight.

    The layer gets another class. With a forward method of its own, torch.compile would compile each decoder
    layer anew, and stop after eight.
    """
    kind = type(layer)
    layer.__class__ = _MERGING.setdefault(kind, type(kind.__name__, (kind,), {"forward": _forward}))


def scaled_factors(layer: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Return A and B, with the scale in B, such that B·A is the change of the layer's weight as stored.

    The weights of GPT-2's layers are stored transposed.
    """
    a, b = layer.lora_A[ADAPTER].weight, layer.lora_B[ADAPTER].weight * layer.scaling[ADAPTER]
    return (b.t(), a.t()) if layer.fan_in_fan_out else (a, b)


def _forward(layer: Any, x: torch.Tensor) -> torch.Tensor:
    base = layer.base_layer
    parts = base.parts if isinstance(base, QuantisedBase) else (base.weight,)
    return _Product.apply(x, base.bias, *scaled_factors(layer), layer.fan_in_fan_out, *parts)


def _whole(x: torch.Tensor, a: torch.Tensor, b: torch.Tensor, parts: Any) -> torch.Tensor:
    """Return the merged weight in the type of ``x``."""
    weight = parts[0] if len(parts) == 1 else dequantised(*parts)
    return merge(weight, a, b).to(x.dtype)


class _Product(torch.autograd.Function):
    """x ``[…, in]`` times the merged weight, which is ``[in, out]`` if ``lies_other_way``, plus the bias."""

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, bias: Any, a: Any, b: Any, lies_other_way: bool, *parts: torch.Tensor
    ) -> torch.Tensor:
        ctx.save_for_backward(x, a, b, *parts)
        ctx.lies_other_way = lies_other_way
        whole = _whole(x, a, b, parts)
        return torch.nn.functional.linear(x, whole.t() if lies_other_way else whole, bias)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[Any, ...]:
        x, a, b, *parts = ctx.saved_tensors
        of_y, of_x = gradients[0], None
        if ctx.needs_input_grad[0]:
            whole = _whole(x, a, b, parts)
            of_x = of_y @ (whole.t() if ctx.lies_other_way else whole)
        # The gradient of the full weight would be rowsᵀ·columns; it is never computed.
        rows, columns = of_y.reshape(-1, of_y.shape[-1]), x.reshape(-1, x.shape[-1])
        if ctx.lies_other_way:
            rows, columns = columns, rows
        of_a = (rows @ b.to(rows.dtype)).t() @ columns
        of_b = rows.t() @ (columns @ a.t().to(columns.dtype))
        return of_x, None, of_a.to(a.dtype), of_b.to(b.dtype), None, *[None] * len(parts)
