"""Weights that change only by low-rank factors: the base is sent once, the factors with each version.

A version of an adapted weight (areal.learner.lora) is W + B·A. The layout lists W under its own name, or the
parts of a quantized W (areal.nf4), and the factors under other names. The receiver computes W + B·A in
float32 and rounds it once. The learner computes with the same weights.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from areal import nf4

A, B = ":A", ":B"
"""Suffixes of the names of the factors; the name of their weight precedes them."""


def is_factor(name: str) -> bool:
    """Return whether a tensor of that name is a factor of another one."""
    return name.endswith((A, B))


def is_part(name: str) -> bool:
    """Return whether a tensor of that name is only a part of a weight, which keeps its data type."""
    return is_factor(name) or name.endswith(nf4.PARTS)


def merge(weight: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Return W + B·A in float32; W is ``[out, in]``, A ``[rank, in]`` and B ``[out, rank]``."""
    return (b @ a).add_(weight)


@torch.no_grad()
def merged(tensors: Sequence[tuple[str, torch.Tensor]]) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield complete weights, in their order.

    A weight with a quantized base is float32; the code that loads it rounds it.

    Args:
        tensors: weights, parts of quantized weights, and the factors of some weights.
    """
    found = dict(tensors)
    for name, tensor in tensors:
        stem = name.removesuffix(nf4.PARTS[0])
        if stem != name:
            weight = nf4.dequantized(*(found[stem + part] for part in nf4.PARTS))
            yield stem, merge(weight, found[stem + A], found[stem + B])
        elif is_part(name):
            continue
        elif (b := found.get(name + B)) is not None:
            yield name, merge(tensor, found[name + A], b).to(tensor.dtype)
        else:
            yield name, tensor
