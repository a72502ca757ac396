"""Text that others wrote, for a terminal: nothing of it moves the cursor, changes colours, hides letters."""

from __future__ import annotations

import unicodedata

_KEPT = "\n\t"
_HIDES = ("Cc", "Cf", "Cs", "Zl", "Zp")
"""Categories of Unicode: control, format (such as the order of writing), surrogates, separators of lines."""
_JOINS = "\u200c\u200d"
"""What some scripts and emoji are written with; alone it does no harm."""


def plain(text: str) -> str:
    r"""Return a text with everything escaped that a terminal does not show as a letter.

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
