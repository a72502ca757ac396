"""Environments of other libraries, which have ``reset`` and ``step`` but are none of Gymnasium's."""

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

_NO_SEED = "its reset takes no seed: if its problems are drawn at random, those of a group are not the same"


def acts(thing: Any) -> bool:
    """Whether a class or an object has what makes an environment: ``reset`` and ``step``."""
    return all(callable(getattr(thing, method, None)) for method in ("reset", "step"))


def takes_turns(thing: Any) -> bool:
    """Whether an object is a game of PettingZoo's form AEC, whose players act one after another."""
    return acts(thing) and callable(getattr(thing, "last", None)) and hasattr(thing, "possible_agents")


def adapting(name: str, make: Callable[..., Any]) -> Callable[..., gymnasium.Env[Any, Any]]:
    """Return what makes an environment of Gymnasium, with the arguments and the docstring of ``make``.

    Args:
        name: of the environment, for messages.
        make: a class, or a function. What it makes is Gymnasium's, or is adapted (:class:`AdaptedEnv`).
            UserError where it is neither.
    """

    def made(*given: Any, **options: Any) -> gymnasium.Env[Any, Any]:
        env = make(*given, **options)
        if isinstance(env, gymnasium.Env):
            return env
        if takes_turns(env):
            raise UserError(
                f"'{name}' is a game of several players in PettingZoo's form: --env pettingzoo-v1 "
                f"env_options.env={name} --agent multi-turn"
            )
        if not acts(env):
            raise UserError(
                f"'{name}' is no environment: it makes a {type(env).__name__}, which lacks reset or step"
            )
        return AdaptedEnv(env)

    return wraps(make, updated=())(made)


class AdaptedEnv(gymnasium.Env[Any, Any]):
    """Makes an object with ``reset`` and ``step`` an environment of Gymnasium.

    ``reset`` is given ``seed`` and ``options`` where it takes them; an object without, but with a method
    ``seed``, is seeded by that. It returns the observation, alone or with ``info``. ``step`` returns
    ``(observation, reward, terminated, truncated, info)``, or ``(observation, reward, done, info)``, where
    ``info["TimeLimit.truncated"]`` tells a limit from an end. Both raise TypeError on anything else.

    Spaces that are not Gymnasium's are replaced: discrete actions by ``Discrete``, all else by any text.

    Args:
        env: the object. Its ``metadata``, ``close`` and ``solution`` are taken over, and ``count`` if its
            ``reset`` takes options.

    Attributes:
        notices: what it adapts.
        warnings: what a run should know of it.
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
        """Act; a ``done`` without a reason is an end."""
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
    """Whether a method takes a keyword argument."""
    try:
        parameters = inspect.signature(method).parameters
    except ValueError:  # native code that does not tell
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
    """Return a result, which must be there."""
    if inspect.isawaitable(found):
        if inspect.iscoroutine(found):
            found.close()  # else Python warns that nobody awaited it
        raise TypeError(f"{method} is async; make it a plain method, which may block")
    return found


def _flag(value: Any) -> bool:
    if not isinstance(value, bool | np.bool_ | int):
        raise TypeError(f"step returned the {type(value).__name__} {value!r} where the end is said: a bool")
    return bool(value)


def _shape(found: Any) -> str:
    if not isinstance(found, tuple):
        return f"a {type(found).__name__}"
    return f"a tuple of {len(found)} ({', '.join(type(each).__name__ for each in found)})"
