"""A reward as a weighted sum of named parts.

>>> reward = Reward({"correct": 1.0, "length": 0.2})
>>> reward(Judged("How many?", "\\\\boxed{4}", found=True, correct=1.0))
(0.9982, {'correct': 1.0, 'length': -0.0018})

A part is any function of what is known of an answer; ``areal.registry.rewards`` knows them by name, and
``"my_package.module:function"`` and ``"path/to/file.py:function"`` name any other. Environments show the
parts in ``info["reward_parts"]``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from areal.errors import UserError
from areal.registry import load_object, rewards

LONG = 1000
"""Characters of an answer whose ``length`` is −1."""


@dataclass(frozen=True, slots=True)
class Judged:
    """An answer, and what its environment found.

    Attributes:
        problem: what was asked.
        answer: the model's words.
        found: whether they have an answer in the form that was asked for.
        correct: the verifier's score, from 0 to 1.
    """

    problem: str
    answer: str
    found: bool
    correct: float


Part: TypeAlias = Callable[[Judged], float]


def correct(judged: Judged) -> float:
    """Return the verifier's score."""
    return judged.correct


def answer_format(judged: Judged) -> float:
    """Return 1 for an answer in the form that was asked for, else 0."""
    return float(judged.found)


def length(judged: Judged) -> float:
    """Return minus one for every thousand characters, at most −1: short answers are better."""
    return -min(1.0, len(judged.answer) / LONG)


class Reward:
    """Weighted parts.

    Args:
        weights: the weight of each part, by its name in the registry, as ``"module:function"`` or as
            ``"path/to/file.py:function"``; None: the verifier's score alone.

    Raises:
        UserError: no parts, an unknown one, or a weight that is no number.
    """

    def __init__(self, weights: Mapping[str, float] | None = None) -> None:
        weights = {"correct": 1.0} if weights is None else weights
        if not isinstance(weights, Mapping) or not weights:
            raise UserError(f"rewards={weights!r} names no part; write rewards={{correct: 1.0, length: 0.1}}")
        for name, weight in weights.items():
            if isinstance(weight, bool) or not isinstance(weight, int | float) or not math.isfinite(weight):
                raise UserError(f"rewards: the weight {weight!r} of '{name}' is no number")
        self._parts = {name: (float(weight), _part(name)) for name, weight in weights.items()}

    def __call__(self, judged: Judged) -> tuple[float, dict[str, float]]:
        """Return the reward and its weighted parts, its summands; raises ValueError if one is not finite."""
        parts = {name: weight * float(part(judged)) for name, (weight, part) in self._parts.items()}
        for name, value in parts.items():
            if not math.isfinite(value):
                raise ValueError(f"the part '{name}' of the reward is {value}")
        return sum(parts.values()), parts

    def nothing(self) -> dict[str, float]:
        """Return the parts of a step that earns nothing yet."""
        return dict.fromkeys(self._parts, 0.0)


def _part(name: str) -> Part:
    if ":" not in name:
        return rewards.get(name)
    try:
        found = load_object(name)
    except UserError as error:
        raise UserError(f"rewards: {error}") from error
    if not callable(found):
        raise UserError(f"rewards: '{name}' is no function")
    return found
