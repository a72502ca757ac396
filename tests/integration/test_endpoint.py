"""The real engine over HTTP; tests/integration/test_examples.py trains programs through it."""

from __future__ import annotations

import asyncio
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import anthropic
import numpy as np
import openai
import pytest
from inside import left_over, only

from areal.agents.program import Program, ProgramFailed
from areal.config import parse_config
from areal.rollout.engine import Sampling
from areal.rollout.recorder import Recorder
from areal.rollout.worker import RolloutWorker
from areal.runtime.plan import plan
from areal.runtime.sampling import training_sampling

EXAMPLES = Path(__file__).parents[2] / "examples"
PROBLEM: Any = [{"role": "user", "content": "Compute 12 + 30.\nPut the final answer in \\boxed{}."}]


async def test_what_clients_see_is_what_is_recorded(worker: RolloutWorker):
    model = Recorder(worker.engine, worker.renderer, Sampling(40), 512, worker.server)
    async with model.endpoint(100) as at:
        one = openai.AsyncOpenAI(base_url=at.base_url, api_key=at.api_key)
        two = anthropic.AsyncAnthropic(base_url=at.base_url, api_key=at.api_key)
        async with one, two:
            chat, response, message = await asyncio.gather(
                one.chat.completions.create(model="m", messages=PROBLEM, n=3, logprobs=True),
                one.responses.create(model="m", input=PROBLEM),
                two.messages.create(model="m", max_tokens=40, messages=PROBLEM),
            )
            first = chat.choices[0]
            follow = [*PROBLEM, {"role": "assistant", "content": first.message.content}, *PROBLEM]
            second = await one.chat.completions.create(model="m", messages=follow, max_tokens=5, stop=["1"])
            with pytest.raises(openai.BadRequestError) as too_long:
                await one.chat.completions.create(model="m", messages=PROBLEM * 300)
        assert too_long.value.code == "context_length_exceeded"
    trajectories = model.trajectories()
    assert len(trajectories) == 5, "the follow-up is a turn of one of them"
    said = [worker.renderer.decode(t.tokens[t.loss_mask][: _first(t)].tolist()) for t in trajectories]
    seen = [*(c.message.content for c in chat.choices), response.output_text, message.content[0].text]
    assert sorted(said) == sorted(seen)
    two_turns = next(t for t in trajectories if len(t.turns) == 2)
    logprobs = [token.logprob for token in first.logprobs.content]
    assert np.allclose(two_turns.logprobs[two_turns.turns[0] : two_turns.turns[0] + len(logprobs)], logprobs)
    assert chat.usage.completion_tokens == sum(len(c.logprobs.content) for c in chat.choices)
    assert second.usage.prompt_tokens == two_turns.turns[1]
    assert second.usage.completion_tokens <= 5


async def test_a_text_goes_on_from_the_tokens_that_were_sampled(worker: RolloutWorker):
    """Calls that a limit ended are the turns of one trajectory, which is the text."""
    model = Recorder(worker.engine, worker.renderer, Sampling(40), 512, worker.server)
    begun = text = worker.renderer.opening(PROBLEM).text
    async with model.endpoint(100) as at, openai.AsyncOpenAI(base_url=at.base_url, api_key=at.api_key) as one:
        for _ in range(3):
            said = await one.completions.create(model="m", prompt=text, max_tokens=1, logprobs=0)
            assert said.choices[0].finish_reason == "length"
            text += said.choices[0].text
    (trajectory,) = model.trajectories()
    assert len(trajectory.turns) == trajectory.loss_mask.sum() == 3
    assert worker.renderer.decode(trajectory.tokens[-3:].tolist()) == text.removeprefix(begun)


def _first(trajectory: Any) -> int:
    """How many tokens the first response has."""
    mask = trajectory.loss_mask[trajectory.turns[0] :]
    return len(mask) if mask.all() else int(mask.argmin())


async def test_a_command_runs_an_episode(worker: RolloutWorker):
    command = f"{sys.executable} {EXAMPLES / 'anthropic_client.py'}"
    config = parse_config({"agent": "program", "agent_options": {"command": command}})
    agent = plan(config).agent
    episode = await replace(worker, agent=agent).run_episode(
        {"seed": 0, "options": {"index": 0, "split": "train"}}, training_sampling(config)
    )
    assert [len(t.turns) for t in episode.trajectories] == [2]
    assert json.dumps(episode.to_json())


async def test_a_program_that_floods_and_is_stopped_leaves_nothing_in_the_engine(worker: RolloutWorker):
    async def floods(task: str, base_url: str, api_key: str) -> str:
        async def calls() -> None:
            while True:
                await client.chat.completions.create(model="m", messages=PROBLEM)

        async with openai.AsyncOpenAI(base_url=base_url, api_key=api_key) as client:
            await asyncio.gather(*(calls() for _ in range(80)))
        return ""

    agent = Program(floods, time_limit=1, max_completions=10**6, on_failure="retry")
    with pytest.raises(ProgramFailed, match="did not answer within 1 s"):
        await replace(worker, agent=agent).run_episode({"seed": 0}, Sampling(400))
    assert await only(worker).worker.call(left_over) == 0
