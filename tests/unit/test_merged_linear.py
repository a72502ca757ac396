"""A layer computes with its merged weight, and its gradients are the product rule's."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model
from transformers.pytorch_utils import Conv1D

from areal import nf4
from areal.factors import merge
from areal.learner.merged_linear import QuantizedBase, compute_merged, scaled_factors
from areal.placement.memory import NF4

IN, OUT, RANK = 24, 40, 3


def adapted(kind: str, quantized: bool) -> Any:
    torch.manual_seed(0)
    layer: Any = torch.nn.Linear(IN, OUT) if kind == "linear" else Conv1D(OUT, IN)
    torch.nn.init.normal_(layer.bias)
    model = torch.nn.Sequential(layer)
    config = LoraConfig(r=RANK, lora_alpha=8, target_modules=["0"], fan_in_fan_out=kind != "linear")
    found: Any = inject_adapter_in_model(config, model)[0]
    torch.nn.init.normal_(found.lora_B.default.weight)
    if quantized:
        pytest.importorskip("bitsandbytes")
        found.base_layer = QuantizedBase(found.base_layer, torch.device("cpu"))
    compute_merged(found)
    return found


@pytest.mark.parametrize("quantized", [False, True])
@pytest.mark.parametrize("kind", ["linear", "conv1d"])
def test_products_and_gradients_are_those_of_the_merged_weight(kind: str, quantized: bool):
    layer = adapted(kind, quantized)
    weights = [layer.lora_A.default.weight, layer.lora_B.default.weight]
    x, of_y = torch.randn(1, 7, IN, requires_grad=True), torch.randn(1, 7, OUT)
    ours = layer(x)
    found = torch.autograd.grad(ours, [x, *weights], of_y)
    change = weights[1] @ weights[0] * (8 / RANK)
    base = layer.base_layer.weight.float()
    theirs = x @ (base + change.t() if kind == "conv1d" else (base + change).t()) + layer.base_layer.bias
    torch.testing.assert_close(ours, theirs)
    for one, other in zip(found, torch.autograd.grad(theirs, [x, *weights], of_y), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("quantized", [False, True])
@pytest.mark.parametrize("kind", ["linear", "conv1d"])
def test_compiled_layers_keep_no_merged_weight(kind: str, quantized: bool):
    """Of all layers, they would take as much memory as the model."""
    layers = [adapted(kind, quantized) for _ in range(2)]
    torch._dynamo.reset()
    saved: list[torch.Tensor] = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        saved.append(tensor)
        return tensor

    def run(x: torch.Tensor) -> torch.Tensor:
        return layers[1](layers[0](x)[..., :IN]).relu()

    compiled = torch.compile(run, backend="aot_eager_decomp_partition", fullgraph=True)
    x = torch.randn(7, IN, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        found = compiled(x)
    own = {t.data_ptr() for layer in layers for t in [*layer.parameters(), *layer.buffers()]}
    kept = [t for t in saved if t.numel() >= IN * OUT and t.data_ptr() not in own]
    assert saved
    assert not kept
    ours = torch.autograd.grad(found.sum(), [x, layers[0].lora_A.default.weight])
    theirs = torch.autograd.grad(run(x).sum(), [x, layers[0].lora_A.default.weight])
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("quantized", [False, True])
def test_in_16_bits_the_weight_is_rounded_once_and_no_factor_is(quantized: bool):
    layer = adapted("linear", quantized)
    if not quantized:
        layer.base_layer.weight.data = layer.base_layer.weight.data.bfloat16()
    layer.base_layer.bias.data = layer.base_layer.bias.data.bfloat16()
    x = torch.randn(5, IN).bfloat16()
    a, b = scaled_factors(layer)
    whole = merge(layer.base_layer.weight, a, b).bfloat16()
    assert torch.equal(layer(x), torch.nn.functional.linear(x, whole, layer.base_layer.bias))
    layer(x).sum().backward()
    assert layer.lora_A.default.weight.grad.dtype == torch.float32


def test_four_bits_hold_a_weight_as_bitsandbytes_dequantizes_it():
    functional = pytest.importorskip("bitsandbytes.functional")
    torch.manual_seed(0)
    weight = torch.randn(300, 520)  # the last blocks, of numbers and of scales, are not full
    parts = nf4.quantized(weight)
    packed, state = functional.quantize_4bit(weight, quant_type="nf4", compress_statistics=True)
    found = nf4.dequantized(*parts)
    assert torch.equal(found, functional.dequantize_4bit(packed, state).bfloat16())
    assert (found - weight).abs().mean() < 0.08, "a sixteenth of the range, and a normal distribution"
    assert sum(part.nbytes for part in parts) == pytest.approx(NF4 * weight.numel(), rel=1e-2)
