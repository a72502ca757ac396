"""The experts that an engine tells of are those that it used, whatever happened to a request meanwhile."""

from __future__ import annotations

import asyncio
import copy
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from inside import only, set_interruption
from transformers import AutoModelForCausalLM

from areal.config import parse_config
from areal.errors import UserError
from areal.learner.checkpoint_names import as_in_checkpoints
from areal.model_check.agreement import measure
from areal.rollout.engine import Completion, Sampling
from areal.rollout.vllm_start import EngineSettings, engine_config
from areal.runtime.build import start_rollout_worker
from areal.runtime.plan import plan
from areal.weights.interface import VLLM_BACKEND
from areal.weights.sender import open_sender, transfer

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from families import make, sent_to

ON_GPU = torch.cuda.is_available()
NEARLY_ALL = 0.9 if ON_GPU else 0.99
"""Share of choices that are the same where both compute in float32: where two are as good, they differ."""


def agree(found: np.ndarray, expected: np.ndarray) -> float:
    """Return which share of choices, in any order, are the same."""
    assert found.shape == expected.shape
    return float((np.sort(found, -1) == np.sort(expected, -1)).mean())


def weights(model: Any) -> Iterator[tuple[str, torch.Tensor]]:
    return as_in_checkpoints(model, model.named_parameters())


async def test_experts_are_those_that_each_token_was_sent_to_when_it_was_computed_first(tmp_path: Path):
    folder = str(make("qwen3-moe", tmp_path))
    given = {
        "learner": {"router_replay": True},
        "engine": {"dtype": "float32", "memory": 0.1 if ON_GPU else 1},
    }
    checked = plan(parse_config({"model": folder, "rollout": {"max_model_len": 512}, **given}))
    worker = await start_rollout_worker(checked, VLLM_BACKEND)
    engine, before = worker.engine, AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    after = copy.deepcopy(before)
    with torch.no_grad():
        for name, parameter in after.named_parameters():
            if "gate" in name or "embed" in name:  # whom it changes much
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    sender = open_sender(checked.placement.backends, weights(before), torch.float32, checked.device)
    rng = np.random.default_rng(0)
    prompts = [[*([7] * 150), *rng.integers(6, 300, 9).tolist()] for _ in range(4)]

    def rows(model: Any, prompt: list[int], response: Completion) -> np.ndarray:
        return sent_to(model, [*prompt, *response.ids])[:-1]

    try:
        await engine.connect(sender.init_infos())
        shared = [await engine.generate(prompt, Sampling(5, ignore_eos=True)) for prompt in prompts]
        for prompt, response in zip(prompts, shared, strict=True):  # the second has the cache of the first
            assert response.experts is not None
            assert agree(response.experts, rows(before, prompt, response)) > NEARLY_ALL
        # A turn behind a turn tells only of what the conversation does not know.
        longer = [*prompts[0], *shared[0].ids, 9, 9]
        assert shared[0].experts is not None
        known = len(shared[0].experts)
        turn = await engine.generate(longer, Sampling(5, ignore_eos=True, experts_from=known))
        assert agree(turn.experts, rows(before, longer, turn)[known:]) > NEARLY_ALL
        running = [asyncio.create_task(engine.generate(p, Sampling(350, ignore_eos=True))) for p in prompts]
        await engine.generate(prompts[0], Sampling(30, ignore_eos=True))  # then all are in flight
        sender.write(weights(after))
        await transfer(engine.load(1), asyncio.to_thread(sender.send))
        interrupted = 0
        for prompt, response in zip(prompts, await asyncio.gather(*running), strict=True):
            old, new = (rows(model, prompt, response) for model in (before, after))
            assert agree(old, new) < 0.9, "or this would show nothing"
            read = response.versions.count(0)
            interrupted += 0 < read < len(response.ids)
            # The last token of the old weights is read by the new ones.
            end = len(prompt) + read - 1 if read else 0
            expected = np.concatenate([old[:end], new[end:]])
            assert agree(response.experts, expected) > NEARLY_ALL
        assert interrupted == len(prompts), "a response was over before the new weights came"
        # Where the cache is kept, those that wait in vLLM while new weights come begin again.
        await only(worker).worker.call(set_interruption, "keep")
        nine = Sampling(9, ignore_eos=True)
        queued = [asyncio.create_task(engine.generate([7, n], nine)) for n in range(300)]
        await engine.generate(prompts[0], Sampling(1, ignore_eos=True))
        await transfer(engine.load(2), asyncio.to_thread(sender.send))
        found = await asyncio.gather(*queued)
        assert sum(response.versions[0] == 2 for response in found) > 9
        assert all(response.experts is not None and len(response.experts) == 10 for response in found)
    finally:
        sender.close()
        await worker.close()


@pytest.mark.parametrize("family", ["qwen3-moe", pytest.param("mixtral", marks=pytest.mark.long)])
async def test_in_float32_the_learner_would_have_chosen_the_same(family: str, tmp_path: Path):
    ways: dict[str, dict[str, Any]] = {"all weights": {}, "adapter": {"lora_rank": 4}}
    found = await measure(str(make(family, tmp_path)), ways, router_replay=True)
    metrics = [each for of_way in found.metrics.values() for each in of_way]
    assert max(each["mismatch/logprob_max"] for each in metrics) < 1e-4
    assert max(each["router/changed"] for each in metrics) < 1 - NEARLY_ALL


@pytest.mark.skipif(ON_GPU, reason="vLLM is one for GPUs")
def test_latent_attention_on_a_cpu_is_refused(tmp_path: Path):
    settings = EngineSettings(str(make("deepseek-v3", tmp_path)), "cpu", "float32", 256, 16, 1.0, (1,))
    assert engine_config(settings).model_config.use_mla
    with pytest.raises(UserError, match="a model with latent attention"):
        engine_config(replace(settings, experts=True))
