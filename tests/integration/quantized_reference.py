"""What an FP8 engine computes, by transformers: linear layers with rounded weights and activations."""

from __future__ import annotations

import copy
from typing import Any

import torch

from areal.rollout.engine import Completion

_LARGEST = torch.finfo(torch.float8_e4m3fn).max


def rounded(model: torch.nn.Module) -> torch.nn.Module:
    """Return a copy in float64 of a model whose weights were sent in bfloat16."""
    return copy.deepcopy(model).bfloat16().double()


def quantized(model: torch.nn.Module) -> torch.nn.Module:
    """Return a copy, too, whose linear layers but the output layer compute as in FP8.

    Each row of a weight, and each token's activations, have one scale.
    """
    made: Any = rounded(model)
    for layer in made.modules():
        if isinstance(layer, torch.nn.Linear) and layer is not made.get_output_embeddings():
            layer.weight.data = to_fp8(layer.weight.data)
            layer.register_forward_pre_hook(lambda _, given: (to_fp8(given[0]), *given[1:]))
    return made


def to_fp8(tensor: torch.Tensor) -> torch.Tensor:
    """Round to FP8 with one scale for each row."""
    scale = (tensor.abs().amax(-1, keepdim=True).float() / _LARGEST).clamp(min=1 / (_LARGEST * 512))
    found = (tensor.float() / scale).clamp(-_LARGEST, _LARGEST).to(torch.float8_e4m3fn)
    return (found.float() * scale).to(tensor.dtype)


@torch.no_grad()
def errors(model: torch.nn.Module, prompt: list[int], completion: Completion) -> torch.Tensor:
    """Return how far each of an engine's log-probabilities is from a model's."""
    ids = torch.tensor(completion.ids)
    logits = model(torch.tensor([prompt + completion.ids])).logits[0, len(prompt) - 1 : -1]
    found = torch.log_softmax(logits, -1).gather(1, ids[:, None])[:, 0]
    return (found - torch.tensor(completion.logprobs)).abs()
