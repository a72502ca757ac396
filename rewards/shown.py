"""Values of untrusted code as text, in no more time than the text takes that is shown."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

_BRACKETS: dict[type, tuple[str, str]] = {
    list: ("[", "]"),
    tuple: ("(", ")"),
    set: ("{", "}"),
    frozenset: ("frozenset({", "})"),
}

_MOST_BITS = 13_000
"""Of an integer that is written in decimal digits, some 3,900 of them."""


def shown(value: Any, most: int = 10_000) -> str:
    """Return ``repr(value)``, or its beginning if that is longer than ``most`` characters.

    ``repr`` itself takes seconds, in which no other thread runs, for some thousand integers of 4,000 digits.

    Args:
        value: made of exact builtin types.
        most: characters, roughly: the last part of a value is not cut.
    """
    parts = []
    for part in _parts(value, most):
        parts.append(part)
        most -= len(part)
        if most < 0:
            return "".join([*parts, " …"])
    return "".join(parts)


def _parts(value: Any, most: int) -> Iterator[str]:
    """Yield the pieces of ``repr(value)``, in order."""
    kind = type(value)
    if kind is dict:
        yield "{"
        for place, (key, item) in enumerate(value.items()):
            yield ", " if place else ""
            yield from _parts(key, most)
            yield ": "
            yield from _parts(item, most)
        yield "}"
    elif kind in _BRACKETS and value:
        start, end = _BRACKETS[kind]
        yield start
        yield from _listed(value, most)
        yield f",{end}" if kind is tuple and len(value) == 1 else end
    elif kind is int and value.bit_length() > _MOST_BITS:
        # Python refuses to write so many digits.
        yield f"{hex(value)[: most + 1]}"
    else:
        yield repr(value[: most + 1] if kind in (str, bytes) else value)


def _listed(items: Iterable[Any], most: int) -> Iterator[str]:
    for place, item in enumerate(items):
        yield ", " if place else ""
        yield from _parts(item, most)
