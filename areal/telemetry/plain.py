"""Makes foreign text safe for a terminal: it cannot move the cursor, change colors, or hide characters."""

from __future__ import annotations

import unicodedata

_KEPT = "\n\t"
_HIDES = ("Cc", "Cf", "Cs", "Zl", "Zp")
"""Unicode categories: control, format (such as writing direction), surrogates, line separators."""
_JOINS = "\u200c\u200d"
"""Characters that some scripts and emoji require; they are harmless by themselves."""


def plain(text: str) -> str:
    r"""Return a text with everything escaped that a terminal does not show as a character.

    >>> plain("red \x1b[31m \u202e tide\n")
    'red \\x1b[31m \\u202e tide\n'
    """
    if text.isprintable():
        return text
    return "".join(c if c in _KEPT or c in _JOINS or not _hides(c) else _escaped(c) for c in text)


def _hides(character: str) -> bool:
    return unicodedata.category(character) in _HIDES


def _escaped(character: str) -> str:
    return character.encode("unicode_escape", "surrogatepass").decode("ascii")
