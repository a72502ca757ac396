"""Explains why some environments cannot be played by a model, and how to play them as text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import gymnasium
from gymnasium import spaces

from areal.envs.pictures import READS, is_readable, kind_of
from areal.errors import UserError
from areal.registry import load_object

_NO_TEXT = (
    spaces.Box,
    spaces.Dict,
    spaces.Discrete,
    spaces.Graph,
    spaces.MultiBinary,
    spaces.MultiDiscrete,
    spaces.Tuple,
)


def not_in_words(env: Any, observation: Any, name: str) -> str:
    """Explain why a model cannot play an environment, and how it can; empty if it can.

    ``observation`` is one of the environment's observations, and ``name`` its id, if it has one.
    """
    actions = getattr(env, "action_space", None)
    if not is_readable(observation):
        wrong = f"its observations are of type {kind_of(observation)}, but {READS}"
    elif isinstance(actions, _NO_TEXT):
        wrong = f"its actions are {actions}, but a model writes text"
    else:
        return ""
    if isinstance(actions, spaces.Discrete | spaces.Text) and (name in gymnasium.registry or ":" in name):
        return (
            f"{wrong}; describe it in words with --env gym-text-v1 env_options.env={name} --agent multi-turn"
        )
    return f"{wrong}; convert it to text, as gym-text-v1 does"


def describer(who: str, name: str) -> Callable[[Any, Any], Any]:
    """Return the function that describes an observation; ``who`` is named in error messages.

    Raises:
        UserError: there is no function of this name.
    """
    if ":" not in name:
        raise UserError(f"{who}: describe={name} is not of the form path/to/file.py:function")
    found = load_object(name)
    if not callable(found):
        raise UserError(f"{who}: describe={name} is not a function")
    given: Callable[[Any, Any], Any] = found
    return given


def action_names(who: str, id: str, space: Any, names: Sequence[str] | None) -> dict[str, int] | None:
    """Return discrete actions by name or by number; None: the response itself is the action.

    Args:
        who: the caller, for error messages.
        id: id of the environment.
        space: its action space.
        names: names of all actions, in order; None: their numbers.

    Raises:
        UserError: the actions are neither discrete nor text, or the names do not match their number.
    """
    if isinstance(space, spaces.Text):
        return None
    if not isinstance(space, spaces.Discrete):
        raise UserError(f"{who}: actions of '{id}' are {space}; they must be Discrete or Text")
    count, start = int(space.n), int(space.start)
    listed = [str(start + i) for i in range(count)] if names is None else [name.lower() for name in names]
    if len(set(listed)) != count:
        raise UserError(f"{who}: '{id}' has {count} actions; actions={listed} must name each")
    return {name: start + i for i, name in enumerate(listed)}
