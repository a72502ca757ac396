"""An episode with a scripted engine: what was given up half-way is never trained on."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from typing import Any

import gymnasium
import pytest

from areal.agents.interface import Env, Model
from areal.agents.single_turn import SingleTurn
from areal.envs.text import UnicodeText
from areal.models import load_tokenizer, resolve_model
from areal.rollout.engine import Completion, GenerationAborted, Sampling
from areal.rollout.environments import EnvironmentPool
from areal.rollout.episode import NothingSampled
from areal.rollout.rendering import Renderer
from areal.rollout.worker import RolloutWorker
from areal.trajectory import Episode, Finish

RENDERER = Renderer(load_tokenizer(resolve_model("starter")), (1,))


class Echo(gymnasium.Env[str, str]):
    observation_space = UnicodeText(100)
    action_space = UnicodeText(100)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict]:
        super().reset(seed=seed)
        return "Say something.", {}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict]:
        return "", float(len(action)), True, False, {}


class Scripted:
    """Answers with the same tokens each time, ended in one way."""

    version, busy_seconds = 7, 0.0

    def __init__(self, finish: Finish) -> None:
        self.finish: Finish = finish

    async def generate(self, ids: list[int], sampling: Sampling, *, images: object = ()) -> Completion:
        await asyncio.sleep(0)
        return Completion([20, 21, 22], [-0.5, -1.0, -0.25], [7, 7, 7], self.finish)


class Tells(Echo):
    """Says what would have been right, in the way of the class attribute."""

    said: Any = "42"
    ends = True

    def step(self, action: str) -> tuple[str, float, bool, bool, dict]:
        return "", 0.0, self.ends, False, {"expected": self.said}


def worker(finish: Finish, env: type[gymnasium.Env] = Echo) -> RolloutWorker:
    engine: Any = Scripted(finish)
    return RolloutWorker(engine, RENDERER, SingleTurn(), EnvironmentPool(env, 2), 100)


@pytest.mark.parametrize("finish", ["eos", "stop", "length"])
async def test_how_a_response_ended_is_in_the_trajectory(finish: Finish):
    episode = await worker(finish).run_episode({"seed": 0}, Sampling(10))
    (trajectory,) = episode.trajectories
    assert episode.finish == trajectory.finish == finish
    assert episode.sampled == 3
    assert episode.reward == trajectory.rewards[0] > 0
    assert trajectory.tokens[trajectory.loss_mask].tolist() == [20, 21, 22]


@pytest.mark.parametrize(
    ("said", "ends", "kept"),
    [
        ("42", True, "42"),
        (42, True, "42"),
        (None, True, ""),
        ("42", False, ""),
        ("7" * 9000, True, "7" * 2000),
    ],
)
async def test_what_would_have_been_right_is_kept_once_it_is_over(said: Any, ends: bool, kept: str):
    env = type("Told", (Tells,), {"said": said, "ends": ends})
    episode = await worker("eos", env).run_episode({"seed": 0}, Sampling(10))
    assert episode.expected == kept
    assert Episode.from_json(episode.to_json()).expected == kept


async def test_an_aborted_response_becomes_no_trajectory():
    with pytest.raises(GenerationAborted, match="after 3 tokens"):
        await worker("abort").run_episode({"seed": 0}, Sampling(10))


async def test_an_agent_that_never_asks_the_model_has_failed():
    class Silent:
        async def run(self, env: Env, model: Model) -> None:
            await env.reset()
            await env.step("a guess of its own")

    with pytest.raises(NothingSampled, match="Silent"):
        await replace(worker("eos"), agent=Silent()).run_episode({"seed": 0}, Sampling(10))


class Slow(Echo):
    def step(self, action: str) -> tuple[str, float, bool, bool, dict]:
        time.sleep(0.2)
        return super().step(action)


async def test_where_the_time_of_an_episode_went():
    """With one worker for two environments, one episode waits for the other."""
    made = replace(worker("eos"), pool=EnvironmentPool(Slow, 1))
    both = await asyncio.gather(*(made.run_episode({"seed": n}, Sampling(10)) for n in range(2)))
    for episode in both:
        assert episode.seconds.keys() == {"model", "env", "env_queue", "verifier"}
        assert episode.seconds["env"] > episode.seconds["model"] >= 0
        assert sum(episode.seconds.values()) <= episode.ended - episode.started + 0.01
        assert Episode.from_json(episode.to_json()).seconds == episode.seconds
    assert max(e.seconds["env_queue"] for e in both) > min(e.seconds["env"] for e in both) / 2
    old = {key: value for key, value in episode.to_json().items() if key != "seconds"}
    assert Episode.from_json(old).seconds == {}
