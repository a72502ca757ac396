"""A reward as a weighted sum of named parts.

>>> reward = Reward({"correct": 1.0, "length": 0.2})
>>> reward(Judged("How many?", "\\\\boxed{4}", found=True, correct=1.0))
(0.9982, {'correct': 1.0, 'length': -0.0018})

A part is a function of a judged answer; ``areal.registry.rewards`` has the parts by name, and
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
"""Number of characters of an answer whose ``length`` is −1."""


@dataclass(frozen=True, slots=True)
class Judged:
    """An answer, with the findings of its environment.

    Attributes:
        problem: the problem.
        answer: the text of the model.
        found: whether the text has an answer in the required form.
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
    """Return 1 for an answer in the required form, otherwise 0."""
    return float(judged.found)


def length(judged: Judged) -> float:
    """Return minus one per thousand characters, at least −1, so that short answers are better."""
    return -min(1.0, len(judged.answer) / LONG)


class Reward:
    """Weighted parts.

    Args:
        weights: the weight of each part, by its name in the registry, as ``"module:function"`` or as
            ``"path/to/file.py:function"``; None: only the verifier's score.

    Raises:
        UserError: there are no parts, a part is unknown, or a weight is not a number.
    """

    def __init__(self, weights: Mapping[str, float] | None = None) -> None:
        weights = {"correct": 1.0} if weights is None else weights
        if not isinstance(weights, Mapping) or not weights:
            raise UserError(f"rewards={weights!r} has no parts; write rewards={{correct: 1.0, length: 0.1}}")
        for name, weight in weights.items():
            if isinstance(weight, bool) or not isinstance(weight, int | float) or not math.isfinite(weight):
                raise UserError(f"rewards: the weight {weight!r} of '{name}' is not a number")
        self._parts = {name: (float(weight), _part(name)) for name, weight in weights.items()}

    def __call__(self, judged: Judged) -> tuple[float, dict[str, float]]:
        """Return the reward and its weighted parts; raises ValueError if a part is not finite."""
        parts = {name: weight * float(part(judged)) for name, (weight, part) in self._parts.items()}
        for name, value in parts.items():
            if not math.isfinite(value):
                raise ValueError(f"the part '{name}' of the reward is {value}, which is not a finite number")
        return sum(parts.values()), parts

    def nothing(self) -> dict[str, float]:
        """Return the parts of a step without a reward."""
        return dict.fromkeys(self._parts, 0.0)


def _part(name: str) -> Part:
    if ":" not in name:
        return rewards.get(name)
    try:
        found = load_object(name)
    except UserError as error:
        raise UserError(f"rewards: {error}") from error
    if not callable(found):
        raise UserError(f"rewards: '{name}' is not a function")
    return found
