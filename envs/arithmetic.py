"""Procedural arithmetic (areal.envs.procedural): the built-in problems of ``math-v1``."""

from __future__ import annotations

import random
from dataclasses import dataclass
from operator import attrgetter

from areal.envs.procedural import check_known, drawn

DIFFICULTIES = {
    1: "a ± b, operands up to 20",
    2: "a ± b, two-digit operands",
    3: "a ± b ± c, two-digit operands",
    4: "a × b ± c, two-digit by one-digit products",
    5: "(a ± b) × c ± d",
}
DEFAULT_DIFFICULTY = 3


@dataclass(frozen=True, slots=True)
class ArithmeticProblem:
    """An expression, its value, and the steps of its computation: ``("47 + 38 = 85", "85 - 21 = 64")``."""

    expression: str
    answer: int
    steps: tuple[str, ...]


def problem(split: str, difficulty: int, index: int) -> ArithmeticProblem:
    """Return problem ``index`` (≥ 0) of a split; raises ValueError for an unknown split or difficulty."""
    check_known(split, difficulty, DIFFICULTIES)
    seed = f"arithmetic/{split}/{difficulty}/{index}"
    return drawn(seed, split, lambda rng: _draw(rng, difficulty), attrgetter("expression"))


def _draw(rng: random.Random, difficulty: int) -> ArithmeticProblem:
    if difficulty == 1:
        return _chain([rng.randint(0, 20) for _ in range(2)], [rng.choice("+-")])
    if difficulty == 2:
        return _chain([rng.randint(10, 99) for _ in range(2)], [rng.choice("+-")])
    if difficulty == 3:
        return _chain([rng.randint(10, 99) for _ in range(3)], [rng.choice("+-") for _ in range(2)])
    if difficulty == 4:
        return _chain([rng.randint(10, 99), rng.randint(2, 9), rng.randint(10, 99)], ["*", rng.choice("+-")])
    first = _chain([rng.randint(10, 99) for _ in range(2)], [rng.choice("+-")])
    factor, last, op = rng.randint(2, 9), rng.randint(10, 99), rng.choice("+-")
    rest = _chain([first.answer, factor, last], ["*", op])
    return ArithmeticProblem(
        f"({first.expression}) * {factor} {op} {last}", rest.answer, first.steps + rest.steps
    )


def _chain(operands: list[int], operators: list[str]) -> ArithmeticProblem:
    """Evaluate operands that are joined by operators, from left to right (products come first in the
    list)."""
    value, steps, expression = operands[0], [], str(operands[0])
    for op, operand in zip(operators, operands[1:], strict=True):
        result = value + operand if op == "+" else value - operand if op == "-" else value * operand
        steps.append(f"{value} {op} {operand} = {result}")
        expression += f" {op} {operand}"
        value = result
    return ArithmeticProblem(expression, value, tuple(steps))
