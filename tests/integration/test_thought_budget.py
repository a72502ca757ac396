"""Thoughts that are ended when their budget is used up: the learner sees the sequence that the engine saw."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import openai
import torch
from policies import Policies, assert_agree, chosen

from areal.models import load_tokenizer, resolve_model
from areal.rollout.engine import Sampling
from areal.rollout.recorder import Recorder
from areal.rollout.rendering import Renderer
from areal.rollout.worker import RolloutWorker
from areal.trajectory import Trajectory

BUDGET, LONGEST, TEMPERATURE = 80, 200, 0.8
END = "\nSo 42.\n</think>\n\n"


def thinking() -> Renderer:
    """The starter's, with a template that begins the thought; it does not know how to end one."""
    tokenizer = load_tokenizer(resolve_model("starter"))
    begins = "{%- if add_generation_prompt -%}{{- '<think>\n' -}}{%- endif -%}{#- until </think> -#}"
    tokenizer.chat_template += begins
    return Renderer(tokenizer, (tokenizer.eos_token_id,), thought_end=END)


async def test_the_engine_computes_what_the_learner_computes_behind_what_was_put_in(worker: RolloutWorker):
    """Also where new weights come within the thought, within the words, and in between."""
    policies, renderer = Policies(worker.engine), thinking()
    await policies.connect()
    first = await policies.update()
    sampling = Sampling(LONGEST, TEMPERATURE, ignore_eos=True, thinking_budget=BUDGET)
    models = [Recorder(worker.engine, renderer, sampling, 1000) for _ in range(3)]
    said = [
        asyncio.create_task(model.generate(f"Compute {i} + 30. {'Be exact. ' * i}"))
        for i, model in enumerate(models)
    ]
    while not all(task.done() for task in said):
        await policies.update()
    await asyncio.gather(*said)
    policies.close()
    trajectories = [trajectory for model in models for trajectory in model.trajectories()]
    assert len(trajectories) == len(models)
    assert any(len({*t.versions.tolist()}) > 2 for t in trajectories), f"updates came after {first}"
    for trajectory in trajectories:
        [begin] = trajectory.turns
        # A thought that is about to end as its budget does gets a few tokens more.
        cut = trajectory.versions[begin:].tolist().index(-1)
        assert BUDGET <= cut < BUDGET + len("</think>")
        put_in = slice(begin + cut, begin + cut + len(renderer.thought_end_ids))
        assert trajectory.tokens[put_in].tolist() == renderer.thought_end_ids
        assert len(trajectory) == begin + LONGEST
        expected = torch.ones(LONGEST, dtype=torch.bool)
        expected[cut : cut + len(renderer.thought_end_ids)] = False
        assert trajectory.loss_mask[begin:].tolist() == expected.tolist()
        [thought] = trajectory.thoughts
        assert thought is not None
        assert thought.end == "budget"
        assert_agree(errors(policies, trajectory))


def errors(policies: Policies, trajectory: Trajectory) -> torch.Tensor:
    """How far the log-probability of each sampled token is from that of its own version."""
    [begin] = trajectory.turns
    prompt, ids = trajectory.tokens[:begin].tolist(), trajectory.tokens[begin:].tolist()
    versions, mask = torch.from_numpy(trajectory.versions[begin:]), trajectory.loss_mask[begin:]
    found = torch.zeros(len(ids))
    for version in {*versions[mask].tolist()}:
        theirs = chosen(policies.logits(version, prompt, ids), ids, TEMPERATURE)
        ours = torch.from_numpy(trajectory.logprobs[begin:])
        found[versions == version] = (ours - theirs).abs().float()[versions == version]
    return found[mask]


async def test_programs_are_answered_within_the_budget(worker: RolloutWorker):
    renderer = thinking()
    sampling = Sampling(LONGEST, ignore_eos=True, thinking_budget=BUDGET)
    model = Recorder(worker.engine, renderer, sampling, 1000, worker.server)
    user: Any = {"role": "user", "content": "Compute 12 + 30."}
    async with (
        model.endpoint(9) as at,
        openai.AsyncOpenAI(base_url=at.base_url, api_key=at.api_key) as client,
    ):
        said = await client.chat.completions.create(model="m", messages=[user], logprobs=True, seed=3)
        again = await client.chat.completions.create(model="m", messages=[user], logprobs=True, seed=3)
        short = await client.chat.completions.create(model="m", messages=[user], max_tokens=BUDGET)
    choice = said.choices[0]
    assert choice.message.reasoning_content.endswith("So 42.")
    assert choice.message.content
    assert said.usage.completion_tokens == LONGEST
    logprobs = [token.logprob for token in choice.logprobs.content]
    assert np.allclose(logprobs, [token.logprob for token in again.choices[0].logprobs.content], atol=1e-3)
    assert logprobs.count(0.0) >= len(renderer.thought_end_ids)
    assert short.choices[0].finish_reason == "length", "no words would fit in behind an end"
    ends = [thought.end for t in model.trajectories() for thought in t.thoughts if thought]
    assert ends == ["budget", "budget", "none"]
