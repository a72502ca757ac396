"""The weight receiver of an engine, and which models are loaded in place."""

from __future__ import annotations

from typing import Any

import torch
from vllm.model_executor.layers.linear import UnquantizedLinearMethod
from vllm.model_executor.layers.vocab_parallel_embedding import UnquantizedEmbeddingMethod

from areal.weights.receiver import loads_in_place, own_parameters, poison, poisoned

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


def test_a_tied_parameter_has_several_names_and_what_a_load_left_out_shows():
    tied, other = torch.nn.Linear(4, 4, bias=False), torch.nn.Linear(4, 4)
    made: Any = torch.nn.ModuleDict({"embed": tied, "head": torch.nn.Linear(4, 4, bias=False), "mid": other})
    made["head"].weight = tied.weight
    own = own_parameters(made)
    assert [names for names, _ in own] == [["embed.weight", "head.weight"], ["mid.weight"], ["mid.bias"]]
    poison(own)
    assert poisoned(own) == {"embed.weight", "mid.weight", "mid.bias"}
    with torch.no_grad():
        tied.weight.fill_(1)
        other.weight[:2] = 0
        other.bias.fill_(0)
    assert poisoned(own) == {"mid.weight"}
