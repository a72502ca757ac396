"""Reads the arguments of tool calls as JSON; text that clients could not read back is refused."""

from __future__ import annotations

import json
import math
from typing import Any, NoReturn

_DEEPEST = 64
"""Maximum levels of lists and objects; deeper ones break the parsers of some clients."""


def loads(text: str) -> Any:
    """Read JSON; line breaks in strings are accepted unescaped, as models write them.

    Raises:
        ValueError: the text is not JSON, or contains a non-finite number or a lone surrogate.
    """
    text = text.strip()
    value, end = first(text)
    if end < len(text):
        raise ValueError("more than one value")
    return value


def first(text: str, start: int = 0) -> tuple[Any, int]:
    """Read the JSON value that starts at a position of a text; return it and its end.

    Raises:
        ValueError: as in :func:`loads`.
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
