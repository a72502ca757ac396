"""Reads answers in words: times, dates, lengths in feet and inches, names, and spelled-out numbers."""

from __future__ import annotations

import re
from dataclasses import dataclass

from areal.rewards.mathematics.vocabulary import UNITS


@dataclass(frozen=True, slots=True)
class Words:
    """Text, by its letters and digits; ``exact`` if another text has another meaning, such as for times."""

    text: str
    exact: bool = False


def _listed(names: str) -> list[str]:
    return names.split()


_WORDS = re.compile(r"[A-Za-z][A-Za-z'\"\s.,;:!?()/-]*")
_TIME = re.compile(
    r"([0-9]{1,2}):([0-5][0-9])(?:\s|\\[,;: ]|~)*(?:\\(?:text|mathrm)\s*\{)?\s*([AaPp])\.?\s*[Mm]\.?\s*\}?"
)
_FULL_HOUR = re.compile(r"([0-9]{1,2}):(0[0-9])")
_DAY = re.compile(r"([0-9]{4})-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])")
_MONTHS = _listed("january february march april may june july august september october november december")
_DATE = re.compile(
    rf"(?:(?P<d1>[0-9]{{1,2}})(?:st|nd|rd|th)?\s+(?:of\s+)?)?"
    rf"(?P<month>{'|'.join(f'{name[:3]}(?:{name[3:]}|[.])?' for name in _MONTHS)})"
    r"(?:\s+(?P<d2>[0-9]{1,2})(?:st|nd|rd|th)?)?(?:,?\s+(?P<year>[0-9]{4}))?",
    re.IGNORECASE,
)
_FEET = re.compile(r"([0-9]+)'\s*([0-9]+(?:\.[0-9]+)?)(?:\"|'')")
_MEASURE = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]+)\.?(?:\s|,|and(?![a-z]))*")
_FONTS = re.compile(r"\\(?:text|mathrm|[,;: ])|[{}~]")
_NEVER_FORMULAS = frozenset(["yes", "no", "on", "off", "odd", "even", "none", "true", "false", "all", "both"])
_COUNT = _listed(
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
    "seventeen eighteen nineteen"
)
_TENS = _listed("twenty thirty forty fifty sixty seventy eighty ninety")
_SPELLED = re.compile(rf"(?:({'|'.join(_TENS)})(?:[-\s]({'|'.join(_COUNT[1:10])}))?|({'|'.join(_COUNT)}))")


def spelled(text: str) -> int | None:
    """Return a spelled-out number below a hundred: ``twelve``, ``Forty-two``; None: it is not one."""
    found = _SPELLED.fullmatch(text.lower())
    if not found:
        return None
    tens, ones, small = found.groups()
    if small:
        return _COUNT.index(small)
    return 10 * (_TENS.index(tens) + 2) + (_COUNT.index(ones) if ones else 0)


def read_words(text: str) -> Words | None:
    """Read a time, a date, a length in feet and inches, or a name; None: the text is none of these."""
    time = _TIME.fullmatch(text)
    if time:
        return Words(f"{int(time.group(1))}:{time.group(2)} {time.group(3).lower()}m", exact=True)
    hour = _FULL_HOUR.fullmatch(text)
    if hour:
        return Words(f"{int(hour.group(1))}:{hour.group(2)}", exact=True)
    day = _DAY.fullmatch(text)
    if day:
        return Words(f"{_MONTHS[int(day.group(2)) - 1]} {int(day.group(3))} {day.group(1)}", exact=True)
    measures = _read_measures(_FEET.sub(r"\1 ft \2 in", text))
    if measures:
        return Words(measures, exact=True)
    date = _DATE.fullmatch(text)
    if date and (date["d1"] or date["d2"] or date["year"]):
        month = next(name for name in _MONTHS if name[:3] == date["month"][:3].lower())
        return Words(f"{month} {int(date['d1'] or date['d2'] or 0)} {date['year'] or ''}", exact=True)
    return _read_name(text) if _WORDS.fullmatch(text) else None


def _read_measures(text: str) -> str | None:
    """Return a quantity in several units, such as ``2 hours and 30 minutes``, with their usual names."""
    if not text[0].isdigit():
        return None
    text, at, found = _FONTS.sub(" ", text), 0, []
    while measure := _MEASURE.match(text, at):
        unit = UNITS.get(measure.group(2)) or UNITS.get(measure.group(2).lower())
        if unit is None:
            return None
        found.append(f"{measure.group(1)} {unit}")
        at = measure.end()
    return " ".join(found) if at == len(text) and len(found) > 1 else None


def same_words(a: Words, b: Words) -> bool | None:
    """Return whether two texts are the same; a time without am or pm equals both."""
    if a.text == b.text:
        return True
    if a.exact and b.exact:
        return a.text == b.text.partition(" ")[0] or b.text == a.text.partition(" ")[0]
    return None


def _read_name(text: str) -> Words | None:
    words = re.findall(r"[A-Za-z]+", text)
    if len(words) == 1 and (len(words[0]) <= 3 or re.search(r"pi|sqrt|[(]", text)):
        return Words(words[0].lower()) if words[0].lower() in _NEVER_FORMULAS else None
    if re.search(r"[-/(]", text) and any(len(word) < 3 for word in words):
        return None
    if any(len(word) == 1 and word not in ("a", "A", "I") for word in words) or ("(" in text and "," in text):
        return None  # letters of choices, or of a formula
    return Words(" ".join(word.lower() for word in words if word.lower() not in ("a", "an", "the")))
