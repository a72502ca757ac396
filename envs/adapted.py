"""Environments of other libraries, which have ``reset`` and ``step`` but are not Gymnasium's."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Discrete, Space

from areal.envs.text import UnicodeText
from areal.errors import UserError

_NO_SEED = "its reset does not accept a seed: if it draws problems at random, the problems of a group differ"


def acts(thing: Any) -> bool:
    """Return whether a class or an object has the methods of an environment, ``reset`` and ``step``."""
    return all(callable(getattr(thing, method, None)) for method in ("reset", "step"))


def takes_turns(thing: Any) -> bool:
    """Return whether an object is a game with PettingZoo's AEC interface, whose players act one after
    another."""
    return acts(thing) and callable(getattr(thing, "last", None)) and hasattr(thing, "possible_agents")


def adapting(name: str, make: Callable[..., Any]) -> Callable[..., gymnasium.Env[Any, Any]]:
    """Return a function that creates a Gymnasium environment, with the arguments and the docstring of
    ``make``.

    Args:
        name: name of the environment, for messages.
        make: a class or a function. It creates a Gymnasium environment, or an object to adapt
            (:class:`AdaptedEnv`); otherwise the returned function raises UserError.
    """

    def made(*given: Any, **options: Any) -> gymnasium.Env[Any, Any]:
        env = make(*given, **options)
        if isinstance(env, gymnasium.Env):
            return env
        if takes_turns(env):
            raise UserError(
                f"'{name}' is a game of several players with PettingZoo's interface; use --env "
                f"pettingzoo-v1 env_options.env={name} --agent multi-turn"
            )
        if not acts(env):
            raise UserError(
                f"'{name}' is not an environment: it creates a {type(env).__name__} without reset or step"
            )
        return AdaptedEnv(env)

    return wraps(make, updated=())(made)


class AdaptedEnv(gymnasium.Env[Any, Any]):
    """Adapts an object with ``reset`` and ``step`` to Gymnasium's interface.

    ``reset`` receives ``seed`` and ``options`` if it accepts them; otherwise a method ``seed`` sets the seed,
    if there is one. ``reset`` returns the observation, alone or with ``info``. ``step`` returns
    ``(observation, reward, terminated, truncated, info)``, or ``(observation, reward, done, info)``, where
    ``info["TimeLimit.truncated"]`` marks a truncation. Both raise TypeError for anything else.

    Spaces that are not Gymnasium's are replaced: discrete actions by ``Discrete``, all others by a space of
    any text.

    Args:
        env: the object. The environment has its ``metadata``, ``close`` and ``solution``, and its ``count``
            if ``reset`` accepts options.

    Attributes:
        notices: what it adapts.
        warnings: possible problems for a run.
    """

    def __init__(self, env: Any) -> None:
        metadata = getattr(env, "metadata", None)
        self.metadata = {"render_modes": [], **(metadata if isinstance(metadata, Mapping) else {})}
        self.render_mode = getattr(env, "render_mode", None)
        self.observation_space = _space(getattr(env, "observation_space", None))
        self.action_space = _space(getattr(env, "action_space", None))
        self._env = env
        self._taken = {name for name in ("seed", "options") if _takes(env.reset, name)}
        self._seeds = "seed" not in self._taken and callable(getattr(env, "seed", None))
        kind = type(getattr(env, "unwrapped", env))
        self.notices = (f"adapts {kind.__module__}:{kind.__qualname__}, which has reset and step",)
        for method in ("solution", *(["count"] if "options" in self._taken else [])):
            if callable(found := getattr(env, method, None)):
                setattr(self, method, found)
        chosen = "seed" in self._taken or self._seeds or hasattr(self, "count")
        self.warnings = () if chosen else (_NO_SEED,)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Begin an episode."""
        super().reset(seed=seed)
        if self._seeds and seed is not None:
            self._env.seed(seed)
        given = {"seed": seed, "options": options}
        found = _waited("reset", self._env.reset(**{name: given[name] for name in self._taken}))
        if isinstance(found, tuple):
            if len(found) != 2 or not isinstance(found[1], Mapping):
                raise TypeError(
                    f"reset returned {_shape(found)}; return the observation, or (observation, info)"
                )
            return found[0], dict(found[1])
        return found, {}

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Act; a ``done`` without a reason counts as terminated."""
        found = _waited("step", self._env.step(action))
        match found:
            case (observation, reward, ended, Mapping() as info) if isinstance(found, tuple):
                limit = bool(info.get("TimeLimit.truncated", False))
                over = (_flag(ended) and not limit, _flag(ended) and limit)
            case (observation, reward, ended, cut, Mapping() as info) if isinstance(found, tuple):
                over = (_flag(ended), _flag(cut))
            case _:
                wanted = "(observation, reward, terminated, truncated, info)"
                raise TypeError(f"step returned {_shape(found)}; return {wanted}")
        return observation, reward, *over, dict(info)

    def render(self) -> Any:
        """Return what the object renders, if it does."""
        return self._env.render() if callable(getattr(self._env, "render", None)) else None

    def close(self) -> None:
        """Close the object, if it can be closed."""
        if callable(getattr(self._env, "close", None)):
            self._env.close()


def _takes(method: Callable[..., Any], name: str) -> bool:
    """Return whether a method accepts a keyword argument."""
    try:
        parameters = inspect.signature(method).parameters
    except ValueError:  # native code without a signature
        return False
    named = parameters.get(name)
    if named is not None and named.kind in (named.KEYWORD_ONLY, named.POSITIONAL_OR_KEYWORD):
        return True
    return any(each.kind == each.VAR_KEYWORD for each in parameters.values())


def _space(given: Any) -> Space[Any]:
    if isinstance(given, Space):
        return given
    count = getattr(given, "n", None)
    if type(given).__name__ == "Discrete" and isinstance(count, int | np.integer):
        return Discrete(int(count))
    return UnicodeText(2**20)


def _waited(method: str, found: Any) -> Any:
    """Return a result; raises TypeError if it must be awaited."""
    if inspect.isawaitable(found):
        if inspect.iscoroutine(found):
            found.close()  # otherwise Python warns that it was never awaited
        raise TypeError(f"{method} is async; make it an ordinary method, which may block")
    return found


def _flag(value: Any) -> bool:
    if not isinstance(value, bool | np.bool_ | int):
        raise TypeError(
            f"step returned the {type(value).__name__} {value!r} for terminated or truncated; return a bool"
        )
    return bool(value)


def _shape(found: Any) -> str:
    if not isinstance(found, tuple):
        return f"a {type(found).__name__}"
    return f"a tuple of {len(found)} ({', '.join(type(each).__name__ for each in found)})"
