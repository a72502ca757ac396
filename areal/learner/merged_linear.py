"""An adapted linear layer that computes with the same merged weight as the engines.

peft adds B·(A·x) to W·x. In 16 bits this differs from the engine's function, whose weight is W + B·A,
rounded: the part that rounding drops would change the learner's log-probabilities but not the engine's. The
learner therefore also merges the weight for the duration of a product, and again for the backward pass. Only
the factors have gradients, which pass through the rounding unchanged, as they do when all weights are trained
in 16 bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from areal.factors import merge
from areal.nf4 import dequantized, quantized

ADAPTER = "default"
"""Name of the adapter in peft's layers."""
_MERGING: dict[type, type] = {}
"""For each class of peft's layers, a subclass that computes with the merged weight."""


class QuantizedBase(torch.nn.Module):
    """A frozen linear layer with a weight in 4 bits (areal.nf4)."""

    packed: torch.Tensor
    scales: torch.Tensor
    scales2: torch.Tensor

    def __init__(self, layer: Any, device: torch.device) -> None:
        super().__init__()
        parts = quantized(layer.weight.detach().to(device))
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
        return dequantized(*self.parts)


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
    parts = base.parts if isinstance(base, QuantizedBase) else (base.weight,)
    a, b = scaled_factors(layer)
    output: torch.Tensor = _product(x, base.bias, a, b, layer.fan_in_fan_out, list(parts))
    return output


def _whole(
    a: torch.Tensor, b: torch.Tensor, lies_other_way: bool, parts: Sequence[torch.Tensor], dtype: torch.dtype
) -> torch.Tensor:
    """Return the merged weight ``[out, in]``."""
    weight = parts[0] if len(parts) == 1 else dequantized(*parts)
    whole = merge(weight, a, b).to(dtype)
    return whole.t() if lies_other_way else whole


# Operations that torch.compile does not look into: it would keep the merged weights of all layers from the
# forward pass for the backward pass, because it sees that both compute the same.


@torch.library.custom_op("areal::merged_linear", mutates_args=())
def _product(
    x: torch.Tensor,
    bias: torch.Tensor | None,
    a: torch.Tensor,
    b: torch.Tensor,
    lies_other_way: bool,
    parts: Sequence[torch.Tensor],
) -> torch.Tensor:
    """Return x ``[…, in]`` times the merged weight, plus the bias.

    The weight is stored as ``[in, out]`` if ``lies_other_way``.
    """
    return torch.nn.functional.linear(x, _whole(a, b, lies_other_way, parts, x.dtype), bias)


@_product.register_fake
def _(x: Any, bias: Any, a: Any, b: Any, lies_other_way: bool, parts: Any) -> torch.Tensor:
    return x.new_empty(*x.shape[:-1], a.shape[1] if lies_other_way else b.shape[0])


@torch.library.custom_op("areal::merged_linear_backward", mutates_args=())
def _product_backward(
    of_y: torch.Tensor, a: torch.Tensor, b: torch.Tensor, lies_other_way: bool, parts: Sequence[torch.Tensor]
) -> torch.Tensor:
    """Return the gradient of x."""
    return of_y @ _whole(a, b, lies_other_way, parts, of_y.dtype)


@_product_backward.register_fake
def _(of_y: Any, a: Any, b: Any, lies_other_way: bool, parts: Any) -> torch.Tensor:
    return of_y.new_empty(*of_y.shape[:-1], b.shape[0] if lies_other_way else a.shape[1])


def _keep(ctx: Any, inputs: Any, output: Any) -> None:
    x, _, a, b, ctx.lies_other_way, parts = inputs
    ctx.save_for_backward(x, a, b, *parts)


def _differentiate(ctx: Any, of_y: torch.Tensor) -> tuple[Any, ...]:
    x, a, b, *parts = ctx.saved_tensors
    of_x = _product_backward(of_y, a, b, ctx.lies_other_way, parts) if ctx.needs_input_grad[0] else None
    # The gradient of the full weight would be rowsᵀ·columns; it is never computed.
    rows, columns = of_y.reshape(-1, of_y.shape[-1]), x.reshape(-1, x.shape[-1])
    if ctx.lies_other_way:
        rows, columns = columns, rows
    of_a = (rows @ b.to(rows.dtype)).t() @ columns
    of_b = rows.t() @ (columns @ a.t().to(columns.dtype))
    return of_x, None, of_a.to(a.dtype), of_b.to(b.dtype), None, [None] * len(parts)


_product.register_autograd(_differentiate, setup_context=_keep)
