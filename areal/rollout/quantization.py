"""FP8 weights in an engine: the settings for vLLM, and the resulting types of its layers.

vLLM quantizes weights as it loads them, layer by layer, at its start and at each update. Each output channel
of a linear layer and of experts has one scale, which only depends on its weights; so do the activations of
each token. The sampling distribution is therefore a function of the sent weights, regardless of how they
arrived; adapters are merged before (areal.factors). Routers keep their type, because a rounded score sends a
token to other experts.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import torch

Quantization = Literal["fp8"]
Layer = tuple[str, str, str]
"""A layer's path, its kind, and the type of its weights."""

FP8 = "float8_e4m3fn"
_ROUTER = r".*\.(gate|router|shared_expert_gate)$"
_MEANT = "linear", "experts"
"""Kinds of layers that should be quantized."""
_SHOWN = 4
"""Maximum number of layers that the summary names."""


def arguments() -> dict[str, Any]:
    """Return vLLM's engine arguments for weights in FP8."""
    return {"quantization": "fp8_per_channel", "quantization_config": {"ignore": [f"re:{_ROUTER}"]}}


def layers_of(model: torch.nn.Module) -> Iterator[Layer]:
    """Yield a model's layers with weights, in vLLM's worker."""
    for path, module in model.named_modules():
        own = dict(module.named_parameters(recurse=False))
        types = {p.dtype for name, p in own.items() if name.endswith("weight")}
        if types:
            yield path, _kind(path, module), "+".join(sorted(str(t).removeprefix("torch.") for t in types))


def _kind(path: str, module: torch.nn.Module) -> str:
    import torch
    from vllm.model_executor.layers.fused_moe import RoutedExperts
    from vllm.model_executor.layers.linear import LinearBase
    from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead, VocabParallelEmbedding

    if isinstance(module, (LinearBase, torch.nn.Linear)):
        return "router" if re.fullmatch(_ROUTER, path) else "linear"
    kinds = {RoutedExperts: "experts", ParallelLMHead: "output layer", VocabParallelEmbedding: "embedding"}
    return next((kind for known, kind in kinds.items() if isinstance(module, known)), "other")


def summary(layers: Sequence[Layer]) -> str:
    """Return, in one line, how many layers of each kind have which type, and which ones are not quantized."""
    counts = Counter((kind, dtype) for _, kind, dtype in layers)
    line = ", ".join(f"{count} {kind} {dtype}" for (kind, dtype), count in counts.items())
    if not (names := not_quantized(layers)):
        return line
    shown = ", ".join(names[:_SHOWN])
    rest = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{line}; warning: vLLM has not quantized {shown}{rest}"


def not_quantized(layers: Sequence[Layer]) -> list[str]:
    """Return the layers that should be quantized but are not."""
    return [path for path, kind, dtype in layers if kind in _MEANT and dtype != FP8]
