"""What is sampled, and from which distribution: truncation, temperature, and how a response ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
import pytest_asyncio
import torch
from policies import ON_GPU, Policies, assert_agree, chosen

from areal.config import parse_config
from areal.rollout.engine import Completion, Sampling
from areal.rollout.worker import RolloutWorker
from areal.runtime.sampling import evaluation_sampling, training_sampling

EDGE = 1e-2 if ON_GPU else 0.0
"""On a GPU a token whose probability is so near to what excludes it, relatively, may be sampled after all."""
PROMPTS = [[3, 20 + i, 21, 22 + i % 3, 4] for i in range(8)]


@pytest_asyncio.fixture
async def policies(worker: RolloutWorker) -> AsyncIterator[Policies]:
    made = Policies(worker.engine)
    await made.connect()
    await made.update()
    yield made
    made.close()


@pytest.mark.parametrize(
    "settings",
    [
        {"temperature": 1.5},
        {"top_k": 5, "temperature": 0.7},
        {"top_p": 0.8},
        {"min_p": 0.2, "temperature": 1.3},
    ],
    ids=["temperature", "top_k", "top_p", "min_p"],
)
async def test_logprobs_are_of_the_distribution_that_was_sampled(
    worker: RolloutWorker, policies: Policies, settings: dict[str, float]
):
    config = parse_config({"evaluation": settings, "rollout": {"max_new_tokens": 60}})
    sampling = evaluation_sampling(config)
    completions = await asyncio.gather(*(worker.engine.generate(p, sampling) for p in PROMPTS))
    looser = replace(sampling, top_p=min(1.0, sampling.top_p * (1 + EDGE)), min_p=sampling.min_p * (1 - EDGE))
    for prompt, completion in zip(PROMPTS, completions, strict=True):
        logits = policies.logits(worker.engine.version, prompt, completion.ids)
        exact, near = (chosen(truncated(logits, bounds), completion.ids) for bounds in (sampling, looser))
        expected = torch.where(torch.isfinite(exact), exact, near)
        assert_agree((torch.tensor(completion.logprobs, dtype=torch.float64) - expected).abs())


def truncated(logits: torch.Tensor, sampling: Sampling) -> torch.Tensor:
    """Logits after temperature, −∞ where a setting excludes the token: ``[T, V]``."""
    logits = logits / sampling.temperature
    probabilities, order = logits.softmax(-1).sort(-1, descending=True)
    rank = torch.arange(logits.shape[-1]).expand_as(order)
    out = probabilities.cumsum(-1) - probabilities >= sampling.top_p
    out |= probabilities < sampling.min_p * probabilities[:, :1]
    out |= rank >= (sampling.top_k or logits.shape[-1])
    return logits.masked_fill(torch.zeros_like(out).scatter(-1, order, out), -torch.inf)


async def test_a_stop_string_ends_a_response_and_its_tokens_are_kept(worker: RolloutWorker):
    """Sampled ids are exact, whatever the text: up to the token that completes the string, and no more."""
    sampling = training_sampling(parse_config({"rollout": {"stop": ["7", "3", "+ 1"], "max_new_tokens": 99}}))
    stopped = await asyncio.gather(*(worker.engine.generate(p, sampling) for p in PROMPTS * 4))
    for completion in stopped:
        text = worker.renderer.decode(completion.ids)
        assert completion.finish == ending(completion, text, worker, sampling.stop)
        assert not any(stop in worker.renderer.decode(completion.ids[:-1]) for stop in sampling.stop)
        assert len(completion.ids) == len(completion.logprobs) == len(completion.versions)
    assert any(c.finish == "stop" for c in stopped)


def ending(completion: Completion, text: str, worker: RolloutWorker, stops: tuple[str, ...]) -> str:
    if any(stop in text for stop in stops):
        return "stop"
    return "eos" if completion.ids[-1] in worker.renderer.eos_ids else "length"
