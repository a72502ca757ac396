"""Weights that change by low-rank factors alone: the base travels once, the factors with each version.

Of an adapted weight (areal.learner.lora) a version is W + B·A. What is laid out for it is W under its name,
or the parts that make a quantised W (areal.nf4), and the factors under names of their own; who loads it
multiplies. The sum is made in float32 and rounded once: the learner computes with the same weights.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from areal import nf4

A, B = ":A", ":B"
"""What the names of the factors end with: that of their weight comes before it."""


def is_factor(name: str) -> bool:
    """Return whether a tensor of that name is a factor of another one's change."""
    return name.endswith((A, B))


def is_part(name: str) -> bool:
    """Return whether a tensor of that name is no weight by itself, and keeps its type."""
    return is_factor(name) or name.endswith(nf4.PARTS)


def merge(weight: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Return W + B·A in float32; W is ``[out, in]``, A ``[rank, in]`` and B ``[out, rank]``."""
    return (b @ a).add_(weight)


@torch.no_grad()
def merged(tensors: Sequence[tuple[str, torch.Tensor]]) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield whole weights, in their order.

    One whose base is quantised is in float32: who loads it rounds it.

    Args:
        tensors: weights and whatever else; behind them, for some, their factors.
    """
    found = dict(tensors)
    for name, tensor in tensors:
        stem = name.removesuffix(nf4.PARTS[0])
        if stem != name:
            weight = nf4.dequantised(*(found[stem + part] for part in nf4.PARTS))
            yield stem, merge(weight, found[stem + A], found[stem + B])
        elif is_part(name):
            continue
        elif (b := found.get(name + B)) is not None:
            yield name, merge(tensor, found[name + A], b).to(tensor.dtype)
        else:
            yield name, tensor
