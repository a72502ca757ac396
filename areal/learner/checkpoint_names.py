"""Yields weights with the names and shapes of a model's checkpoints, as engines and files need them.

In memory, transformers stores some weights in another form: the experts of a layer in one tensor, or under
other names. It can reverse this, because it writes checkpoints in their original form. This module reverses
it part by part, so that memory holds at most one layer twice.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator
from typing import Any

import torch

_LAYER = re.compile(r"(.*?\.\d+)\.")
"""The start of a name, up to the number of its layer."""


def as_in_checkpoints(
    model: Any, weights: Iterable[tuple[str, torch.Tensor]]
) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield weights with the names and shapes of the model's checkpoints.

    Args:
        weights: all weights, with the model's own names, in its order, and not sharded.
    """
    from transformers.core_model_loading import revert_weight_conversion

    if not model._weight_conversions:  # the conversions that were applied when it was loaded
        yield from weights
        return
    for _, part in itertools.groupby(weights, key=lambda pair: _layer(pair[0])):
        yield from revert_weight_conversion(model, dict(part)).items()


def kept_buffers(model: torch.nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the buffers that a checkpoint contains in addition to the parameters."""
    for path, module in model.named_modules():
        for name, buffer in module.named_buffers(recurse=False):
            if name not in module._non_persistent_buffers_set:
                yield f"{path}.{name}" if path else name, buffer


def _layer(name: str) -> str:
    found = _LAYER.match(name)
    return found[1] if found else name
