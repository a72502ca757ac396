r"""Finds the final answer in a text: the last ``\boxed{}``, or what follows GSM8K's ``####``."""

from __future__ import annotations

import re

_BOXED = re.compile(r"\\(?:boxed|fbox)\s*")
_WORD = re.compile(r"[^\s$.,\\{}]+")
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)
_HASHES = re.compile(r"####[ \t]*([^\n]*)")


def boxed_answer(text: str) -> str | None:
    r"""Return the contents of the last whole ``\boxed{…}`` (also ``\fbox{…}`` and ``\boxed 5``), if any.

    Takes time linear in the text, whatever it is: the text is a model's.
    """
    closing = _closing_braces(text)
    for match in reversed(list(_BOXED.finditer(text))):
        start = match.end()
        if start in closing:
            return text[start + 1 : closing[start]].strip()
        word = _WORD.match(text, start)
        if word:
            return word.group()
    return None


def final_answer(text: str) -> str | None:
    r"""Return the final answer of a model's text: the last whole ``\boxed{…}``, or what follows ``####``.

    The second is GSM8K's own mark, which its reference solutions have; the last one counts.
    """
    boxed = boxed_answer(text)
    if boxed is not None:
        return boxed
    marked = _HASHES.findall(text)
    return marked[-1].strip() if marked else None


def reference_answer(text: str) -> str | None:
    r"""Return the final answer of a reference: after the last ``####``, in the last ``\boxed``, or all of it.

    A text of several lines without either mark has no recognisable answer: None.
    """
    marked = _HASHES.findall(text)
    if marked:
        return marked[-1].strip() or None
    boxed = boxed_answer(text)
    if boxed is not None:
        return boxed or None
    text = text.strip()
    return text if text and "\n" not in text else None


def _closing_braces(text: str) -> dict[int, int]:
    """Return for each matched opening brace where it closes; escaped braces are no braces."""
    open_braces: list[int] = []
    closing = {}
    for match in _BRACE.finditer(text):
        if match.group() == "{":
            open_braces.append(match.start())
        elif match.group() == "}" and open_braces:
            closing[open_braces.pop()] = match.start()
    return closing
