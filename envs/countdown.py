r"""``countdown-v1``: reach a target with given numbers, with an expression in ``\boxed{}`` as the answer.

Problems are procedural (areal.envs.procedural); the key of a problem is its sorted numbers and its target.
"""

from __future__ import annotations

import random
from typing import Any

from areal.envs.problems import ProblemEnv
from areal.envs.procedural import drawn
from areal.errors import UserError
from areal.rewards.answers import boxed_answer
from areal.rewards.expressions import LONGEST, numbers, value

LARGEST = 99
"""Largest number and largest target."""

Countdown = tuple[tuple[int, ...], int]
"""Numbers, and a target that equals the value of an expression of all of them."""


def problem(split: str, size: int, index: int) -> Countdown:
    """Return problem number ``index`` (any integer ≥ 0) of a split; the same one every time."""
    seed = f"countdown/{split}/{size}/{index}"
    return drawn(seed, split, lambda rng: _draw(rng, size), lambda found: f"{sorted(found[0])} {found[1]}")


def _draw(rng: random.Random, size: int) -> Countdown:
    while True:
        given = tuple(rng.randint(1, LARGEST) for _ in range(size))
        target = given[0]
        for number in given[1:]:
            choices = {"+": target + number, "-": target - number, "*": target * number}
            target = choices[rng.choice("+-*")]
        shown = tuple(rng.sample(given, size))
        if 0 < target <= LARGEST:
            return shown, target


class CountdownEnv(ProblemEnv[Countdown]):
    r"""Reach a target with + - * / and each of the given numbers once; the reward is 1 for success, else 0.

    Args:
        size: number of given numbers.
        split: split from which a reset without an index draws, ``train`` or ``test``.

    Raises:
        UserError: a wrong argument.
    """

    def __init__(self, size: int = 3, split: str = "train", render_mode: str | None = None) -> None:
        if not 2 <= size <= 6:
            raise UserError(f"countdown-v1: size={size} must be from 2 to 6")
        super().__init__(
            "countdown-v1", lambda split, index: problem(split, size, index), split, 1000, render_mode
        )

    def asked(self, problem: Countdown) -> str:
        """Return the puzzle in words."""
        given, target = problem
        listed = ", ".join(map(str, given))
        asked = f"Make {target} from {listed}, each used once, with + - * / and parentheses."
        return f"{asked}\nPut the expression in \\boxed{{}}."

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Judge an expression; the episode ends."""
        right = float(_solves(boxed_answer(action), *self.problem))
        return "", right, True, False, {"reward_parts": {"correct": right}}


def _solves(expression: str | None, given: tuple[int, ...], target: int) -> bool:
    if expression is None or len(expression) > LONGEST:
        return False
    try:
        return numbers(expression) == sorted(given) and value(expression) == target
    except ValueError:
        return False
