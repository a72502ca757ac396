"""Verifiers by name: each compares a model's words with an expected answer.

A verifier is any function of both that returns a score from 0 to 1, or None where the words have no answer in
the form that was asked for. ``areal.registry.verifiers`` knows these by name; ``"module:function"`` and
``"path/to/file.py:function"`` name any other.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from fractions import Fraction
from typing import TypeAlias

from areal.registry import load_object, verifiers
from areal.rewards.answers import boxed_answer
from areal.rewards.math import shared_verifier
from areal.rewards.mathematics.notation import in_ascii, read_literal

Verifier: TypeAlias = Callable[[str, str], float | None]

_NUMBER = re.compile(
    r"[+-]?(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]+)?"
    r"(?:[eE][+-]?[0-9]{1,3}(?![0-9A-Za-z.])"
    r"|\s*(?:\\times|\\cdot|\*)\s*10\s*(?:\^|\*\*)\s*(?:\{[+-]?[0-9]{1,3}\}|[+-]?[0-9]{1,3}))?"
)
_LONGEST = 100
"""Characters of a number that is looked at: no answer has more, and huge ones take time."""


def math(action: str, expected: str) -> float | None:
    r"""Compare what stands in the last ``\boxed{}`` as mathematics."""
    answer = boxed_answer(action)
    return None if answer is None else float(shared_verifier().equivalent(answer, expected))


def exact(action: str, expected: str) -> float | None:
    """Compare all of the text; white space around it does not count."""
    return float(action.strip() == expected.strip()) if action.strip() else None


def number(action: str, expected: str) -> float | None:
    """Compare the last number of the text; 1,000 is 1e3, and 2.50 is 2.5."""
    found = _last_number(action)
    return None if found is None else float(found == _last_number(expected))


def _last_number(text: str) -> Fraction | None:
    found = _NUMBER.findall(in_ascii(text))
    literal = read_literal(found[-1]) if found and len(found[-1]) <= _LONGEST else None
    return literal.value if literal else None


def find_verifier(name: str) -> Verifier:
    """Return a verifier by its name; raises UserError if there is none."""
    return load_object(name) if ":" in name else verifiers.get(name)
