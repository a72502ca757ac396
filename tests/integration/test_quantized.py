"""An FP8 engine samples with the rounded weights of the learner after each update, and with no others.

It is compared with transformers' model of the same weights, rounded in the same way, and with an engine that
was started from them. On a GPU host ``.venv/bin/pytest -n 0 tests/integration/test_quantized.py`` runs alone.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import torch
from own_engine import start
from policies import DEVICE
from quantized_reference import errors, quantized
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, PreTrainedConfig, Qwen2Config, Qwen3MoeConfig

from areal.factors import A, B, merged
from areal.models import resolve_model
from areal.rollout.engine import Completion, Sampling
from areal.rollout.quantization import FP8
from areal.runtime.worker_engine import WorkerEngine
from areal.weights.sender import open_sender, transfer

pytestmark = pytest.mark.gpu

PROMPT = [3, 20, 21, 22, 4]
SAMPLED = Sampling(64, temperature=1.0, ignore_eos=True)
GREEDY = Sampling(64, temperature=0.0, ignore_eos=True)
NOISE = 0.15
"""Of an update, as a share of each tensor's spread: it changes more than FP8 rounds away."""
EQUAL, DISTINCT = 5e-3, 5e-2
"""Differences of log-probabilities of the same weights, at most, and of others, at least."""
FACTOR = 2.0**-5
"""Adapters are sums of powers of two: however they are computed, they are the same."""

Tensors = dict[str, torch.Tensor]
DENSE = Qwen2Config(
    vocab_size=512,
    hidden_size=128,
    intermediate_size=384,
    num_hidden_layers=4,
    num_attention_heads=4,
    num_key_value_heads=4,
    max_position_embeddings=1024,
    tie_word_embeddings=True,
)
EXPERTS = Qwen3MoeConfig(
    vocab_size=512,
    hidden_size=128,
    intermediate_size=256,
    moe_intermediate_size=128,
    num_experts=8,
    num_experts_per_tok=2,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=32,
    max_position_embeddings=1024,
    initializer_range=0.1,
    tie_word_embeddings=False,
)


def made(config: PreTrainedConfig, folder: Path) -> Tensors:
    """Return the tensors of a model as checkpoints have them: the starter's, where it has them, or noise."""
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(folder)
    known = load_file(Path(resolve_model("starter")) / "model.safetensors")
    found = load_file(folder / "model.safetensors")
    biases = {name: 0.1 * torch.randn(value.shape) for name, value in found.items() if name.endswith("bias")}
    if config.model_type == DENSE.model_type:
        found |= {name: value.float() for name, value in known.items() if name in found}
        found["model.norm.weight"] *= 0.3  # uncertain everywhere: any change of any weight shows
    return found | biases


def save(folder: Path, config: PreTrainedConfig, tensors: Tensors) -> str:
    """Write a model in bfloat16, as engines are sent it."""
    folder.mkdir()
    for file in Path(resolve_model("starter")).glob("*token*"):
        shutil.copy(file, folder)
    config.save_pretrained(folder)
    save_file({n: t.bfloat16().contiguous() for n, t in tensors.items()}, folder / "model.safetensors")
    return str(folder)


def changed(tensors: Tensors, seed: int) -> Tensors:
    random = torch.Generator().manual_seed(seed)
    return {
        name: value + NOISE * value.std().clamp(min=0.02) * torch.randn(value.shape, generator=random)
        for name, value in tensors.items()
    }


def factors(tensors: Tensors, seed: int) -> Tensors:
    """Return an adapter of rank 2 of each projection."""
    random, found = torch.Generator().manual_seed(seed), {}
    for name, value in tensors.items():
        if "_proj.weight" in name:
            (out, into), signs = value.shape, [-1.0, 1.0]
            draw = torch.randint(2, (2, out + into), generator=random)
            a, b = torch.tensor(signs)[draw].split([into, out], 1)
            found |= {name + A: a.contiguous(), name + B: FACTOR * b.T.contiguous()}
    return found


@asynccontextmanager
async def started(first: str, last: str) -> AsyncIterator[tuple[WorkerEngine, WorkerEngine]]:
    """Start FP8 engines of two models side by side."""
    both = [each.engine for each in await asyncio.gather(*(start(f, quantized=True) for f in (first, last)))]
    try:
        one, other = both
        assert isinstance(one, WorkerEngine)
        assert isinstance(other, WorkerEngine)
        yield one, other
    finally:
        await asyncio.gather(*(engine.close() for engine in both))


async def update(engine: WorkerEngine, loads: list[tuple[Tensors, bool]]) -> None:
    """Load tensors one after the other, over one connection: whole, or those that change alone."""
    sender = open_sender(["CUDA IPC"], loads[0][0].items(), torch.bfloat16, DEVICE)
    await engine.connect(sender.init_infos())
    for tensors, whole in loads:
        digest = sender.write(tensors.items(), whole)
        await transfer(engine.load(engine.version + 1, digest), asyncio.to_thread(sender.send))
    await engine.connect([])
    sender.close()


async def assert_types(engine: WorkerEngine) -> None:
    """Linear layers and experts are in FP8, routers and all else as they were."""
    for path, kind, dtype in await engine.layers():
        assert dtype == (FP8 if kind in ("linear", "experts") else "bfloat16"), path


def assert_samples(completion: Completion, tensors: Tensors, before: Tensors) -> None:
    """A completion is of these weights, rounded, and not of those before."""
    own, others = (
        float(errors(quantized(model(each)), PROMPT, completion).mean()) for each in (tensors, before)
    )
    assert own < 0.5 * others, (own, others)


def model(tensors: Tensors) -> torch.nn.Module:
    found = AutoModelForCausalLM.from_config(DENSE, dtype=torch.float32)
    missing, unexpected = found.load_state_dict(tensors, strict=False)
    assert (missing, unexpected) == (["lm_head.weight"], [])
    return found


def difference(some: Completion, other: Completion) -> float:
    """Largest difference of log-probabilities; infinite where the tokens are others."""
    pairs = zip(some.logprobs, other.logprobs, strict=True)
    return max(abs(a - b) for a, b in pairs) if some.ids == other.ids else float("inf")


async def test_each_update_of_a_dense_model_is_rounded_anew_and_so_is_an_adapters(tmp_path: Path):
    base = made(DENSE, tmp_path / "made")
    versions = [changed(base, seed) for seed in (1, 2, 3)]
    below = {name: value.bfloat16() for name, value in versions[-1].items()}
    adapters = [factors(below, seed) for seed in (1, 2)]
    adapted = [dict(merged([*below.items(), *each.items()])) for each in adapters]
    folders = save(tmp_path / "first", DENSE, base), save(tmp_path / "last", DENSE, adapted[-1])
    async with started(*folders) as (engine, fresh):
        before = base
        for tensors in versions:
            await update(engine, [(tensors, True)])
            assert_samples(await engine.generate(PROMPT, SAMPLED), tensors, before)
            before = tensors
        plain = await engine.generate(PROMPT, GREEDY)
        await update(engine, [(below | adapters[0], True), (adapters[1], False)])
        assert_samples(await engine.generate(PROMPT, SAMPLED), adapted[1], adapted[0])
        await assert_types(engine)
        last = await engine.generate(PROMPT, GREEDY)
        assert difference(last, await fresh.generate(PROMPT, GREEDY)) < EQUAL
        assert difference(last, plain) > DISTINCT


async def test_after_three_updates_experts_are_those_of_an_engine_started_from_the_weights(tmp_path: Path):
    base = made(EXPERTS, tmp_path / "made")
    versions = [changed(base, seed) for seed in (1, 2, 3)]
    folders = save(tmp_path / "first", EXPERTS, base), save(tmp_path / "last", EXPERTS, versions[-1])
    async with started(*folders) as (engine, fresh):
        await update(engine, [(tensors, True) for tensors in versions[:-1]])
        before = await engine.generate(PROMPT, GREEDY)
        await update(engine, [(versions[-1], True)])
        await assert_types(engine)
        last = await engine.generate(PROMPT, GREEDY)
        assert difference(last, await fresh.generate(PROMPT, GREEDY)) < EQUAL
        assert difference(last, before) > DISTINCT
