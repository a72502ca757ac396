"""The engine computes what the learner computes, after every update and on both sides of a change.

A stale weight anywhere in the engine shows here: each version differs from the last in every parameter, the
log-probabilities must agree with a plain transformers model that holds just that version, and must not agree
with its neighbours.
"""

from __future__ import annotations

import asyncio
import copy
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from areal.models import resolve_model
from areal.rollout.engine import Completion, Engine, Sampling
from areal.rollout.player import Player
from areal.rollout.vllm_engine import EngineSettings, VLLMEngine
from areal.weights.shared_memory import BACKEND, SharedMemoryChannel

TOLERANCE = 2e-5
"""Largest error of a log-probability in fp32; about 1e-6 is usual."""
DISTINCT = 1e-4
"""What the weights of another version give differs by more than this, somewhere in eight tokens."""
UPDATES = 3


def perturb(model: torch.nn.Module, seed: int) -> None:
    """Change every parameter by a few percent of its size, as several large updates would."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.add_(0.1 * parameter.std().clamp(min=0.02) * noise)


def reference_logprobs(
    model: torch.nn.Module, prompt: list[int], ids: list[int], temperature: float
) -> torch.Tensor:
    """Log-probability of each sampled token by transformers' own attention: ``[len(ids)]``."""
    with torch.no_grad():
        logits = model(torch.tensor([prompt + ids])).logits[0, len(prompt) - 1 : -1]
    return torch.log_softmax(logits / temperature, -1).gather(1, torch.tensor(ids)[:, None])[:, 0]


@asynccontextmanager
async def untied_engine(folder: Path) -> AsyncIterator[Engine]:
    model = AutoModelForCausalLM.from_pretrained(resolve_model("starter"), tie_word_embeddings=False)
    with torch.no_grad():
        weight = model.get_input_embeddings().weight
        model.lm_head.weight = torch.nn.Parameter(weight + 0.05 * weight.std() * torch.randn_like(weight))
    model.config.tie_word_embeddings = False
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(resolve_model("starter")).save_pretrained(folder)
    engine = await VLLMEngine.start(
        EngineSettings(
            model=str(folder),
            device="cpu",
            dtype="float32",
            max_model_len=512,
            max_num_seqs=32,
            memory=1.0,
            eos_ids=(1,),
            weight_backend=BACKEND,
        )
    )
    yield engine
    await engine.close()


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
async def test_logprobs_agree_on_both_sides_of_each_update(player: Player, tmp_path: Path, tied: bool):
    if tied:
        await check_agreement(player.engine, resolve_model("starter"))
    else:
        async with untied_engine(tmp_path) as engine:
            await check_agreement(engine, str(tmp_path))


async def check_agreement(engine: Engine, folder: str) -> None:
    model = AutoModelForCausalLM.from_pretrained(folder)
    channel = SharedMemoryChannel(model.named_parameters())
    await engine.connect(channel.init_info())
    references: dict[int, torch.nn.Module] = {}

    async def update(version: int) -> None:
        references[version] = copy.deepcopy(model)
        channel.write(model.named_parameters())
        await engine.load(version)
        assert engine.version == version

    with torch.no_grad():
        model.model.norm.weight.mul_(0.3)  # uncertain everywhere: any change of any weight shows
    await update(1)
    prompts = [[3, 20 + i, 21, 22 + i % 3, 4] for i in range(16)]
    temperature = 0.8
    sampling = Sampling(max_tokens=480, temperature=temperature, ignore_eos=True)
    await engine.generate(prompts[0], sampling)  # the first one is slow
    running = [asyncio.create_task(engine.generate(p, sampling)) for p in prompts]
    while not all(r.done() for r in running):
        await asyncio.sleep(0.1)
        perturb(model, engine.version)
        await update(engine.version + 1)
    completions = list(await asyncio.gather(*running))
    after = await engine.generate(prompts[0], sampling)
    channel.close()

    assert engine.version > UPDATES
    assert set(after.versions) == {engine.version}
    crossing = [c for c in completions if len(set(c.versions)) > 1]
    assert len(crossing) >= 8, "most sequences were under way during an update"
    for prompt, completion in zip([*prompts, prompts[0]], [*completions, after], strict=True):
        check_completion(references, prompt, completion, temperature)


def check_completion(
    references: dict[int, torch.nn.Module], prompt: list[int], completion: Completion, temperature: float
) -> None:
    assert completion.versions == sorted(completion.versions)
    by_version = {
        v: reference_logprobs(references[v], prompt, completion.ids, temperature)
        for v in set(completion.versions)
    }
    sampled = torch.tensor(completion.logprobs)
    for position, version in enumerate(completion.versions):
        assert abs(sampled[position] - by_version[version][position]) < TOLERANCE, (position, version)
    for boundary, before, version in boundaries(completion.versions):
        # The last tokens before and the first ones after belong to their own version and to no other.
        left, right = slice(max(0, boundary - 8), boundary), slice(boundary, boundary + 8)
        assert (sampled[left] - by_version[version][left]).abs().max() > DISTINCT
        assert (sampled[right] - by_version[before][right]).abs().max() > DISTINCT


def boundaries(versions: list[int]) -> Iterator[tuple[int, int, int]]:
    for position in range(1, len(versions)):
        if versions[position] != versions[position - 1]:
            yield position, versions[position - 1], versions[position]
