"""Weights that change by low-rank factors alone: the base travels once, the factors with each version.

Of an adapted weight (areal.learner.lora) a version is W + B·A. What is laid out for it is W under its name,
and the factors under names of their own; who loads it multiplies. The sum is made in float32 and rounded once
to the type of W: where W was in that type already, the learner would have made the same of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

A, B = ":A", ":B"
"""What the names of the factors end with: that of their weight comes before it."""


def is_factor(name: str) -> bool:
    """Return whether a tensor of that name is a factor of another one's change."""
    return name.endswith((A, B))


@torch.no_grad()
def merged(tensors: Sequence[tuple[str, torch.Tensor]]) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield whole weights, in their order.

    Args:
        tensors: weights ``[out, in]`` and whatever else; behind them, for some, ``A [rank, in]`` and
            ``B [out, rank]`` in float32.
    """
    found = dict(tensors)
    for name, tensor in tensors:
        if is_factor(name):
            continue
        if (b := found.get(name + B)) is not None:
            tensor = (b @ found[name + A]).add_(tensor).to(tensor.dtype)
        yield name, tensor
