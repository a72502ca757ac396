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

Verifier: TypeAlias = Callable[[str, str], float | None]

_NUMBER = re.compile(r"[+-]?(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)(?:\.[0-9]+)?")
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
    """Compare the last number of the text; 1,000 is 1000 and 2.50 is 2.5."""
    found = _last_number(action)
    return None if found is None else float(found == _last_number(expected))


def _last_number(text: str) -> Fraction | None:
    found = _NUMBER.findall(text)
    if not found or len(found[-1]) > _LONGEST:
        return None
    return Fraction(found[-1].replace(",", ""))


def find_verifier(name: str) -> Verifier:
    """Return a verifier by its name.

    Raises:
        UserError: there is none.
    """
    return load_object(name) if ":" in name else verifiers.get(name)
