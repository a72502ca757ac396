"""The real engine over HTTP, and programs of three SDKs trained through it."""

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
import torch
from sdk import agents_sdk
from synchronous import Shared, synchronous

from areal.config import parse_config
from areal.learner.model import load_model
from areal.rollout.engine import Sampling
from areal.rollout.player import Player
from areal.rollout.recorder import Recorder
from areal.runtime.assembly import environments, make_learner, plan, training_sampling
from areal.trajectory import Episode
from areal.weights.channel import open_channel, way_of

EXAMPLES = Path(__file__).parents[2] / "examples"
PROBLEM: Any = [{"role": "user", "content": "Compute 12 + 30.\nPut the final answer in \\boxed{}."}]


async def test_what_clients_see_is_what_is_recorded(player: Player):
    model = Recorder(player.engine, player.renderer, Sampling(40), 512, player.server)
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
    said = [player.renderer.decode(t.tokens[t.loss_mask][: _first(t)].tolist()) for t in trajectories]
    seen = [*(c.message.content for c in chat.choices), response.output_text, message.content[0].text]
    assert sorted(said) == sorted(seen)
    talk = next(t for t in trajectories if len(t.turns) == 2)
    logprobs = [token.logprob for token in first.logprobs.content]
    assert np.allclose(talk.logprobs[talk.turns[0] : talk.turns[0] + len(logprobs)], logprobs)
    assert chat.usage.completion_tokens == sum(len(c.logprobs.content) for c in chat.choices)
    assert second.usage.prompt_tokens == talk.turns[1]
    assert second.usage.completion_tokens <= 5


def _first(trajectory: Any) -> int:
    """How many tokens the first answer has."""
    mask = trajectory.loss_mask[trajectory.turns[0] :]
    return len(mask) if mask.all() else int(mask.argmin())


@pytest.mark.parametrize(
    ("example", "turns"), [("openai_client", 1), ("openai_agents", 1), ("anthropic_client", 2)]
)
async def test_each_example_is_trained_a_few_updates(
    player: Player, tmp_path: Path, example: str, turns: int
):
    agents_sdk()
    rollout = {"batch_size": 32, "group_size": 8, "max_new_tokens": 40, "max_model_len": 512}
    config = parse_config(
        {
            "agent": f"{EXAMPLES / example}.py:solve",
            "steps": 2,
            "rollout": rollout,
            "learner": {"threads": 1},
        }
    )
    checked = plan(config)
    engine: Any = Shared(player.engine)
    programs = Player.build(engine, player.renderer, checked.agent, environments(config), 512, 1.0)
    learner = make_learner(config, checked.model, checked.device, 1)
    channel = open_channel(way_of(checked.device), learner.named_parameters(), torch.float32)
    await player.engine.connect(channel.init_info())

    async def publish(version: int) -> None:
        channel.write(learner.named_parameters())
        await player.engine.load(version)

    await publish(0)
    batches, metrics, _ = await synchronous(checked, programs, learner, publish)
    # Other tests expect the engine as it was: version 0, with the starter's own weights.
    channel.write(load_model(checked.model).named_parameters())
    await player.engine.load(0)
    channel.close()
    await programs.close()
    episodes: list[Episode] = [e for groups in batches for group in groups for e in group.episodes]
    assert {len(t.turns) for e in episodes for t in e.trajectories} == {turns}
    assert {len(e.trajectories) for e in episodes} == {1}
    assert 0 < sum(e.reward for e in episodes) < len(episodes), "the environment judged the answers"
    assert any(update["loss"] != 0 for update in metrics)
    assert {int(v) for e in batches[1][0].episodes for v in e.trajectories[0].versions} == {-1, 1}


async def test_a_command_plays_an_episode(player: Player):
    command = f"{sys.executable} {EXAMPLES / 'anthropic_client.py'}"
    config = parse_config({"agent": "program", "agent_options": {"command": command}})
    agent = plan(config).agent
    episode = await replace(player, agent=agent).play(
        {"seed": 0, "options": {"index": 0, "split": "train"}}, training_sampling(config)
    )
    assert [len(t.turns) for t in episode.trajectories] == [2]
    assert json.dumps(episode.to_json())
