"""Low-rank adapters (LoRA, arXiv 2106.09685): the model is frozen, and each layer adds a small product.

The layers are those of peft; areal.learner.merged_linear describes their computation. This module adds what a
learner needs: all weights of the adapted model, as if they were trained, and the model without its adapter.
Neither ever writes to a weight, so no error accumulates.

The base is frozen, so it needs no float32: it is stored in the compute type, or in 4 bits (areal.nf4). The
factors are float32.
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
from areal.learner.merged_linear import ADAPTER, QuantizedBase, compute_merged, scaled_factors
from areal.learner.parallelize import compute_dtype, full

_SAMPLE = 2**16
"""Number of values of a weight in a sample."""
_SHOWN = 300
"""Maximum number of characters that are shown of an error of peft."""
_TOWER = r".*\bvisual\b.*"
"""Pattern of the layers of a vision tower, which is frozen (areal.learner.sight)."""


def require_packages(settings: LearnerConfig) -> None:
    """Check that the packages for adapters are installed; raises UserError if they are not."""
    if importlib.util.find_spec("peft") is None:
        raise UserError(f"learner.lora_rank requires peft; install it with {install_hint('lora')}")
    if settings.base_precision == "nf4":
        nf4.require_bitsandbytes()


def adapt(model: Any, settings: LearnerConfig, device: torch.device) -> None:
    """Freeze a model and add adapters to its linear layers, in place; store the base in little memory.

    All linear layers except the output layer are adapted, unless ``lora_options`` selects others. The experts
    of a mixture, which are one tensor per layer, are not adapted; see :func:`_targets`.

    Adapters have no effect at first. Their random part is always the same, so that a run is reproducible.

    Args:
        settings: settings of the adapters, and the precision of the base.
        device: the later device of the model; a base in 4 bits moves there immediately.

    Raises:
        UserError: a package is not installed, or the model does not support such adapters.
    """
    require_packages(settings)
    from peft import inject_adapter_in_model

    config = _config(model, settings)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        try:
            inject_adapter_in_model(config, model, adapter_name=ADAPTER)
        except ValueError as error:  # no layer has this name, or its type has no adapters
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
            layer.base_layer = QuantizedBase(layer.base_layer, device)
        else:
            layer.base_layer.weight.data = layer.base_layer.weight.data.to(dtype)
        compute_merged(layer)


def _config(model: Any, settings: LearnerConfig) -> Any:
    """Return peft's configuration of the adapters.

    The default scale is 2 (``lora_alpha`` is twice the rank), so that the learning rate does not depend on
    the rank.
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
    """Check that areal can compute the adapted layers.

    Raises:
        UserError: it cannot, or a rank or scale is given for a layer that does not exist.
    """
    from peft.tuners.lora import Linear, LoraLayer

    adapted = {path: layer for path, layer in model.named_modules() if isinstance(layer, LoraLayer)}
    head = model.get_output_embeddings()
    for path, layer in adapted.items():
        if type(layer) is not Linear or layer is head:
            raise UserError(
                f"learner.lora_options.target_modules selects {path}, but areal adapts only linear layers, "
                "not embeddings, experts or the output layer; remove it"
            )
    for key in itertools.chain(config.rank_pattern, config.alpha_pattern):
        if not any(re.match(rf"(.*\.)?({key})$", path) for path in adapted):  # the same matching as in peft
            raise UserError(
                f"learner.lora_options: '{key}' is not an adapted layer; use a name such as "
                f"{next(iter(adapted))}"
            )


def _check_base(model: Any) -> None:
    """Check that the weights of a model can be stored in 4 bits; raises UserError if they cannot."""
    if any(len(parameter.shape) == 3 for parameter in model.parameters()):
        raise UserError(
            "learner.base_precision=nf4 stores only linear layers in 4 bits, but most weights of this model "
            "are experts; remove it, or use a dense model"
        )
    if any(layer.base_layer.weight.shape[1] % 2 for layer in bases(model).values()):
        raise UserError("learner.base_precision=nf4: a layer of this model has an odd width; remove it")


def _targets(model: Any) -> str | list[str]:
    """Return the layers to adapt; if the model has experts, peft's "all-linear" would include them.

    So would the name of an expert's layer in checkpoints, which shared experts and dense layers have as well,
    so layers of that name are not adapted.
    """
    if not any(len(parameter.shape) == 3 for parameter in model.parameters()):
        return "all-linear"
    head = model.get_output_embeddings()
    patterns = [name for part in model._weight_conversions or () for name in part.source_patterns]
    taken = {name.removesuffix(".weight").rpartition(".")[2] for name in patterns if ".experts." in name}
    return [
        path
        for path, layer in model.named_modules()
        # The exact type, because a router that inherits from it returns more than its products.
        if type(layer) is torch.nn.Linear and layer is not head and path.rpartition(".")[2] not in taken
    ]


@torch.no_grad()
def merged_parameters(model: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the weights with the adapter merged, under the names of a model without adapters.

    The adapted weights are in float32, the type of their sum.
    """
    layers = bases(model)
    for name, parameter in base_tensors(model):
        stem = name.removesuffix(nf4.PARTS[0])
        if (layer := layers.get(stem)) is not None:
            a, b = scaled_factors(layer)
            yield stem, merge(full(layer.base_layer.weight.detach()), full(a), full(b))
        elif not name.endswith(nf4.PARTS):
            yield name, full(parameter.detach()).float()


def base_tensors(model: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the stored tensors of the model without its adapter: the tensors themselves, tied ones once.

    They have the names from before the adaptation; a quantized weight yields its parts.
    """
    seen = set[int]()
    for path, module in model.named_modules():
        stem = path.replace(".base_layer", "")
        own = dict(module.named_parameters(recurse=False)) if ".lora_" not in path else {}
        names = {f"{stem}.{name}" if stem else name: parameter for name, parameter in own.items()}
        if isinstance(module, QuantizedBase):
            names |= zip((f"{stem}.weight{part}" for part in nf4.PARTS), module.parts, strict=True)
        yield from ((name, tensor) for name, tensor in names.items() if id(tensor) not in seen)
        seen |= {id(tensor) for tensor in own.values()}


def bases(model: Any) -> dict[str, Any]:
    """Return the adapted layers by the name of their weight in a model without adapters."""
    from peft.tuners.lora import LoraLayer

    return {f"{path}.weight": layer for path, layer in model.named_modules() if isinstance(layer, LoraLayer)}


def exact_types(model: Any) -> set[torch.dtype]:
    """Return the types that represent the adapted layers' own weights exactly, as float32 does.

    A sample of each layer suffices: weights of another type would not all end in zeros by chance.
    """
    samples = [layer.base_layer.weight.detach().flatten()[:_SAMPLE] for layer in bases(model).values()]
    narrow = (torch.bfloat16, torch.float16)
    return {torch.float32, *(t for t in narrow if all(bool((s.to(t).float() == s).all()) for s in samples))}


@torch.no_grad()
def factors(model: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the change of each adapted weight as factors, in the form of :mod:`areal.factors`."""
    for name, layer in bases(model).items():
        for part, tensor in zip((A, B), scaled_factors(layer), strict=True):
            yield name + part, full(tensor).contiguous()


@contextmanager
def without_adapter(model: Any) -> Iterator[None]:
    """Let the model compute without its adapter within the context."""
    from peft.tuners.lora import LoraLayer

    layers = [layer for layer in model.modules() if isinstance(layer, LoraLayer)]
    for layer in layers:
        layer.set_scale(ADAPTER, 0.0)
    try:
        yield
    finally:
        for layer in layers:
            layer.set_scale(ADAPTER, 1.0)


def adapter_of(model: Any) -> dict[str, torch.Tensor]:
    """Return the adapter's weights, not sharded, with the names that peft uses in its files."""
    return {
        f"base_model.model.{name.replace(f'.{ADAPTER}.', '.')}": full(parameter.detach())
        for name, parameter in model.named_parameters()
        if ".lora_" in name
    }


def write_adapter(folder: Path, model: Any, base: str, weights: dict[str, torch.Tensor]) -> None:
    """Write an adapter in peft's format.

    Args:
        base: folder or hub id of the model without the adapter.
        weights: weights from :func:`adapter_of`, on the CPU.
    """
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    save_file(weights, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    config = copy.copy(model.peft_config[ADAPTER])
    config.base_model_name_or_path, config.inference_mode = base, True
    config.save_pretrained(folder)
