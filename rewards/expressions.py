"""Exact arithmetic expressions: their values, and the numbers in them."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable
from fractions import Fraction

LONGEST = 200
"""Maximum number of characters of an expression: more than any needs, and fast to parse."""

_BINARY: dict[type[ast.operator], Callable[[Fraction, Fraction], Fraction]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}


def value(expression: str) -> Fraction:
    """Return the value of an expression of whole numbers with + - * / and parentheses.

    Raises:
        ValueError: the text is something else, or divides by zero.
    """
    return _value(_parse(expression))


def numbers(expression: str) -> list[int]:
    """Return the numbers in such an expression, in ascending order; raises ValueError as :func:`value`
    does."""
    tree = _parse(expression)
    _value(tree)
    return sorted(node.value for node in ast.walk(tree) if isinstance(node, ast.Constant))  # type: ignore[misc]


def _parse(expression: str) -> ast.expr:
    if len(expression) > LONGEST:
        raise ValueError(f"an expression has at most {LONGEST} characters")
    try:
        return ast.parse(expression.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ValueError(f"{expression!r} is not an arithmetic expression") from error


def _value(node: ast.expr) -> Fraction:
    match node:
        case ast.Constant(value=int() as number) if not isinstance(number, bool):
            return Fraction(number)
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_value(operand)
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _BINARY:
            try:
                return _BINARY[type(op)](_value(left), _value(right))
            except ZeroDivisionError as error:
                raise ValueError("division by zero") from error
    raise ValueError("an expression contains only whole numbers, + - * / and parentheses")
