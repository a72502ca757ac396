r"""``gym-text-v1``: any Gymnasium environment that can be described in words."""

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

_COLORED = re.compile(r"\x1b\[\d+m(.*?)\x1b\[0m")
"""Colored parts of a rendering, such as the player's position; they appear in brackets."""
_READABLE = 32
"""Array size up to which a model may make sense of the numbers: a small vector, but not an image."""


class GymTextEnv(gymnasium.Env[str, str]):
    r"""Plays another environment in words, with observations as text and actions by name in ``\boxed{}``.

    An observation is the result of ``describe``, or the ``ansi`` rendering of the environment if there is
    one, or else the observation as Python prints it. A response without a valid action costs a turn, and the
    observation says so. Use the agent ``multi-turn``.

    Args:
        env: the other environment, by any name that training accepts; its actions must be ``Discrete`` or
            ``Text``.
        options: keyword arguments of the other environment.
        actions: names of its discrete actions, in order; None: the environment's own names, or else their
            numbers.
        describe: ``path/to/file.py:function`` or ``module:function``, which receives an observation and the
            environment (``unwrapped``) and returns text.
        task: text at the beginning of the first observation.
        max_turns: maximum number of responses in an episode.

    Attributes:
        notices: what was adapted.
        warnings: possible problems for a run.

    Raises:
        UserError: the environment or function does not exist, or the actions cannot be named.
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
                f"observations of '{env}' have an array of {numbers} numbers, which a model cannot "
                "interpret; describe them in words with env_options.describe=path/to/file.py:function",
            )

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[str, dict[str, Any]]:
        """Begin an episode of the other environment."""
        super().reset(seed=seed)
        observation, _ = self._env.reset(seed=seed, options=options)
        self._turn = 0
        return f"{self._task}\n{self._shown(observation)}\n{self._asked()}", {}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Take the action that the response names; the reward is that of the other environment."""
        if self._turn is None:
            raise ResetNeeded("call reset before step")
        self._turn += 1
        used_up = self._turn >= self._max_turns
        named = boxed_answer(action)
        chosen = named if self._actions is None else self._actions.get((named or "").strip().lower())
        if chosen is None:
            return f"That is not an action. {self._asked()}", 0.0, False, used_up, _of(0.0)
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
            return _COLORED.sub(r"[\1]", str(self._env.render())).strip()
        return str(observation)

    def _asked(self) -> str:
        if self._actions is None:
            return "Put your action in \\boxed{}."
        return f"Put one of these in \\boxed{{}}: {', '.join(self._actions)}."


def _of(reward: float) -> dict[str, Any]:
    """Return the entries of info about the reward."""
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
    """Return the environment's names of its actions: from an enumeration (MiniGrid) or meanings (Atari)."""
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
    """Return the size of the largest array in an observation."""
    if isinstance(space, Dict | Tuple):
        parts = space.spaces.values() if isinstance(space, Dict) else space.spaces
        return max(map(_largest, parts), default=0)
    return math.prod(space.shape) if isinstance(space, Box) else 0
