"""Runs episodes of an environment and shows them; a person or a model answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TextIO

from areal.agents.interface import Agent, Content, Env, Message, Model, Step, Tool
from areal.config import Config, override_config
from areal.envs.pictures import words_of
from areal.rollout.environments import named_player
from areal.rollout.tasks import TaskSource
from areal.telemetry.plain import plain

_MARKS = {"observation": "", "action": "> ", "reward": "reward: ", "note": "note: "}
_STOPPED = (
    "the agent stopped before the environment ended the episode; for an episode of several steps use "
    "--agent multi-turn"
)


@dataclass(frozen=True, slots=True)
class Show:
    """Writes the events of an episode to a stream: observations, actions, rewards and notes."""

    stream: TextIO

    def __call__(self, kind: str, text: str) -> None:
        """Write a text; ``kind`` is ``observation``, ``action``, ``reward`` or ``note``."""
        mark = _MARKS[kind]
        print(mark + plain(text).replace("\n", "\n" + " " * len(mark)), file=self.stream, flush=True)


def play_person(env: Any, episodes: int, seed: int, ask: Callable[[], str | None], show: Show) -> float:
    """Let a person play training problems.

    Args:
        ask: returns an answer; None ends play.

    Returns:
        The sum of all rewards.
    """
    source, earned = TaskSource(env, seed), 0.0
    for number in range(episodes):
        observation, info = env.reset(**source.task(number))
        for message in info.get("messages", ())[:-1]:
            show("observation", said_by(message))
        over = False
        while not over:
            show("observation", to_player(observation, info))
            if (action := ask()) is None:
                return earned
            observation, reward, terminated, truncated, info = env.step(action)
            over = terminated or truncated
            earned += float(reward)
            show("reward", describe_reward(float(reward), info))
        if not isinstance(observation, str) or observation:  # an image of Pillow has no length
            show("observation", words_of(observation))
    return earned


def describe_reward(reward: float, info: dict[str, Any]) -> str:
    """Describe a reward, and its parts if they add information."""
    parts = info.get("rewards") or info.get("reward_parts") or {}
    shown = ", ".join(f"{name} {value:g}" for name, value in parts.items())
    return f"{reward:g}" + (f" ({shown})" if len(parts) > 1 else "")


def to_player(observation: Any, info: dict[str, Any]) -> str:
    """Return an observation, with the name of its player if there are several."""
    player, words = named_player(info), words_of(observation)
    return f"[{player}] {words}" if player else words


def said_by(message: Message) -> str:
    """Return a message with the name of its speaker."""
    return f"[{message['role']}] {words_of(message['content'])}"


@dataclass(frozen=True, slots=True)
class ShownAgent:
    """An agent whose environment shows the conversation."""

    agent: Agent
    show: Show

    async def run(self, env: Env, model: Model) -> None:
        """Play one episode."""
        shown = _ShownEnv(env, self.show)
        await self.agent.run(shown, model)
        if not shown.done:
            self.show("note", _STOPPED)


@dataclass(slots=True)
class _ShownEnv:
    env: Env
    show: Show
    done: bool = False

    @property
    def tools(self) -> Sequence[Tool]:
        return self.env.tools

    @property
    def player(self) -> str:
        return self.env.player

    def opening(self) -> list[Message]:
        return self.env.opening()

    async def reset(self) -> Content:
        observation = await self.env.reset()
        self.show("observation", self._told(observation))
        return observation

    async def open(self) -> list[Message]:
        messages = await self.env.open()
        for message in messages[:-1]:
            self.show("observation", said_by(message))
        self.show("observation", self._told(messages[-1]["content"]))
        return messages

    async def step(self, action: str) -> Step:
        self.show("action", action)
        step = await self.env.step(action)
        self.done = step.done
        self.show("reward", describe_reward(step.reward, step.info))
        if step.observation:
            self.show("observation", self._told(step.observation))
        return step

    def _told(self, observation: Content) -> str:
        return to_player(observation, {"player": self.player} if self.player else {})


async def play_model(config: Config, episodes: int) -> float:
    """Let a model play training problems, with the agent and the sampling of the configuration.

    The episodes are written to the terminal.

    Returns:
        The sum of all rewards.
    """
    from areal.runtime.build import start_rollout_worker
    from areal.runtime.plan import plan
    from areal.runtime.sampling import evaluation_sampling
    from areal.runtime.signals import abandoned_on_signal
    from areal.telemetry.logs import capture

    checked = plan(override_config(config, ["engine.count=1"]), training=False)  # one episode at a time
    source, sampling, earned = TaskSource(checked.env, config.seed), evaluation_sampling(config), 0.0
    with capture(None) as terminal:
        shown = replace(checked, agent=ShownAgent(checked.agent, Show(terminal)))
        async with abandoned_on_signal():
            worker = await start_rollout_worker(shown, None)
        try:
            for number in range(episodes):
                episode = await worker.run_episode(source.task(number), replace(sampling, seed=number))
                earned += episode.reward
        finally:
            await worker.close()
    return earned
