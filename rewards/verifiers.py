"""Verifiers by name: each compares a model's text with an expected answer.

A verifier is a function of both that returns a score from 0 to 1, or None if the text has no answer in the
required form. ``areal.registry.verifiers`` has these by name; ``"module:function"`` and
``"path/to/file.py:function"`` name any other.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from fractions import Fraction
from typing import Any, TypeAlias

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
"""Maximum number of characters of a number: no answer has more, and huge numbers take time."""

_ANSWER_LINE = re.compile(
    r"^[*_#> \t]*(?:final[ \t]+)?answer[*_]*[ \t]*:([^\n]*)$", re.IGNORECASE | re.MULTILINE
)
_MOST_BRACES = 1000
"""Maximum number of opening braces that are tried: each may take time linear in the text."""


def math(action: str, expected: str) -> float | None:
    r"""Compare the content of the last ``\boxed{}`` as mathematics."""
    answer = boxed_answer(action)
    return None if answer is None else float(shared_verifier().equivalent(answer, expected))


def exact(action: str, expected: str) -> float | None:
    """Compare the whole text, without surrounding white space."""
    return float(action.strip() == expected.strip()) if action.strip() else None


def number(action: str, expected: str) -> float | None:
    """Compare the last number in the text; 1,000 equals 1e3, and 2.50 equals 2.5."""
    found = _last_number(action)
    return None if found is None else float(found == _last_number(expected))


def _last_number(text: str) -> Fraction | None:
    found = _NUMBER.findall(in_ascii(text))
    literal = read_literal(found[-1]) if found and len(found[-1]) <= _LONGEST else None
    return literal.value if literal else None


def find_verifier(name: str) -> Verifier:
    """Return a verifier by name; raises UserError if it does not exist."""
    return load_object(name) if ":" in name else verifiers.get(name)


def answer_line(action: str, expected: str) -> float | None:
    """Compare the text after the last ``Answer:`` with a short text.

    Capitalization, commas, emphasis, quotes and a final period do not matter. For an expected choice such as
    ``(B)``, the letter suffices, and its text may follow.
    """
    found = _ANSWER_LINE.findall(action)
    if not found:
        return None
    said, right = _words(found[-1]), _words(expected)
    if letter := re.fullmatch(r"\(([a-z])\)", right):
        return float(re.match(rf"\({letter[1]}\)|{letter[1]}(?:[).:]|$)", said) is not None)
    return float(said == right)


def json_object(action: str, expected: str) -> float | None:
    """Compare the last JSON object in the text with another; capitalization and white space do not matter.

    A number equals its text. The score is 1 if everything matches, otherwise 0.
    """
    found = _last_object(action)
    try:
        return None if found is None else float(_folded(found) == _folded(json.loads(expected)))
    except RecursionError:  # no expected answer is nested this deeply
        return 0.0


def _words(text: str) -> str:
    text = text.strip().strip("*_`\"'$ \t").removesuffix(".").strip("*_`\"'$ \t").casefold()
    parts = text.replace(",", " ").split() if re.search(r"\w", text) else [*"".join(text.split())]
    return " ".join(parts)


def _last_object(text: str) -> dict[str, Any] | None:
    decoder, found, start = json.JSONDecoder(), None, 0
    for _ in range(_MOST_BRACES):
        start = text.find("{", start)
        if start < 0:
            break
        try:
            found, start = decoder.raw_decode(text, start)
        except (ValueError, RecursionError):
            start += 1
    return found


def _folded(value: Any) -> Any:
    if isinstance(value, dict):
        return {_folded(key): _folded(held) for key, held in value.items()}
    if isinstance(value, list):
        return [_folded(held) for held in value]
    return value if value is None or isinstance(value, bool) else " ".join(str(value).casefold().split())
