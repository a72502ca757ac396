"""Which environments are none for a model, and how they may be played in words."""

from __future__ import annotations

from typing import Any

import gymnasium
from gymnasium import spaces

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
    """Say why a model cannot play an environment, and how it can; an empty string if it can.

    ``observation`` is one of its own, and ``name`` its id, if it has one.
    """
    actions = getattr(env, "action_space", None)
    if not isinstance(observation, str):
        wrong = f"its observations are of the type {type(observation).__name__}, but a model reads text (str)"
    elif isinstance(actions, _NO_TEXT):
        wrong = f"its actions are {actions}, but a model says text"
    else:
        return ""
    if isinstance(actions, spaces.Discrete | spaces.Text) and (name in gymnasium.registry or ":" in name):
        return f"{wrong}; play it in words: --env gym-text-v1 env_options.env={name} --agent multi-turn"
    return f"{wrong}; write it down as text, as gym-text-v1 does"
