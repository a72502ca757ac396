"""Numbers as they are written: digits, thousands separators, a decimal point, an exponent."""

from __future__ import annotations

import re
from fractions import Fraction

LARGEST_EXPONENT = 9_999
"""Largest exponent of a number in scientific notation."""

DECIMAL = r"(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)"
GROUPED = (
    r"[1-9][0-9]{0,2}(?:(?:(?P<mark>\{,\}|,|'|_)[0-9]{3})(?:(?P=mark)[0-9]{3})*(?![0-9])"
    r"|(?:(?P<gap>\\,|\\[ ]|\\;|\\:|[ ])[0-9]{3})(?:(?P=gap)[0-9]{3})*(?![0-9]|\s*/))(?:\.[0-9]+)?"
)
"""A number with thousands separators, all the same; ``2 100/102`` is not one."""
NUMBER = rf"(?:{GROUPED}|{DECIMAL})(?:[eE][+-]?[0-9]{{1,5}}(?![0-9A-Za-z.]))?"
_MARKS = re.compile(r"[^0-9.eE+-]")


_REPEATING = re.compile(
    r"([0-9]*)\.([0-9]*?)(?:\\(?:overline|bar)\s*\{?([0-9]{1,30})\}?"
    r"|\\dot\s*\{?([0-9])\}?(?:([0-9]{0,28})\\dot\s*\{?([0-9])\}?)?"
    r"|(?<=[0-9]\.)\(([0-9]{1,30})\)"
    r"|([0-9]{1,6})(\8+)([0-9]{0,5})(?:\.{3}|\\[lc]?dots(?![A-Za-z])))"
)


class NotReadError(ValueError):
    """The text is not a formula that this package can read."""


def number(text: str) -> Fraction:
    """Return the value of a number as :data:`NUMBER` matches it."""
    plain = _MARKS.sub("", text)
    mantissa, _, exponent = plain.lower().partition("e")
    if exponent and abs(int(exponent)) > LARGEST_EXPONENT:
        raise NotReadError("the exponent is too large")
    whole, _, part = mantissa.partition(".")
    value = Fraction(int((whole + part) or "0"), 10 ** len(part))
    return value * Fraction(10) ** int(exponent) if exponent else value


def repeating(text: str, at: int) -> tuple[Fraction, int] | None:
    r"""Return a repeating decimal that begins there, and its end.

    These are ``0.\overline{3}``, ``0.\bar{3}``, ``0.1\dot{6}``, ``0.(3)`` and ``0.333\ldots``.
    With dots, at least three digits must show the repeated part.
    """
    found = _REPEATING.match(text, at)
    if not found:
        return None
    whole, fixed, line, first, between, last, bracketed, period, again, rest = found.groups()
    if period and (len(period + again) < 3 or not period.startswith(rest)):
        return None
    repeated = line or (first and first + (between or "") + (last or "")) or bracketed or period
    value = Fraction(int(whole + fixed or "0"), 10 ** len(fixed))
    return value + Fraction(int(repeated), (10 ** len(repeated) - 1) * 10 ** len(fixed)), found.end()
