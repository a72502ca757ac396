r"""``gym-text-v1``: any Gymnasium environment that can be written down, as a task for a language model."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import gymnasium
from gymnasium.error import Error, ResetNeeded
from gymnasium.spaces import Discrete, Text

from areal.envs.text import UnicodeText
from areal.errors import UserError
from areal.rewards.answers import boxed_answer

_COLOURED = re.compile(r"\x1b\[\d+m(.*?)\x1b\[0m")
"""What a rendering has in colour, such as the player's place: here it is in brackets."""


class GymTextEnv(gymnasium.Env[str, str]):
    r"""Plays another environment in words: its observations as text, actions by name in ``\boxed{}``.

    An observation is what the environment renders as ``ansi``, if it can, else the observation as Python
    writes it. A response that names no action costs the turn, and the observation says so. Its agent is
    ``multi-turn``.

    Args:
        env: id of the other environment; its actions are ``Discrete`` or ``Text``.
        options: its keyword arguments.
        actions: names of its discrete actions, in order; None: their numbers.
        task: what the first observation begins with.
        max_turns: responses of an episode.

    Raises:
        UserError: no such environment, or one whose actions cannot be named.
    """

    metadata = {"render_modes": []}  # noqa: RUF012 (Gymnasium's own form)

    def __init__(
        self,
        env: str = "FrozenLake-v1",
        options: dict[str, Any] | None = None,
        actions: Sequence[str] | None = None,
        task: str = "Play this game to its best end.",
        max_turns: int = 50,
        render_mode: str | None = None,
    ) -> None:
        self.observation_space = UnicodeText(2**16)
        self.action_space = UnicodeText(2**20)
        self.render_mode = render_mode
        self._env = _make(env, options or {})
        self._actions = _names(env, self._env.action_space, actions)
        self._task = task
        self._max_turns = max_turns
        self._turn: int | None = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[str, dict[str, Any]]:
        """Begin the other environment's episode."""
        super().reset(seed=seed)
        observation, _ = self._env.reset(seed=seed, options=options)
        self._turn = 0
        return f"{self._task}\n{self._shown(observation)}\n{self._asked()}", {}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Do what the response names; the reward is the other environment's."""
        if self._turn is None:
            raise ResetNeeded("call reset before step")
        self._turn += 1
        used_up = self._turn >= self._max_turns
        named = boxed_answer(action)
        chosen = named if self._actions is None else self._actions.get((named or "").strip().lower())
        if chosen is None:
            return f"That names no action. {self._asked()}", 0.0, False, used_up, _of(0.0)
        observation, reward, terminated, truncated, _ = self._env.step(chosen)
        text = f"{self._shown(observation)}\n{self._asked()}"
        return text, float(reward), bool(terminated), bool(truncated) or used_up, _of(float(reward))

    def close(self) -> None:
        """Close the other environment."""
        self._env.close()

    def _shown(self, observation: Any) -> str:
        if self._env.render_mode == "ansi":
            return _COLOURED.sub(r"[\1]", str(self._env.render())).strip()
        return str(observation)

    def _asked(self) -> str:
        if self._actions is None:
            return "Put your action in \\boxed{}."
        return f"Put one of these in \\boxed{{}}: {', '.join(self._actions)}."


def _of(reward: float) -> dict[str, Any]:
    """Return what info has of a reward."""
    return {"reward_parts": {"reward": reward}}


def _make(id: str, options: dict[str, Any]) -> gymnasium.Env[Any, Any]:
    try:
        made = gymnasium.make(id, **options)
        if "ansi" not in made.metadata.get("render_modes", ()) or "render_mode" in options:
            return made
        made.close()
        return gymnasium.make(id, render_mode="ansi", **options)
    except (Error, TypeError, ImportError) as error:
        raise UserError(f"gym-text-v1: the environment '{id}' cannot be made: {error}") from error


def _names(id: str, space: Any, names: Sequence[str] | None) -> dict[str, int] | None:
    """Actions by their names; None: the response itself is the action."""
    if isinstance(space, Text):
        return None
    if not isinstance(space, Discrete):
        raise UserError(f"gym-text-v1: actions of '{id}' are {space}; they must be Discrete or Text")
    count, start = int(space.n), int(space.start)
    listed = [str(start + i) for i in range(count)] if names is None else [name.lower() for name in names]
    if len(set(listed)) != count:
        raise UserError(f"gym-text-v1: '{id}' has {count} actions; actions={listed} must name each")
    return {name: start + i for i, name in enumerate(listed)}
