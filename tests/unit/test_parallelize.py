"""Precision, sharding and how layers run: what they may change, and what not."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from dummy_batches import batch
from transformers import AutoTokenizer, PhiConfig, PhiForCausalLM, Qwen2Config, Qwen2ForCausalLM

from areal.config import LearnerConfig
from areal.errors import UserError
from areal.learner.attention import (
    Kernel,
    flash4_kernel,
    flash_kernel,
    packed_attention,
    torch_kernel,
    varlen_kernel,
)
from areal.learner.learner import Learner
from areal.learner.model import load_model
from areal.learner.packed import pack
from areal.models import resolve_model
from areal.trajectory import Batch, Trajectory

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def made(device: str = "cpu", **settings: Any) -> tuple[Learner, list[dict[str, float]]]:
    """A learner after three updates, with their metrics."""
    config = LearnerConfig(minibatches=2, warmup_steps=0, micro_batch_tokens=256, **settings)
    learner = Learner(resolve_model("starter"), config, device, 1.0)
    return learner, [learner.update(batch(seed, groups=4)) for seed in range(3)]


def weights(learner: Learner) -> torch.Tensor:
    return torch.cat([p.flatten().cpu() for _, p in learner.named_parameters()])


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def plain() -> tuple[Learner, list[dict[str, float]]]:
    return made()


def test_activation_checkpointing_changes_nothing(plain):
    again, metrics = made(activation_checkpointing=True)
    assert torch.equal(weights(again), weights(plain[0]))
    assert [m["loss"] for m in metrics] == [m["loss"] for m in plain[1]]


@pytest.mark.parametrize("objective", ["decoupled-ppo", "ppo", "grpo"])
def test_bfloat16_computes_with_rounding_and_keeps_float32(objective: str):
    exact, of_exact = made(objective=objective)
    rounded, of_rounded = made(objective=objective, dtype="bfloat16")
    assert "bfloat16" in rounded.description
    names = [name for name, _ in exact.named_parameters()]
    assert [name for name, _ in rounded.named_parameters()] == names
    assert all(p.dtype == torch.float32 for _, p in rounded.named_parameters())
    for ours, theirs in zip(of_rounded, of_exact, strict=True):
        assert ours["policy/entropy"] == pytest.approx(theirs["policy/entropy"], rel=0.02)
        assert ours["grad_norm"] == pytest.approx(theirs["grad_norm"], rel=0.15)
        assert ours["loss"] != theirs["loss"]  # or it never computed in bfloat16
    # What three updates did is nearly the same, and far more than bfloat16 weights could even hold.
    start = torch.cat([p.flatten() for p in load_model(resolve_model("starter")).parameters()])
    with torch.no_grad():
        steps = weights(exact) - start, weights(rounded) - start
        assert float(torch.nn.functional.cosine_similarity(*steps, dim=0)) > 0.8


def test_in_bfloat16_too_the_cut_into_micro_batches_changes_nothing():
    """Gradients stay where they are from one micro-batch to the next: none may be lost."""
    norms = []
    for budget in (64, 4096):
        settings = LearnerConfig(objective="ppo", micro_batch_tokens=budget, dtype="bfloat16")
        learner = Learner(resolve_model("starter"), settings, "cpu", 1.0)
        norms.append(learner.update(batch(7, groups=4))["grad_norm"])
    assert norms[0] == pytest.approx(norms[1], rel=0.03)


def test_models_that_bend_their_logits_are_refused(tmp_path: Path):
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "vocab_size": 32}
    model = PhiForCausalLM(PhiConfig(**sizes, num_attention_heads=2))  # its output layer has a bias
    torch.nn.init.normal_(model.lm_head.bias)
    model.save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(resolve_model("starter")).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="such as with a bias"):
        load_model(str(tmp_path))


def test_fresh_tokens_tell_how_far_engine_and_learner_are_apart():
    learner = Learner(resolve_model("starter"), LearnerConfig(minibatches=2), "cpu", 1.0)
    agreed, noise = batch(0, groups=4), batch(0, groups=4)
    for t in agreed.trajectories:
        t.logprobs[t.loss_mask] = learner.policy(pack([t], torch.device("cpu")), 1.0).logprobs.numpy()
    noise.trajectories[0].versions[-1] = 1
    metrics = learner.update(agreed)
    assert metrics["mismatch/tokens"] == 1
    assert metrics["mismatch/logprob_max"] < 1e-5
    metrics = learner.update(noise)  # by now only one token is of the version that the step begins with
    assert metrics["mismatch/tokens"] == pytest.approx(1 / sum(t.sampled for t in noise.trajectories))
    assert metrics["mismatch/logprob"] == metrics["mismatch/logprob_max"] > 1e-3
    assert metrics["mismatch/kl"] > 0
    assert "mismatch/logprob" not in learner.update(noise)


@pytest.mark.parametrize("first", [0, 1])
def test_layers_are_compiled_no_later_than_in_the_first_update(first: int, monkeypatch):
    """Whether prompts are shared within a micro-batch or not: a compilation in the middle stops a run."""
    kernel = Kernel("as on a GPU", lambda q, k, v, *_: q + k.mean() + v.mean())
    compile = torch.compile
    monkeypatch.setattr(torch, "compile", lambda f, **settings: compile(f, backend="eager", **settings))
    torch._dynamo.reset()
    counts = torch._dynamo.utils.counters["stats"]
    shared, alone = batch(0, groups=8), batch(1, groups=8)
    for number, t in enumerate(alone.trajectories):
        t.tokens[0] = 6 + number
    batches = [shared, alone, shared, alone]
    learner = Learner(resolve_model("starter"), LearnerConfig(compile=True), "cpu", 1.0, kernel=kernel)
    learner.update(batches[first])
    compiled = counts["unique_graphs"]
    assert compiled > 0
    for members in batches:
        learner.update(Batch(learner.version, members.groups))
    assert counts["unique_graphs"] == compiled


@pytest.mark.parametrize("adapted", [{}, {"lora_rank": 2}, {"lora_rank": 2, "base_precision": "nf4"}])
def test_layers_share_what_is_compiled(adapted: dict[str, Any], tmp_path: Path, monkeypatch):
    """PyTorch compiles a function eight times at most, so the layers of a deep model must not differ."""
    if "base_precision" in adapted:
        pytest.importorskip("bitsandbytes")
    sizes = {"hidden_size": 64, "intermediate_size": 64, "num_attention_heads": 2, "num_key_value_heads": 2}
    Qwen2ForCausalLM(Qwen2Config(vocab_size=512, num_hidden_layers=12, **sizes)).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(resolve_model("starter")).save_pretrained(tmp_path)
    kernel = Kernel("as on a GPU", lambda q, k, v, *_: q + k.mean() + v.mean())
    compile = torch.compile
    monkeypatch.setattr(torch, "compile", lambda f, **settings: compile(f, backend="eager", **settings))
    torch._dynamo.reset()
    counts = torch._dynamo.utils.counters["stats"]
    before = counts["unique_graphs"]
    learner = Learner(str(tmp_path), LearnerConfig(compile=True, **adapted), "cpu", 1.0, kernel=kernel)
    for seed in range(2):
        learner.update(batch(seed, groups=4))
    assert 1 <= counts["unique_graphs"] - before <= 3


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize(
    "settings", [{}, {"compile": False}, {"activation_checkpointing": True}, {"objective": "grpo"}]
)
def test_on_a_gpu_in_16_bits_it_is_the_same_update(settings: dict[str, Any], plain):
    of_exact = made(**{k: v for k, v in settings.items() if k == "objective"})[1] if settings else plain[1]
    learner, metrics = made("cuda", **settings)
    assert "variable length" in learner.description
    for ours, theirs in zip(metrics, of_exact, strict=True):
        assert ours["policy/entropy"] == pytest.approx(theirs["policy/entropy"], rel=0.02)
        assert ours["policy/kl"] == pytest.approx(theirs["policy/kl"], rel=0.05)
        assert ours["grad_norm"] == pytest.approx(theirs["grad_norm"], rel=0.15)


KERNELS = {
    "torch": torch_kernel,
    "flash_attn.flash_attn_interface": flash_kernel,
    "flash_attn.cute.interface": flash4_kernel,
}


def test_another_package_in_the_folder_flash_attn_is_not_taken_for_flash_attn(tmp_path: Path):
    """As FlashAttention 4 is installed, which has no such functions."""
    (tmp_path / "flash_attn" / "cute").mkdir(parents=True)
    (tmp_path / "flash_attn" / "cute" / "__init__.py").touch()
    code = """
import torch
from areal.learner.attention import varlen_kernel
print(varlen_kernel(96, torch.device("cuda:0")).name)
"""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    found = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert found.stdout.strip() == torch_kernel().name, found.stderr


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("module", KERNELS)
@pytest.mark.parametrize("heads", [(14, 2, 64), (4, 4, 128), (4, 4, 32)])
@pytest.mark.parametrize("window", [None, 40])
def test_variable_length_attention_is_the_padded_one(
    module: str, heads: tuple[int, int, int], window: int | None
):
    """Forward and backward, with prompts that are shared: on 16 bits as in float32."""
    pytest.importorskip(module)
    rng, device, (queries, keys, size) = np.random.default_rng(0), torch.device("cuda"), heads
    members = []
    for prompt, lengths in [(7, [1, 300, 33]), (150, [64, 129]), (1, [500])]:
        for length in lengths:
            mask = np.arange(prompt + length) >= prompt
            tokens = np.where(mask, rng.integers(5, 100, len(mask)), prompt).astype(np.int32)
            logprobs, versions = np.zeros(len(mask), np.float32), np.where(mask, 0, -1).astype(np.int32)
            members.append(Trajectory(tokens, mask, logprobs, versions))
    row = len(pack(members, device).tokens)
    generator = torch.Generator(device).manual_seed(0)
    drawn = [
        torch.randn(1, count, row, size, generator=generator, device=device).bfloat16()
        for count in (queries, keys, keys, queries)
    ]
    found = []
    for way, dtype in [(KERNELS[module](), torch.bfloat16), (None, torch.float32)]:
        *inputs, of_output = (x.to(dtype, copy=True).requires_grad_() for x in drawn)
        layout = pack(members, device, way).layout
        output, _ = packed_attention(None, *inputs, None, sliding_window=window, layout=layout)
        output.backward(of_output.transpose(1, 2))
        found.append([output.detach(), *(x.grad for x in inputs)])
    for ours, exact in zip(*found, strict=True):
        assert (ours.float() - exact).norm() < 0.01 * exact.norm()


@pytest.mark.gpu
@needs_gpu
def test_a_model_says_the_same_with_each_attention():
    members, device = batch(3, groups=4).trajectories, torch.device("cuda")
    learner = Learner(resolve_model("starter"), LearnerConfig(compile=False), "cuda", 1.0)
    ours = varlen_kernel(32, device)
    found = [learner.policy(pack(members, device, kernel), 1.0).logprobs for kernel in (ours, None)]
    assert (found[0] - found[1]).abs().mean() < 0.02
    other = learner.policy(pack(members, device, torch_kernel()), 1.0).logprobs
    assert (found[0] - other).abs().mean() < 0.02
    # A prompt that others share is no different from one of its own.
    lone = [pack([t], device, ours) for t in members]
    alone = torch.cat([learner.policy(one, 1.0).logprobs for one in lone])
    assert (found[0] - alone).abs().mean() < 0.02
