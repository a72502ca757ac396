"""Compares results with expected ones.

The default is Python's ``==``: sandboxes return exact builtin types, so no object of the code under test is
involved. Benchmarks with a looser notion use a Comparison. No tolerance turns a nearby number into an integer
or a boolean: tolerances apply only if the expected number is not an integer.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any, Literal

_NUMBER = re.compile(
    r"[+-]?((\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?|[iI][nN][fF]([iI][nN][iI][tT][yY])?)", re.ASCII
)
"""The pattern is unambiguous, so that matching takes linear time: the text comes from a model."""
_INTEGER = re.compile(r"[+-]?\d+", re.ASCII)
_LONGEST_KEY = 10**18
"""Maximum number of digits of an integer as the key of a JSON object."""


@dataclass(frozen=True, slots=True)
class Raises:
    """An expected exception instead of a value, by the name of its class or of a base class."""

    kind: str


@dataclass(frozen=True, slots=True)
class Either:
    """Several acceptable values instead of one, made of builtin types."""

    values: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Comparison:
    """How results are compared.

    Attributes:
        relative: relative tolerance of floating-point numbers.
        absolute: absolute tolerance of floating-point numbers.
        tuples_are_lists: treat ``(1, 2)`` and ``[1, 2]`` as equal, as benchmarks in JSON must.
        keys_are_text: treat ``{1: 2}`` and ``{"1": 2}`` as equal, for the same reason.
        nan_is_nan: treat two NaNs as equal.
        output: how the outputs of programs are compared. ``"lines"``: line by line; space at the ends of
            lines and empty lines at the end do not matter. With a tolerance, words that are numbers may
            differ within it. ``"words"``: word by word in each line; empty lines and the amount of space do
            not matter, and a number need not be written as expected. ``"decimals"``: line by line; space
            around lines and around the whole does not matter. Lines that consist of numbers may write them
            differently (``2.0`` for ``2``), without a tolerance.
    """

    relative: float = 0.0
    absolute: float = 0.0
    tuples_are_lists: bool = False
    keys_are_text: bool = False
    nan_is_nan: bool = False
    output: Literal["lines", "words", "decimals"] = "lines"

    def values(self, actual: Any, expected: Any) -> bool:
        """Return whether a value equals the expected one; both are made of builtin types."""
        if isinstance(expected, Either):
            return any(self.values(actual, value) for value in expected.values)
        if self == Comparison():
            return bool(actual == expected)
        return self._alike(actual, expected)

    def texts(self, actual: str, expected: str) -> bool:
        """Return whether a program's output equals the expected one; see ``output``."""
        alike: Callable[[str, str], bool]
        if self.output == "decimals":
            lines, wanted = _stripped_lines(actual.strip()), _stripped_lines(expected.strip())
            alike = _same_decimals
        elif self.output == "words":
            lines, wanted = (list(filter(None, _stripped_lines(text))) for text in (actual, expected))
            alike = self._lines_alike
        else:
            lines, wanted = _lines(actual), _lines(expected)
            alike = self._lines_alike if self.relative or self.absolute else operator.eq
        return len(lines) == len(wanted) and all(map(alike, lines, wanted))

    def _alike(self, actual: Any, expected: Any) -> bool:
        types = {type(actual), type(expected)}
        if types <= {list, tuple} and (len(types) == 1 or self.tuples_are_lists):
            return len(actual) == len(expected) and all(map(self._alike, actual, expected))
        if types == {dict}:
            if self.keys_are_text and actual.keys() != expected.keys():
                actual = {_json_key(key): value for key, value in actual.items()}
            return actual.keys() == expected.keys() and all(
                self._alike(actual[k], expected[k]) for k in expected
            )
        if type(expected) is float and types <= {float, int}:
            return self._close(actual, expected)
        if types <= {set, frozenset} and any(type(item) is float for item in expected):
            return self._sets_alike(actual, expected)
        return bool(actual == expected)

    def _sets_alike(self, actual: Any, expected: Any) -> bool:
        """Compare sets of numbers in sorted order; other sets have no tolerance."""
        if len(actual) != len(expected) or not all(
            type(item) in (float, int) for item in [*actual, *expected]
        ):
            return bool(actual == expected)
        return all(map(self._alike, sorted(actual), sorted(expected)))

    def _close(self, actual: float, expected: float) -> bool:
        if self.nan_is_nan and actual != actual and expected != expected:
            return True
        try:
            return math.isclose(actual, expected, rel_tol=self.relative, abs_tol=self.absolute)
        except OverflowError:
            # An integer beyond the range of floating-point numbers is close to none of them.
            return False

    def _lines_alike(self, actual: str, expected: str) -> bool:
        words, wanted = actual.split(), expected.split()
        return len(words) == len(wanted) and all(map(self._words_alike, words, wanted))

    def _words_alike(self, actual: str, expected: str) -> bool:
        if actual == expected:
            return True
        if not (_NUMBER.fullmatch(actual) and _NUMBER.fullmatch(expected)):
            return False
        if _INTEGER.fullmatch(expected):
            return Decimal(actual) == Decimal(expected)
        return self._close(float(actual), float(expected))


def _json_key(key: Any) -> Any:
    """Return the form of a key in a JSON object."""
    if type(key) is bool or key is None:
        return {True: "true", False: "false", None: "null"}[key]
    if type(key) is float or (type(key) is int and abs(key) < _LONGEST_KEY):
        return repr(key)
    return key


def _same_decimals(actual: str, expected: str) -> bool:
    """Return whether two lines are equal, as text or as numbers."""
    if actual == expected:
        return True
    try:
        numbers = [[Decimal(word) for word in line.split()] for line in (actual, expected)]
    except InvalidOperation:
        return False
    return not any(number.is_nan() for number in numbers[0]) and numbers[0] == numbers[1]


def _stripped_lines(text: str) -> list[str]:
    return [line.strip() for line in text.split("\n")]


def _lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.rstrip().split("\n")]
