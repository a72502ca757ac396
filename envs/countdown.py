r"""``countdown-v1``: reach a target with given numbers; the answer is an expression in ``\boxed{}``.

Problems are procedural: problem ``index`` of a split is drawn from a generator seeded with (split, size,
index), and belongs to the test split exactly if the hash of its numbers and target says so.
"""

from __future__ import annotations

import random
from typing import Any

from areal.envs.arithmetic import is_test
from areal.envs.problems import ProblemEnv, Problems
from areal.errors import UserError
from areal.rewards.answers import boxed_answer
from areal.rewards.expressions import LONGEST, numbers, value

LARGEST = 99
"""Largest number, and largest target."""

Countdown = tuple[tuple[int, ...], int]
"""Numbers, and a target that an expression of all of them has."""


def problem(split: str, size: int, index: int) -> Countdown:
    """Return problem number ``index`` (any integer ≥ 0) of a split; the same one every time."""
    rng = random.Random(f"countdown/{split}/{size}/{index}")
    while True:
        drawn = tuple(rng.randint(1, LARGEST) for _ in range(size))
        target = drawn[0]
        for number in drawn[1:]:
            choices = {"+": target + number, "-": target - number, "*": target * number}
            target = choices[rng.choice("+-*")]
        shown = tuple(rng.sample(drawn, size))
        key = f"{sorted(drawn)} {target}"
        if 0 < target <= LARGEST and is_test(key) == (split == "test"):
            return shown, target


class CountdownEnv(ProblemEnv[Countdown]):
    r"""Reach a target with + - * / and each of the given numbers once: 1 if the ``\boxed{}`` does, else 0.

    Args:
        size: how many numbers.
        split: where a reset without an index draws from, ``train`` or ``test``.

    Raises:
        UserError: a wrong argument.
    """

    def __init__(self, size: int = 3, split: str = "train", render_mode: str | None = None) -> None:
        if not 2 <= size <= 6:
            raise UserError(f"countdown-v1: size={size} must be from 2 to 6")
        drawn = Problems("countdown-v1", lambda split, index: problem(split, size, index), None, split)
        super().__init__(drawn, 1000, render_mode)

    def asked(self, problem: Countdown) -> str:
        """Return the puzzle in words."""
        given, target = problem
        listed = ", ".join(map(str, given))
        asked = f"Make {target} from {listed}, each used once, with + - * / and parentheses."
        return f"{asked}\nPut the expression in \\boxed{{}}."

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Judge an expression; the episode is over."""
        right = float(_solves(boxed_answer(action), *self.problem))
        return "", right, True, False, {"reward_parts": {"correct": right}}


def _solves(expression: str | None, given: tuple[int, ...], target: int) -> bool:
    if expression is None or len(expression) > LONGEST:
        return False
    try:
        return numbers(expression) == sorted(given) and value(expression) == target
    except ValueError:
        return False
