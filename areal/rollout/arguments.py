"""The arguments of tool calls as JSON: what a model or a program wrote, if a client can read it again."""

from __future__ import annotations

import json
import math
from typing import Any, NoReturn

_DEEPEST = 64
"""Levels of lists and objects: deeper ones end the readers of some clients."""


def loads(text: str) -> Any:
    """Read JSON; models put line ends into strings as they are.

    Raises:
        ValueError: it is none, or holds what JSON cannot say: a number that is none, half of a character.
    """
    text = text.strip()
    value, end = first(text)
    if end < len(text):
        raise ValueError("more than one value")
    return value


def first(text: str, start: int = 0) -> tuple[Any, int]:
    """Read the JSON value that begins at a position of a text; return it and where it ends.

    Raises:
        ValueError: as :func:`loads`.
    """
    try:
        value, end = _DECODER.raw_decode(text, start)
        _check(value, _DEEPEST)
    except RecursionError:
        raise ValueError("the JSON is nested too deeply") from None
    return value, end


def _check(value: Any, levels: int) -> None:
    if levels == 0:
        raise ValueError("the JSON is nested too deeply")
    if isinstance(value, str):
        value.encode()  # raises a ValueError
    elif isinstance(value, dict):
        for name, item in value.items():
            name.encode()
            _check(item, levels - 1)
    elif isinstance(value, list):
        for item in value:
            _check(item, levels - 1)


def _number(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text} is too large")
    return number


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"{text} is not JSON")


_DECODER = json.JSONDecoder(strict=False, parse_float=_number, parse_constant=_no_number)
