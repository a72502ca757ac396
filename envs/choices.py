"""Multiple choice: a question with lettered choices, and the letter of the correct one."""

from __future__ import annotations

import hashlib
import re
import string
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from areal.envs.forms import REFERENCES, as_text, at, decoded, one_text
from areal.envs.rows import Row
from areal.errors import UserError

_CHOICES = ("choices", "options", "endings")
_RIGHT = ("answerKey", *REFERENCES, "answer_idx", "answer_index", "correct", "correct_option", "gold")
"""Fields that may name the correct choice."""
_APART = (
    ("Correct Answer", tuple(f"Incorrect Answer {n}" for n in range(1, 10))),
    ("correct_answer", tuple(f"distractor{n}" for n in range(1, 10))),
)
"""Fields for the correct choice, with the fields for the others (GPQA, SciQ)."""
_LETTERS = string.ascii_uppercase
_OWN_LETTER = re.compile(r"\(?([A-Z])[).:]\s*(\S.*)", re.DOTALL)
_ASKED = "Answer with the letter of the right choice."


@dataclass(frozen=True, slots=True)
class Choice:
    """A question with its choices.

    Attributes:
        problem: the question, a line with a letter for each choice, and the expected form of the answer.
        letter: letter of the correct choice.
        field: the field that names it.
    """

    problem: str
    letter: str
    field: str


def choice_of(row: Row, question: str, where: str) -> Choice | None:
    """Return the question of a row with its choices; None: it has no choices, or its answer is the text of
    one.

    A question that already lists its choices is not changed. The answer stays text if the question contains
    it along with the other choices.

    The correct choice may be given as its letter, its text, or its number, from 0. If it has a separate
    field, the order of the choices follows from a hash of their texts.

    Raises:
        UserError: no field names exactly one of the choices; the message begins with ``where``.
    """
    if (apart := _apart(row, question)) is not None:
        texts, right, field = apart
        return Choice(_listed(question, texts), _LETTERS[right], field)
    field, held = next(((key, held) for key in _CHOICES if (held := _held(at(row, key)))), ("", ([], [])))
    labels, choices = held
    if len(choices) < 2:
        _check_no_text(row, question, where)
        return None
    if len(choices) > len(_LETTERS):
        raise UserError(f"{where}: {field} has {len(choices)} choices, more than there are letters")
    named, value = next(((key, v) for key in _RIGHT if _says_one(v := at(row, key))), ("", None))
    if value is None:
        raise UserError(
            f"{where}: it has {field}, but no field for the correct choice, such as answer, answerKey, "
            f"answer_index or label (found: {', '.join(map(str, row))})"
        )
    right, texts = _right(value, labels, choices, f"{where}: {named}"), [str(c).strip() for c in choices]
    if str(value).strip() == texts[right] and _has_all(question, texts):
        return None  # the text is the answer
    if _has_all(question, texts, labels):
        return Choice(question, labels[right], named)
    return Choice(_listed(question, texts), _LETTERS[right], named)


def _apart(row: Row, question: str) -> tuple[list[str], int, str] | None:
    for field, others in _APART:
        right = as_text(row.get(field))
        wrong = [text.strip() for name in others if (text := as_text(row.get(name))) is not None]
        if right is not None and wrong:
            texts = sorted([right.strip(), *wrong], key=lambda text: _hash(question, text))
            return texts, texts.index(right.strip()), field
    return None


def _hash(question: str, text: str) -> bytes:
    return hashlib.sha256(f"{question}\n{text}".encode("utf-8", "surrogatepass")).digest()


def _held(value: Any) -> tuple[list[str], list[Any]] | None:
    """Return the labels and choices of a row, from a list, a dict, or separate fields; None: there are
    none."""
    if isinstance(value, str):
        value = decoded(value, None)
    if isinstance(value, dict) and isinstance(value.get("text"), list):
        found = list(zip(value.get("label") or _LETTERS, value["text"], strict=False))
    elif isinstance(value, dict):
        found = list(value.items())
    elif isinstance(value, list | tuple):
        found = [_one(number, item) for number, item in enumerate(value)]
    else:
        return None
    labels, choices = [str(label).strip() for label, _ in found], [choice for _, choice in found]
    if any(as_text(choice) is None for choice in choices) or not _in_order(labels):
        return None  # the field has another meaning, such as options of a program
    letters = [_OWN_LETTER.fullmatch(choice) for choice in choices if isinstance(choice, str)]
    own = [match.groups() for match in letters if match]
    if len(own) == len(choices) and _in_order([letter for letter, _ in own]):
        return [letter for letter, _ in own], [text for _, text in own]
    return labels, choices


def _letter(number: int) -> str:
    return _LETTERS[number] if number < len(_LETTERS) else f"{number}."


def _check_no_text(row: Row, question: str, where: str) -> None:
    """Raise UserError if the choices are text and not a list, and the answer is the letter of one."""
    field = next((key for key in _CHOICES if as_text(at(row, key)) is not None), None)
    answer = next((text for key in _RIGHT if (text := as_text(at(row, key))) is not None), "")
    text = str(at(row, field)) if field else question
    if re.fullmatch(r"\(?[A-Za-z]\)?", answer.strip()) and text not in question:
        raise UserError(
            f"{where}: {field} is text instead of a list of choices: {text[:40]!r}; write it as JSON"
        )


def _in_order(labels: list[str]) -> bool:
    """Return whether labels are those of choices: A, B, ..., or numbers from 0 or 1."""
    numbers = [str(number) for number in range(len(labels) + 1)]
    letters = [_letter(number) for number in range(len(labels))]
    return [label.upper() for label in labels] in (letters, numbers[:-1], numbers[1:])


def _one(number: int, item: Any) -> tuple[Any, Any]:
    """Return label and text of an item of a list of choices."""
    letter = _letter(number)
    if not isinstance(item, dict):
        return letter, item
    if len(item) == 1:
        return next(iter(item.items()))
    names = ("label", "key", "id"), ("text", "value", "content")
    label, text = (next((item[name] for name in some if name in item), None) for some in names)
    return letter if label is None else label, text


def _says_one(value: Any) -> bool:
    return as_text(value) is not None or (isinstance(value, list) and len(value) == 1)


def _right(value: Any, labels: Sequence[str], choices: Sequence[Any], what: str) -> int:
    """Return the number of the choice that a value means."""
    text = (one_text(value, what) or "").strip()
    letter = re.fullmatch(r"\(?(\w+)\)?[.:]?", text)
    named = [i for i, label in enumerate(labels) if letter and label.upper() == letter.group(1).upper()]
    if not named and re.fullmatch(r"\d{1,2}", text):
        named = [int(text)] if int(text) < len(choices) else []
    # A number is an index, even if the choices are numbers, as in MMLU.
    as_said = isinstance(value, str | bool | list)
    said = [i for i, c in enumerate(choices) if c == value or (as_said and str(c).strip() == text)]
    found = {*named, *said}
    if len(found) == 1:
        return found.pop()
    if not found:
        raise UserError(f"{what} is {text[:60]!r}, which is not one of the {len(choices)} choices")
    meant = " or ".join(repr(str(choices[i])) for i in sorted(found))
    raise UserError(f"{what} is {text[:60]!r}, which may mean {meant}; give the correct choice as a letter")


def _has_all(question: str, texts: Sequence[str], labels: Sequence[str] = ()) -> bool:
    """Return whether a question contains some texts in order, each after its label if there are labels."""
    if not all(text in question for text in texts):
        return False
    listed = [re.escape(text) for text in texts]
    if labels:
        listed = [rf"\(?{re.escape(s)}[).:]+\s*{t}" for s, t in zip(labels, listed, strict=True)]
    return re.search(r"(?!\w).*?".join(rf"(?<!\w){one}" for one in listed), question, re.DOTALL) is not None


def _listed(question: str, texts: Sequence[str]) -> str:
    lines = [f"{letter}. {text}" for letter, text in zip(_LETTERS, texts, strict=False)]
    return "\n".join([question, *lines, _ASKED])
