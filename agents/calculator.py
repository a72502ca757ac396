"""A tool for arithmetic."""

from __future__ import annotations

from areal.rewards.expressions import value


def calculator(expression: str) -> str:
    """Compute the value of an arithmetic expression.

    Args:
        expression: Numbers with + - * / and parentheses, such as "(12 + 7) * 3".
    """
    return str(value(expression))
