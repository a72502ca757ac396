"""When an answer counts as the expected one.

By default as Python's ``==`` says: sandboxes return exact builtin types, so no object of the code under test
takes part. Benchmarks that mean something looser say so with a Comparison.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?", re.ASCII)
"""Unambiguous, so that it takes linear time: the text is a model's."""


@dataclass(frozen=True, slots=True)
class Raises:
    """An expected exception, in place of an expected value.

    Attributes:
        kind: the name of its class, or of a base class of it.
    """

    kind: str


@dataclass(frozen=True, slots=True)
class Comparison:
    """How answers are compared.

    Attributes:
        relative: relative tolerance of floating-point numbers.
        absolute: absolute tolerance of floating-point numbers.
        tuples_are_lists: take ``(1, 2)`` and ``[1, 2]`` as equal, as benchmarks kept in JSON must.
        nan_is_nan: take two NaNs as equal.
    """

    relative: float = 0.0
    absolute: float = 0.0
    tuples_are_lists: bool = False
    nan_is_nan: bool = False

    def values(self, actual: Any, expected: Any) -> bool:
        """Say whether a value is the expected one; both are made of builtin types."""
        if self == Comparison():
            return bool(actual == expected)
        return self._alike(actual, expected)

    def texts(self, actual: str, expected: str) -> bool:
        """Say whether a program's output is the expected one.

        Space at the ends of lines, and empty lines at the end, do not count. With a tolerance, words that
        are numbers may differ within it.
        """
        lines, wanted = _lines(actual), _lines(expected)
        if lines == wanted:
            return True
        if not (self.relative or self.absolute) or len(lines) != len(wanted):
            return False
        return all(map(self._lines_alike, lines, wanted))

    def _alike(self, actual: Any, expected: Any) -> bool:
        kinds = {type(actual), type(expected)}
        if kinds <= {list, tuple} and (len(kinds) == 1 or self.tuples_are_lists):
            return len(actual) == len(expected) and all(map(self._alike, actual, expected))
        if kinds == {dict}:
            return actual.keys() == expected.keys() and all(
                self._alike(actual[k], expected[k]) for k in expected
            )
        if float in kinds and kinds <= {float, int, bool}:
            return self._close(actual, expected)
        if kinds <= {set, frozenset} and any(type(item) is float for item in expected):
            return self._sets_alike(actual, expected)
        return bool(actual == expected)

    def _sets_alike(self, actual: Any, expected: Any) -> bool:
        """Compare sets of numbers in order; no tolerance is defined for others."""
        if len(actual) != len(expected) or not all(
            type(item) in (float, int) for item in [*actual, *expected]
        ):
            return bool(actual == expected)
        return all(map(self._close, sorted(actual), sorted(expected)))

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
        return self._close(float(actual), float(expected))


def _lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.rstrip().split("\n")]
