"""Low-rank adapters (LoRA, arXiv 2106.09685): the model stays as it is; each layer has a small product added.

The layers are peft's. This file adds what a learner needs: whole weights, as if all had been trained, and
the model without its adapter. Neither ever writes to a weight, so nothing drifts.
"""

from __future__ import annotations

import copy
import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from areal.errors import UserError, install_hint
from areal.factors import A, B
from areal.learner.parallelize import full

_NAME = "default"
_SAMPLE = 2**16
"""Numbers of a weight."""
_TOWER = r".*\bvisual\b.*"
"""The layers of a vision tower, which is frozen (areal.learner.sight)."""


def require_peft() -> None:
    """Check that peft is installed; raises UserError if it is not."""
    if importlib.util.find_spec("peft") is None:
        raise UserError(f"learner.lora_rank needs peft: {install_hint('lora')}")


def adapt(model: Any, rank: int) -> None:
    """Freeze a model and add adapters of this rank to all its linear layers but the output layer, in place.

    The experts of a mixture, which are one tensor for each layer, are no such layers; see :func:`_targets`.

    Their scale is 2 (``lora_alpha`` is twice the rank), so that the learning rate need not follow the rank.
    They begin with no effect, and always with the same random part, so that a run can be repeated.

    Raises:
        UserError: peft is not installed.
    """
    require_peft()
    from peft import LoraConfig, inject_adapter_in_model

    config = LoraConfig(
        r=rank,
        lora_alpha=2 * rank,
        target_modules=_targets(model),
        exclude_modules=_TOWER if hasattr(model.base_model, "visual") else None,
        lora_dropout=0.0,
        task_type="CAUSAL_LM",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        inject_adapter_in_model(config, model, adapter_name=_NAME)


def _targets(model: Any) -> str | list[str]:
    """Return which layers are adapted; where there are experts, peft's word for all means them, too.

    So does the name of one of their layers in checkpoints, as shared experts and dense layers have it, too:
    those stay as they are.
    """
    if not any(len(parameter.shape) == 3 for parameter in model.parameters()):
        return "all-linear"
    head = model.get_output_embeddings()
    patterns = [name for part in model._weight_conversions or () for name in part.source_patterns]
    taken = {name.removesuffix(".weight").rpartition(".")[2] for name in patterns if ".experts." in name}
    return [
        path
        for path, layer in model.named_modules()
        # By exact type: a router that builds on it returns more than its products.
        if type(layer) is torch.nn.Linear and layer is not head and path.rpartition(".")[2] not in taken
    ]


@torch.no_grad()
def merged_parameters(model: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the weights that the adapted model amounts to, under the names of one without adapters."""
    layers = bases(model)
    for name, weight in base_parameters(model):
        if (layer := layers.get(name)) is not None:
            change = full(layer.lora_B[_NAME].weight) @ full(layer.lora_A[_NAME].weight)
            weight = weight + (change.T if layer.fan_in_fan_out else change) * layer.scaling[_NAME]
        yield name, weight


@torch.no_grad()
def base_parameters(model: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the weights that the model had before it was adapted, under their names then."""
    for name, parameter in model.named_parameters():
        if ".lora_" not in name:
            yield name.replace(".base_layer.", "."), full(parameter.detach())


def bases(model: Any) -> dict[str, Any]:
    """Return the adapted layers by the name that their weight has in one without adapters."""
    from peft.tuners.lora import LoraLayer

    return {f"{path}.weight": layer for path, layer in model.named_modules() if isinstance(layer, LoraLayer)}


def exact_types(model: Any) -> set[torch.dtype]:
    """Return the types in which the adapted layers' own weights are what they are in float32.

    A sample of each is looked at: weights of another type would not all end in zeros by chance.
    """
    samples = [layer.weight.detach().flatten()[:_SAMPLE] for layer in bases(model).values()]
    narrow = (torch.bfloat16, torch.float16)
    return {torch.float32, *(t for t in narrow if all(bool((s.to(t).float() == s).all()) for s in samples))}


@torch.no_grad()
def factors(model: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield what each adapted weight has changed by, as :mod:`areal.factors` wants it."""
    for name, layer in bases(model).items():
        a, b = full(layer.lora_A[_NAME].weight), full(layer.lora_B[_NAME].weight) * layer.scaling[_NAME]
        yield (name + A, b.T.contiguous()) if layer.fan_in_fan_out else (name + A, a)
        yield (name + B, a.T.contiguous()) if layer.fan_in_fan_out else (name + B, b)


@contextmanager
def without_adapter(model: Any) -> Iterator[None]:
    """Within, the model computes what it did before it was adapted."""
    from peft.tuners.lora import LoraLayer

    layers = [layer for layer in model.modules() if isinstance(layer, LoraLayer)]
    for layer in layers:
        layer.set_scale(_NAME, 0.0)
    try:
        yield
    finally:
        for layer in layers:
            layer.set_scale(_NAME, 1.0)


def adapter_of(model: Any) -> dict[str, torch.Tensor]:
    """Return the adapter's weights, whole, under the names that peft gives them in its files."""
    return {
        f"base_model.model.{name.replace(f'.{_NAME}.', '.')}": full(parameter.detach())
        for name, parameter in model.named_parameters()
        if ".lora_" in name
    }


def write_adapter(folder: Path, model: Any, base: str, weights: dict[str, torch.Tensor]) -> None:
    """Write an adapter in peft's format.

    Args:
        base: folder or hub id of the model without it.
        weights: as :func:`adapter_of` gives them, on the CPU.
    """
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    save_file(weights, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    config = copy.copy(model.peft_config[_NAME])
    config.base_model_name_or_path, config.inference_mode = base, True
    config.save_pretrained(folder)
