"""The weight receiver of an engine, and which models are loaded in place."""

from __future__ import annotations

from typing import Any

import torch
from vllm.config.quantization import resolve_quantization_config
from vllm.model_executor.layers.linear import UnquantizedLinearMethod
from vllm.model_executor.layers.quantization.compressed_tensors.utils import should_ignore_layer
from vllm.model_executor.layers.vocab_parallel_embedding import UnquantizedEmbeddingMethod
from vllm.model_executor.model_loader.reload import (
    initialize_layerwise_reload,
    record_metadata_for_reloading,
)

from areal.rollout.quantization import arguments
from areal.weights.expert_kernels import put_back, quantized_expert_kernels
from areal.weights.receiver import load_in_place, loads_in_place, own_parameters, poison, poisoned

CUDA = torch.device("cuda", 0)


class Packing(UnquantizedLinearMethod):
    """Builds on the plain method, and may do anything to the weights."""


class Deriving(torch.nn.Module):
    """Makes something of its weights once they are loaded, as MLA does."""

    def process_weights_after_loading(self, dtype: torch.dtype) -> None: ...


def layer(method: type) -> torch.nn.Module:
    made: Any = torch.nn.Module()
    made.quant_method = object.__new__(method)
    return made


def model(*layers: torch.nn.Module) -> torch.nn.Module:
    plain = [layer(UnquantizedLinearMethod), layer(UnquantizedEmbeddingMethod), torch.nn.LayerNorm(4)]
    return torch.nn.Sequential(*plain, torch.nn.Sequential(*layers))


def test_only_plain_layers_on_a_gpu_are_loaded_in_place():
    assert loads_in_place(model(), CUDA)
    assert not loads_in_place(model(), torch.device("cpu")), "a CPU's kernels pack the weights"
    assert not loads_in_place(model(layer(Packing)), CUDA)
    assert not loads_in_place(model(Deriving()), CUDA)


def test_vllm_is_to_quantize_linear_layers_and_experts_but_no_routers():
    wanted = arguments()
    asked = resolve_quantization_config(wanted["quantization"], wanted["quantization_config"])
    assert asked is not None
    assert asked.linear is not None
    assert asked.moe is not None
    fused = {"qkv_proj": ["q_proj", "k_proj", "v_proj"], "gate_up_proj": ["gate_proj", "up_proj"]}
    kept = [
        name
        for name in ("qkv_proj", "mlp.gate_up_proj", "mlp.gate", "feed_forward.router", "mlp.experts")
        if should_ignore_layer(f"model.layers.0.{name}", asked.ignore, fused)
    ]
    assert kept == ["mlp.gate", "feed_forward.router"]


def test_the_kernels_of_quantized_experts_are_put_back_after_a_load():
    class Online(Packing):
        uses_meta_device = True
        moe_kernel, moe_quant_config = "kernel", "scales"

    made = model(layer(Online), layer(Packing))
    kernels = quantized_expert_kernels(made)
    [method] = [method for method, _ in kernels]
    method.moe_kernel, method.moe_quant_config = "another", "others"
    put_back(kernels)
    assert (method.moe_kernel, method.moe_quant_config) == ("kernel", "scales")


def test_a_tied_parameter_has_several_names_and_what_a_load_left_out_shows():
    tied, other = torch.nn.Linear(4, 4, bias=False), torch.nn.Linear(4, 4)
    made: Any = torch.nn.ModuleDict({"embed": tied, "head": torch.nn.Linear(4, 4, bias=False), "mid": other})
    made["head"].weight = tied.weight
    record_metadata_for_reloading(made)
    made["mid"].weight_scale = torch.nn.Parameter(torch.ones(4))  # as vLLM does where it quantizes
    own = own_parameters(made.named_modules())
    assert [names for names, _ in own] == [["embed.weight", "head.weight"], ["mid.weight"], ["mid.bias"]]
    poison(own)
    assert poisoned(own) == {"embed.weight", "mid.weight", "mid.bias"}
    with torch.no_grad():
        tied.weight.fill_(1)
        other.weight[:2] = 0
        other.bias.fill_(0)
    assert poisoned(own) == {"mid.weight"}


def test_a_layer_that_is_taken_out_of_a_layerwise_reload_takes_all_weights_where_they_are():
    norm: Any = torch.nn.LayerNorm(4)
    record_metadata_for_reloading(norm)
    before = [norm.weight, norm.bias]
    initialize_layerwise_reload(norm)
    load_in_place([norm])
    for parameter in (norm.weight, norm.bias):
        parameter.weight_loader(parameter, torch.full((4,), 3.0))
    assert [norm.weight is before[0], norm.bias is before[1]] == [True, True]
    assert all((parameter == 3).all() for parameter in before)
