"""Low-rank adapters (LoRA, arXiv 2106.09685): the model stays as it is; each layer has a small product added.

The layers are peft's; areal.learner.merged_linear says how they compute. This file adds what a learner needs:
whole weights, as if all had been trained, and the model without its adapter. Neither ever writes to a weight,
so nothing drifts.

The base is frozen, so it needs no float32: it is held in the type that is computed in, or in 4 bits
(areal.nf4). The factors are float32.
"""

from __future__ import annotations

import copy
import importlib.util
import itertools
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from areal import nf4
from areal.config import LearnerConfig
from areal.errors import UserError, install_hint
from areal.factors import A, B, merge
from areal.learner.merged_linear import QuantisedBase, compute_merged, scaled_factors
from areal.learner.parallelize import compute_dtype, full

_NAME = "default"
_SAMPLE = 2**16
"""Numbers of a weight."""
_SHOWN = 300
"""Characters of an error of peft's."""
_TOWER = r".*\bvisual\b.*"
"""The layers of a vision tower, which is frozen (areal.learner.sight)."""


def require_packages(settings: LearnerConfig) -> None:
    """Check that what adapters need is installed; raises UserError if it is not."""
    if importlib.util.find_spec("peft") is None:
        raise UserError(f"learner.lora_rank requires peft; install it with {install_hint('lora')}")
    if settings.base_precision == "nf4":
        nf4.require_bitsandbytes()


def adapt(model: Any, settings: LearnerConfig, device: torch.device) -> None:
    """Freeze a model and add adapters to its linear layers, in place; hold the base in little memory.

    All but the output layer are adapted, unless ``lora_options`` says which. The experts of a mixture, which
    are one tensor for each layer, are none of them; see :func:`_targets`.

    Adapters begin with no effect, and always with the same random part, so that a run can be repeated.

    Args:
        settings: what the adapters are like, and what the base is held in.
        device: where the model will be; a base in 4 bits is there at once.

    Raises:
        UserError: a package is not installed, or such adapters do not go with the model.
    """
    require_packages(settings)
    from peft import inject_adapter_in_model

    config = _config(model, settings)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        try:
            inject_adapter_in_model(config, model, adapter_name=_NAME)
        except ValueError as error:  # no layer is called so, or it is of a kind without adapters
            raise UserError(f"learner.lora_options: {' '.join(str(error).split())[:_SHOWN]}") from error
    _check(model, config)
    if settings.base_precision == "nf4":
        _check_base(model)
    dtype = compute_dtype(settings, device)
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad and ".base_layer.weight" not in name:
            parameter.data = parameter.data.to(dtype)
    for layer in bases(model).values():
        if settings.base_precision == "nf4":
            layer.base_layer = QuantisedBase(layer.base_layer, device)
        else:
            layer.base_layer.weight.data = layer.base_layer.weight.data.to(dtype)
        compute_merged(layer, _NAME)


def _config(model: Any, settings: LearnerConfig) -> Any:
    """Return peft's configuration of the adapters.

    Their scale is 2 (``lora_alpha`` is twice the rank) where nothing is said, so that the learning rate need
    not follow the rank.
    """
    from peft import LoraConfig

    options: dict[str, Any] = dict(settings.lora_options)
    if "lora_alpha" not in options:
        twice = {name: 2 * rank for name, rank in options.get("rank_pattern", {}).items()}
        options["alpha_pattern"] = twice | options.get("alpha_pattern", {})
    return LoraConfig(
        **{
            "r": settings.lora_rank,
            "lora_alpha": 2 * settings.lora_rank,
            "target_modules": _targets(model),
            "exclude_modules": _TOWER if hasattr(model.base_model, "visual") else None,
            "lora_dropout": 0.0,
            "task_type": "CAUSAL_LM",
            **options,
        }
    )


def _check(model: Any, config: Any) -> None:
    """Check that what was adapted is what the learner computes.

    Raises:
        UserError: it is not, or a rank or scale was given for a layer that there is not.
    """
    from peft.tuners.lora import Linear, LoraLayer

    adapted = {path: layer for path, layer in model.named_modules() if isinstance(layer, LoraLayer)}
    head = model.get_output_embeddings()
    for path, layer in adapted.items():
        if type(layer) is not Linear or layer is head:
            raise UserError(
                f"learner.lora_options.target_modules: {path} is adapted, but areal adapts linear layers, "
                "no embeddings, no experts and not the output layer; leave it out"
            )
    for key in itertools.chain(config.rank_pattern, config.alpha_pattern):
        if not any(re.match(rf"(.*\.)?({key})$", path) for path in adapted):  # as peft does
            raise UserError(
                f"learner.lora_options: '{key}' is no adapted layer; they are such as {next(iter(adapted))}"
            )


def _check_base(model: Any) -> None:
    """Check that the weights of a model can be held in 4 bits; raises UserError if they cannot."""
    if any(len(parameter.shape) == 3 for parameter in model.parameters()):
        raise UserError(
            "learner.base_precision=nf4 holds linear layers in 4 bits, and most weights of this model are "
            "experts, which are none: leave it out, or take a dense model"
        )
    if any(layer.base_layer.weight.shape[1] % 2 for layer in bases(model).values()):
        raise UserError("learner.base_precision=nf4: a layer of this model has an odd width; leave it out")


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
    """Yield the weights that the adapted model amounts to, under the names of one without adapters.

    Those that are adapted are in float32, as their sum is made.
    """
    layers = bases(model)
    for name, parameter in base_tensors(model):
        stem = name.removesuffix(nf4.PARTS[0])
        if (layer := layers.get(stem)) is not None:
            a, b = scaled_factors(layer, _NAME)
            yield stem, merge(full(layer.base_layer.weight.detach()), full(a), full(b))
        elif not name.endswith(nf4.PARTS):
            yield name, full(parameter.detach()).float()


def base_tensors(model: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield what the model without its adapter is held in: the tensors themselves, tied ones once.

    They have the names that they had before it was adapted; of a quantised weight it is its parts.
    """
    seen = set[int]()
    for path, module in model.named_modules():
        stem = path.replace(".base_layer", "")
        own = dict(module.named_parameters(recurse=False)) if ".lora_" not in path else {}
        names = {f"{stem}.{name}" if stem else name: parameter for name, parameter in own.items()}
        if isinstance(module, QuantisedBase):
            names |= zip((f"{stem}.weight{part}" for part in nf4.PARTS), module.parts, strict=True)
        yield from ((name, tensor) for name, tensor in names.items() if id(tensor) not in seen)
        seen |= {id(tensor) for tensor in own.values()}


def bases(model: Any) -> dict[str, Any]:
    """Return the adapted layers by the name that their weight has in one without adapters."""
    from peft.tuners.lora import LoraLayer

    return {f"{path}.weight": layer for path, layer in model.named_modules() if isinstance(layer, LoraLayer)}


def exact_types(model: Any) -> set[torch.dtype]:
    """Return the types in which the adapted layers' own weights are what they are in float32.

    A sample of each is looked at: weights of another type would not all end in zeros by chance.
    """
    samples = [layer.base_layer.weight.detach().flatten()[:_SAMPLE] for layer in bases(model).values()]
    narrow = (torch.bfloat16, torch.float16)
    return {torch.float32, *(t for t in narrow if all(bool((s.to(t).float() == s).all()) for s in samples))}


@torch.no_grad()
def factors(model: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield what each adapted weight has changed by, as :mod:`areal.factors` wants it."""
    for name, layer in bases(model).items():
        for part, tensor in zip((A, B), scaled_factors(layer, _NAME), strict=True):
            yield name + part, full(tensor).contiguous()


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
