r"""Answers that are choices: ``B``, ``(B)``, ``B. 42`` and ``\textbf{(B)}\ 42`` are the same choice."""

from __future__ import annotations

import re
from collections.abc import Callable

from areal.rewards.mathematics.notation import plain, unformatted

_TARGET_CHOICE = re.compile(r"\(?([A-Z])\)?[.):]?")
_LABELLED = re.compile(r"(?:\(([A-Za-z])\)|([A-Za-z])[).:])\s*(?:\\ |\\quad|\\;|~)*\s*(\S.*)?", re.DOTALL)
_SEVERAL = re.compile(r"\(?[A-H]\)?(?:(?:\s|[,;&]|and)+\(?[A-H]\)?)+")
_LETTERS = re.compile(r"(?:[A-H]|[\s(),;&]|and)+")
_BARE_CHOICE = re.compile(r"(?:option|choice|answer)?\s*\(?([A-Za-z])\)?", re.IGNORECASE)


def chosen(answer: str, target: str, judge: Callable[[str, str], bool | None]) -> bool | None:
    """Judge the letter of a choice, with or without the text after it; None: this is not a choice.

    ``judge`` returns whether the texts after two letters are the same.
    """
    if len(target) > 1 and not (target[0] in "(\\*$" or target[1] in ").:, "):
        return None
    wanted = unformatted(plain(target))
    if _SEVERAL.fullmatch(wanted) and _LETTERS.fullmatch(given := unformatted(plain(answer))):
        return set(re.findall("[A-H]", given)) == set(re.findall("[A-H]", wanted))
    letter = _TARGET_CHOICE.fullmatch(wanted)
    label = None if letter else _LABELLED.fullmatch(wanted)
    if not letter and not (label and label.group(3)):
        return None
    given = unformatted(plain(answer)).strip()
    if letter:
        return _is_letter(given, letter.group(1))
    assert label is not None
    text = label.group(3)
    name = (label.group(1) or label.group(2)).upper()
    if _LABELLED.fullmatch(text) or not name.isalpha() or re.match(r"\s*[=^_+*/,-]", text):
        return None
    own = _LABELLED.fullmatch(given)
    if own and own.group(3):
        verdict = judge(own.group(3), text)
        return (own.group(1) or own.group(2)).upper() == name and verdict is not False
    return True if _is_letter(given, name) else judge(given, text)


def _is_letter(given: str, name: str) -> bool | None:
    bare = _BARE_CHOICE.fullmatch(given.strip(" .:"))
    if bare:
        return bare.group(1).upper() == name
    label = _LABELLED.fullmatch(given)
    if not label:
        return None
    behind = label.group(3) or ""
    if re.match(r"(?:and|or|,|/|&|\(|[A-Z]\b)|[=^_+*-]", behind):
        return False
    return (label.group(1) or label.group(2)).upper() == name
