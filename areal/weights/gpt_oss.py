"""Splits the experts of GPT-OSS into single experts, which vLLM can load while an engine runs.

A checkpoint has all experts of a layer in one tensor. vLLM's model copies that tensor without the parameters'
loaders, and the parameters do not exist while weights are updated layer by layer. For a single expert, it
calls the loaders.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

import torch

_EXPERTS = re.compile(r"(.*\.mlp\.experts)\.((?:gate_up|down)_proj(?:_bias)?)")


def takes_experts_one_by_one(model: torch.nn.Module) -> bool:
    """Return whether a model of vLLM is GPT-OSS, in a release that loads single experts."""
    return any(type(module).__name__ == "GptOssRoutedExperts" for module in model.modules())


def one_by_one(tensors: Iterable[tuple[str, torch.Tensor]]) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the tensors, with each of a layer's experts under its own name."""
    for name, tensor in tensors:
        if (found := _EXPERTS.fullmatch(name)) is None:
            yield name, tensor
        else:
            yield from ((f"{found[1]}.{number}.{found[2]}", each) for number, each in enumerate(tensor))
