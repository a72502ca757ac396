"""Values of untrusted code as text, in time proportional to the text that is shown."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

_BRACKETS: dict[type, tuple[str, str]] = {
    list: ("[", "]"),
    tuple: ("(", ")"),
    set: ("{", "}"),
    frozenset: ("frozenset({", "})"),
}

_MAX_BITS = 13_000
"""Number of bits up to which an integer is written in decimal digits, about 3,900 of them."""


def shown(value: Any, max_chars: int = 10_000) -> str:
    """Return ``repr(value)``, or its beginning if that is longer than ``max_chars`` characters.

    For a thousand integers of 4,000 digits, ``repr`` itself takes seconds, during which no other thread runs.

    Args:
        value: a value made of exact builtin types.
        max_chars: approximate maximum number of characters: the last part of a value is not truncated.
    """
    parts = []
    for part in _parts(value, max_chars):
        parts.append(part)
        max_chars -= len(part)
        if max_chars < 0:
            return "".join([*parts, " …"])
    return "".join(parts)


def _parts(value: Any, max_chars: int) -> Iterator[str]:
    """Yield the pieces of ``repr(value)``, in order."""
    kind = type(value)
    if kind is dict:
        yield "{"
        for place, (key, item) in enumerate(value.items()):
            yield ", " if place else ""
            yield from _parts(key, max_chars)
            yield ": "
            yield from _parts(item, max_chars)
        yield "}"
    elif kind in _BRACKETS and value:
        start, end = _BRACKETS[kind]
        yield start
        yield from _listed(value, max_chars)
        yield f",{end}" if kind is tuple and len(value) == 1 else end
    elif kind is int and value.bit_length() > _MAX_BITS:
        # Python refuses to convert such a number to decimal digits.
        yield f"{hex(value)[: max_chars + 1]}"
    else:
        yield repr(value[: max_chars + 1] if kind in (str, bytes) else value)


def _listed(items: Iterable[Any], max_chars: int) -> Iterator[str]:
    for place, item in enumerate(items):
        yield ", " if place else ""
        yield from _parts(item, max_chars)
