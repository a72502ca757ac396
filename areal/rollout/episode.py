"""One episode: an agent, an environment and a model produce trajectories with a reward."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from areal.agents.interface import (
    Account,
    Agent,
    Content,
    ConversationTooLong,
    Message,
    PolicyFailed,
    Step,
    Tool,
)
from areal.errors import AgentFailure, UserError
from areal.rollout.environments import EnvironmentPool, named_player
from areal.rollout.model import EpisodeModel
from areal.rollout.opening import Opening
from areal.rollout.recorder import Recorder
from areal.spans import collect, total
from areal.trajectory import Episode

_LONGEST_EXPECTED = 2000
"""Maximum characters of the expected answer, which is stored with each episode."""


class RecordedEnv:
    """One episode of a Gymnasium environment for an agent; it passes opening and rewards to the model.

    Attributes:
        member: the environment of a mixture; set by the reset.
        tools: the environment's own tools; set by the reset.
        unfinished: whether the environment had not ended the episode after the last action.
        expected: the expected answer, if the environment revealed it when it ended the episode.
    """

    def __init__(
        self,
        pool: EnvironmentPool,
        env: Any,
        task: dict[str, Any],
        model: EpisodeModel,
        opening: Opening = Opening(),  # noqa: B008 (it is frozen)
    ) -> None:
        self._opening = opening
        self._pool = pool
        self._env = env
        self._task = task
        self._model = model
        self._last: tuple[Content, Mapping[str, Any]] = ("", {})
        self.member = ""
        self.tools: Sequence[Tool] = ()
        self.actions: list[str] = []
        self.unfinished = False
        self.expected = ""

    @property
    def player(self) -> str:
        """The player whose turn it is; empty if there is one player."""
        return named_player(self._last[1])

    async def reset(self) -> Content:
        """Reset the environment to the task; return the observation."""
        observation, info = self._last = await self._pool.reset(self._env, self._task)
        self._require_sight(observation, *(message["content"] for message in info.get("messages", ())))
        self.member = str(info.get("env", ""))
        self.tools = info.get("tools", ())
        self._model.set_opening(self.opening()[:-1])
        return observation

    async def open(self) -> list[Message]:
        """Reset the environment to the task; return the opening messages of the conversation."""
        await self.reset()
        return self.opening()

    def opening(self) -> list[Message]:
        """Return the opening messages of a conversation, if the last observation is its first."""
        return self._opening.messages(*self._last)

    async def step(self, action: str) -> Step:
        """Take an action."""
        self.actions.append(action)
        step = await self._pool.step(self._env, action, self._task, self.player)
        self._require_sight(step.observation)
        self._last = step.observation, step.info
        if rewards := step.info.get("rewards"):
            self._model.credit_players(rewards)
        else:
            self._model.credit(step.reward, step.info.get("reward_parts"))
        self.unfinished = not step.done
        if step.done and (expected := step.info.get("expected")) is not None:
            self.expected = str(expected)[:_LONGEST_EXPECTED]
        return step

    def _require_sight(self, *contents: Content) -> None:
        """Check that the model has vision if there is an image; declared images are checked at a run's start.

        Raises:
            UserError: it has no vision; the run ends, because other episodes would also fail.
        """
        parts = [part for content in contents if not isinstance(content, str) for part in content]
        if not self._model.sees and any(part["type"] == "image" for part in parts):
            raise UserError(
                f"environment '{self._pool.name}' shows an image that neither its first observation nor its "
                "observation_space announced, and the model cannot see images; declare the image in "
                "observation_space (docs/environments.md) and choose a vision-language model, or show text"
            )


class NothingSampled(AgentFailure):
    """Nothing was sampled in an episode, so there is nothing to train on."""


async def run_episode(
    agent: Agent,
    pool: EnvironmentPool,
    task: dict[str, Any],
    model: Recorder,
    opening: Opening = Opening(),  # noqa: B008 (it is frozen)
) -> Episode:
    """Run one episode and return the data for the learner.

    Raises:
        EnvironmentFailure: the environment raised or hung.
        ConversationTooLong: the task leaves no room for a response.
        AgentFailure: the agent blames the response, but an engine was lost or stalled during the episode.
        NothingSampled: the agent never called the model, or each of its calls was refused.
        UserError: there are several players, and the agent does not distinguish them.
    """
    started, failure = time.time(), ""
    async with pool.lend() as env:
        recorded = RecordedEnv(pool, env, task, model, opening)
        try:
            with collect(model.spans):
                await agent.run(recorded, model)
            if model.players and model.own_trajectories():
                raise one_conversation(agent, model.players)
        except (PolicyFailed, ConversationTooLong) as error:
            if not model.trajectories():
                raise
            if isinstance(error, PolicyFailed) and await model.disturbed():  # as by a short time limit
                raise AgentFailure(f"{error}; an engine was lost or frozen meanwhile") from error
            failure = str(error)
            model.set_reward(0.0)
    trajectories = model.trajectories()
    if not trajectories:
        raise NothingSampled(nothing_sampled(agent, model.accounts))
    return Episode(
        trajectories=trajectories,
        reward=model.reward,
        reward_parts={} if failure else model.parts,
        task=task,
        started=started,
        ended=time.time(),
        env=recorded.member,
        actions=recorded.actions,
        unfinished=recorded.unfinished,
        expected=recorded.expected,
        failure=failure,
        players={name: player.reward for name, player in model.players.items()},
        seconds={kind: total(model.spans, kind) for kind in ("model", "env", "env_queue", "verifier")},
        spans=model.spans,
    )


def one_conversation(agent: Agent, players: Iterable[str]) -> UserError:
    """Return the error for an agent that has one conversation for all players."""
    return UserError(
        f"the environment has several players ({', '.join(players)}), and the agent {type(agent).__name__} "
        "has one conversation for all of them; use --agent multi-turn"
    )


def nothing_sampled(agent: Agent, accounts: Sequence[Account]) -> str:
    """Describe that an agent sampled nothing; ``accounts`` are those of its calls at endpoints, if any."""
    summaries = [account.summary() for account in accounts if account.refused]
    name = type(agent).__name__
    return (
        f"the agent {name} "
        f"{summaries[0] if summaries else 'ended the episode without a request to the model'}"
    )
