r"""Finds the final answer in a text: in a box, after GSM8K's ``####``, or in the last line."""

from __future__ import annotations

import re
from typing import NamedTuple

from areal.rewards.mathematics.notation import whole

_BOXED = re.compile(r"\\(?:boxed|fbox)\s*")
_WORD = re.compile(r"[^\s$.,\\{}]+")
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)
_HASHES = re.compile(r"(?<!#)####(?!#)[ \t]*([^\n]*)")
_BETWEEN = re.compile(
    r"(?:\s|[$,;&]|\\[()\[\],;:! ]|\\q?quad|\\text\s*\{\s*,?\s*(?:and|or)\s*\}"
    r"|(?<![A-Za-z])(?:and|or)(?![A-Za-z])"
    r"|\\?[A-Za-z](?:_\{?\w\}?)?\s*=)*"
)
"""What may stand between two boxes that are one answer: ``\boxed{3} and $x = \boxed{-2}$``."""
_HEADING = re.compile(
    r"[*_ ]*(?:step|part|case|explanation|verification|summary|problem|question|approach|method|note|check"
    r"|given|analysis|proof|final step|setup)s?(?![a-z]).*",
    re.IGNORECASE,
)
_ANSWER_HEADING = re.compile(
    r"[*_ ]*(?:the )?(?:final |numerical )?(?:answer|result|solution|conclusion)s?[:*_ ]*", re.IGNORECASE
)
_SAID = re.compile(
    r"[*_#>\s]*(?:(?:so|thus|therefore|hence)[, ]+)?(?:the\s+)?(?:final\s+|correct\s+)?"
    r"(?:answer|result|option|choice)[*_]*\s*(?:is|:|=)[:*_\s]*(.+)",
    re.IGNORECASE,
)
_STATED = re.compile(
    r"[.!?:]\s+(?:(?:so|thus|therefore|hence)[, ]+)?(?:the\s+)?(?:final\s+|correct\s+)?answer\s+is:?\s*(.+)$",
    re.IGNORECASE,
)
_ABOVE_ANSWER = re.compile(r"[*_ ]*(?:the )?(?:final )?answer[:*_ ]*", re.IGNORECASE)
_TAGGED = re.compile(r"<answer>\s*([^<>]*?)\s*</answer>$")
_SAID_AGAIN = re.compile(r"(?:the\s+)?(?:final\s+)?answer\s+is:?\s*(.+)", re.IGNORECASE)
_HOPE = re.compile(r"[.\s]*I hope (?:it|this) (?:is correct|helps)\.?\s*$", re.IGNORECASE)
_NEXT_LINE = re.compile(r"\s*\n\s*([^\n]*[^\s][^\n]*)")
_ANSWERS = re.compile(r"[0-9\\$]|^[*_`]*\S+[*_`]*$")
"""The content of a non-heading line that precedes others: mathematics, or one word."""
_MAX_PROSE = 12
"""Number of words that a final answer without mathematics may have."""


class Reference(NamedTuple):
    """The final answer of a reference, and the rule that found it."""

    answer: str
    rule: str


def boxed_answer(text: str) -> str | None:
    r"""Return the content of the last complete ``\boxed{…}`` (also ``\fbox{…}`` and ``\boxed 5``), if any.

    Boxes separated only by commas, ``and`` or ``or`` are one answer: their contents, joined by commas. The
    time is linear in the text, whatever it contains, because it comes from a model.
    """
    boxes = _boxes(text)
    return ", ".join(boxes) if boxes else None


def final_answer(text: str) -> str | None:
    r"""Return the final answer in a text: the last complete ``\boxed{…}``, or the text after ``####``.

    ``####`` is the mark in GSM8K's reference solutions; the last one that is not a heading counts.
    """
    boxed = boxed_answer(text)
    if boxed is not None:
        return boxed
    mark = _mark(text)
    return mark.group(1).strip() if mark else None


def reference_answer(text: str) -> str | None:
    r"""Return the final answer of a reference; see :func:`read_reference`."""
    found = read_reference(text)
    return found.answer if found else None


def read_reference(text: str, mathematics: bool = True) -> Reference | None:
    r"""Return the final answer of a reference: after its ``####``, in its ``\boxed``, or all of it.

    ``####`` counts if no box follows and it is not a Markdown heading. A text of several lines without
    either has an answer only if its last line says so (``Answer: 42``), alone under such a heading or in
    ``<answer>``. None: no answer is found, or it is not readable as ``mathematics``, because a brace is
    unclosed or it is prose.
    """
    found = _find_reference(text)
    return found if found and (not mathematics or _is_readable(found.answer)) else None


def _find_reference(text: str) -> Reference | None:
    text = text.strip()
    mark, boxes = _mark(text), _boxes(text)
    if mark and not (boxes and _BOXED.search(text, mark.end())):
        return Reference(boxed_answer(mark.group(1)) or mark.group(1).strip(), "after ####")
    if boxes:
        return Reference(", ".join(boxes), "in \\boxed" if len(boxes) == 1 else "in several \\boxed")
    if _BOXED.search(text) or re.fullmatch(r"#+[^\n]*", text):
        return None
    if "\n" not in text:
        stated = _STATED.search(_HOPE.sub("", text))
        if stated:
            return Reference(stated.group(1).strip(" *_"), "in the last line")
        return Reference(text, "the whole text") if text else None
    if tagged := _TAGGED.search(text):
        return Reference(tagged.group(1), "in <answer>")
    before, _, line = text.rpartition("\n")
    if _ABOVE_ANSWER.fullmatch(before.rstrip().rpartition("\n")[-1].lstrip("# ")):
        return Reference(line.strip(), "in the last line")
    line = _HOPE.sub("", line.strip())
    said = _SAID.fullmatch(line)
    if not said:
        return None
    again = _SAID_AGAIN.fullmatch(said.group(1))
    return Reference((again or said).group(1).strip(" *_"), "in the last line")


def _mark(text: str) -> re.Match[str] | None:
    """Return the last ``####`` before an answer, on its line or, after "Answer", on the next line."""
    for mark in reversed(list(_HASHES.finditer(text))):
        said = mark.group(1).strip()
        if _ANSWER_HEADING.fullmatch(said) or not said:
            following = _NEXT_LINE.match(text, mark.end())
            if following and not _BOXED.search(following.group(1)):
                return following
        elif not _HEADING.fullmatch(said) and (_ANSWERS.search(said) or not text[mark.end() :].strip()):
            return mark
    return None


def _is_readable(answer: str) -> bool:
    prose = re.findall(r"(?<![\\A-Za-z])[A-Za-z]{2,}(?![A-Za-z])", re.sub(r"\$[^$]*\$", "", answer))
    written = re.search(r"\w", answer) or answer == "\\emptyset"
    return whole(answer) and bool(written) and len(prose) <= _MAX_PROSE


def _boxes(text: str) -> list[str]:
    """Return the content of the last box, joined with those of preceding boxes of the same answer."""
    closing = _closing_braces(text)
    found: list[str] = []
    begins = len(text)
    for match in reversed(list(_BOXED.finditer(text))):
        box = _box(text, match, closing)
        if box is None:
            continue
        inner, end = box
        if end > begins:  # a box around a box
            continue
        if found and not _BETWEEN.fullmatch(text, end, begins):
            break
        if inner not in found:
            found.insert(0, inner)
        begins = match.start()
    return found


def _box(text: str, match: re.Match[str], closing: dict[int, int]) -> tuple[str, int] | None:
    start = match.end()
    if start in closing:
        return text[start + 1 : closing[start]].strip(), closing[start] + 1
    word = _WORD.match(text, start)
    return (word.group(), word.end()) if word else None


def _closing_braces(text: str) -> dict[int, int]:
    """Return the position of the closing brace for each matched opening brace; escaped braces do not
    count."""
    open_braces: list[int] = []
    closing = {}
    for match in _BRACE.finditer(text):
        if match.group() == "{":
            open_braces.append(match.start())
        elif match.group() == "}" and open_braces:
            closing[open_braces.pop()] = match.start()
    return closing
