r"""``gym-text-v1``: any Gymnasium environment that can be written down, as a task for a language model."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from enum import Enum, EnumType
from typing import Any

import gymnasium
from gymnasium.error import ResetNeeded
from gymnasium.spaces import Box, Dict, Discrete, Tuple

from areal.envs.adapted import AdaptedEnv
from areal.envs.text import UnicodeText
from areal.envs.words import action_names, describer
from areal.errors import UserError
from areal.registry import make_env
from areal.rewards.answers import boxed_answer

_COLOURED = re.compile(r"\x1b\[\d+m(.*?)\x1b\[0m")
"""What a rendering has in colour, such as the player's place: here it is in brackets."""
_READABLE = 32
"""Numbers of an array that a model may still make something of: a small vector is, an image is not."""


class GymTextEnv(gymnasium.Env[str, str]):
    r"""Plays another environment in words: its observations as text, actions by name in ``\boxed{}``.

    An observation is what ``describe`` says of it, or what the environment renders as ``ansi``, if it can, or
    else the observation as Python writes it. A response that names no action costs the turn, and the
    observation says so. Its agent is ``multi-turn``.

    Args:
        env: the other environment, by any name that training takes; its actions are ``Discrete`` or ``Text``.
        options: its keyword arguments.
        actions: names of its discrete actions, in order; None: those that the environment has for them, or
            else their numbers.
        describe: ``path/to/file.py:function`` or ``module:function``, which gets an observation and the
            environment (``unwrapped``), and returns text.
        task: what the first observation begins with.
        max_turns: responses of an episode.

    Attributes:
        notices: what was adapted.
        warnings: what a run should know of it.

    Raises:
        UserError: no such environment or function, or an environment whose actions cannot be named.
    """

    def __init__(
        self,
        env: str = "FrozenLake-v1",
        options: dict[str, Any] | None = None,
        actions: Sequence[str] | None = None,
        describe: str | None = None,
        task: str = "Play this game to its best end.",
        max_turns: int = 50,
        render_mode: str | None = None,
    ) -> None:
        self.observation_space = UnicodeText(2**16)
        self.action_space = UnicodeText(2**20)
        self.render_mode = render_mode
        self._describe = None if describe is None else describer("gym-text-v1", describe)
        self._env = _make(env, options or {}, ansi=describe is None)
        asked = {"isolation": way} if (way := (self._env.metadata or {}).get("isolation")) else {}
        self.metadata = {"render_modes": [], **asked}
        inner, space = self._env.unwrapped, self._env.action_space
        self._actions = action_names("gym-text-v1", env, space, actions or _own_names(inner, space))
        self._task = task
        self._max_turns = max_turns
        self._turn: int | None = None
        self.notices: tuple[str, ...] = ()
        self.warnings: tuple[str, ...] = ()
        if isinstance(inner, AdaptedEnv):
            self.notices, self.warnings = inner.notices, inner.warnings
        numbers = _largest(self._env.observation_space)
        if numbers > _READABLE and self._describe is None and self._env.render_mode != "ansi":
            self.warnings += (
                f"observations of '{env}' have an array of {numbers} numbers, which no model reads: say what "
                "they mean by env_options.describe=path/to/file.py:function",
            )

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
        if self._describe is not None:
            text = self._describe(observation, self._env.unwrapped)
            if not isinstance(text, str):
                raise TypeError(f"describe returned a {type(text).__name__}; return text, a str")
            return text
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


def _make(name: str, options: dict[str, Any], ansi: bool) -> gymnasium.Env[Any, Any]:
    try:
        made = make_env(name, **options)
        renders = "ansi" in (made.metadata or {}).get("render_modes", ()) and "render_mode" not in options
        if not (ansi and renders):
            return made
        made.close()
        return make_env(name, **options, render_mode="ansi")
    except UserError as error:
        raise UserError(f"gym-text-v1: {error}") from error


def _own_names(env: Any, space: Any) -> list[str] | None:
    """Return what an environment calls its actions: by an enumeration (MiniGrid) or meanings (Atari)."""
    if not isinstance(space, Discrete):
        return None
    wanted = range(int(space.start), int(space.start + space.n))
    names: dict[Any, str] = {}
    if isinstance(listed := getattr(env, "actions", None), EnumType):
        members: list[Enum] = list(listed)
        names = {each.value: each.name for each in members}
    elif callable(meanings := getattr(env, "get_action_meanings", None)):
        names = dict(zip(wanted, map(str, meanings()), strict=False))
    return [names[number] for number in wanted] if names.keys() >= set(wanted) else None


def _largest(space: Any) -> int:
    """Return how many numbers the largest array of an observation has."""
    if isinstance(space, Dict | Tuple):
        parts = space.spaces.values() if isinstance(space, Dict) else space.spaces
        return max(map(_largest, parts), default=0)
    return math.prod(space.shape) if isinstance(space, Box) else 0
