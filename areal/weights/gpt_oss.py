"""The experts of GPT-OSS, one by one, as vLLM takes them while an engine runs.

A checkpoint has those of a layer in one tensor. vLLM's model copies that one past the loaders of its
parameters, which are not there while weights are updated layer by layer; of one expert it calls them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

import torch

_EXPERTS = re.compile(r"(.*\.mlp\.experts)\.((?:gate_up|down)_proj(?:_bias)?)")


def takes_experts_one_by_one(model: torch.nn.Module) -> bool:
    """Return whether a model of vLLM's is GPT-OSS, in a release that knows experts one by one."""
    return any(type(module).__name__ == "GptOssRoutedExperts" for module in model.modules())


def one_by_one(tensors: Iterable[tuple[str, torch.Tensor]]) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield tensors, of a layer's experts each under a name of its own."""
    for name, tensor in tensors:
        if (found := _EXPERTS.fullmatch(name)) is None:
            yield name, tensor
        else:
            yield from ((f"{found[1]}.{number}.{found[2]}", each) for number, each in enumerate(tensor))
