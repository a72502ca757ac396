r"""Notation around an answer: Markdown, dollars, periods, Unicode, units; and numbers in all their forms.

areal.rewards.mathematics.forms decides what a text means. Here, ``**42.**``, ``$42$`` and ``\text{42}``
become ``42``, ``√3`` becomes ``\sqrt{3}``, and ``18 dollars`` becomes 18 with a unit.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Context, Decimal
from fractions import Fraction
from typing import Literal as Kind
from typing import TypeAlias

from areal.rewards.mathematics.decimals import LARGEST_EXPONENT, NUMBER, number
from areal.rewards.mathematics.vocabulary import (
    KNOWN_UNITS,
    LETTER_UNITS,
    MULTIPLIERS,
    NO_UNITS,
    UNICODE,
    UNITS,
)

_RAISED = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁽⁾ⁿ", "0123456789+-()n")
_LOWERED = str.maketrans("₀₁₂₃₄₅₆₇₈₉", "0123456789")
_RAISED_RUN = re.compile("[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁽⁾ⁿ]+")
_LOWERED_RUN = re.compile("[₀₁₂₃₄₅₆₇₈₉]+")
_UNICODE_ROOT = re.compile(r"√\s*([0-9]+(?:\.[0-9]+)?|[A-Za-z]|(?=[({\\]))")

_TEXT = (
    r"text|textbf|textit|textrm|textnormal|textsf|texttt|mathrm|mathbf|mathit|mathsf|mbox|hbox|operatorname|rm|bf"
    r"|boxed|fbox|ensuremath|emph|underline|boldsymbol|bm|underbrace"
)
_FONTS = re.compile(r"\\(?:text|textbf|textrm|mathrm|mathbf|textit|bf|rm)\s*\{([^{}]*)\}")
_WRAPPERS = (
    re.compile(r"\$\$(.*)\$\$", re.DOTALL),
    re.compile(r"\$([^$]*)\$", re.DOTALL),
    re.compile(r"\\\((.*)\\\)", re.DOTALL),
    re.compile(r"\\\[(.*)\\\]", re.DOTALL),
    re.compile(r"\*\*(.*)\*\*", re.DOTALL),
    re.compile(r"__(.*)__", re.DOTALL),
    re.compile(r"\*([^*]*)\*", re.DOTALL),
    re.compile(r"`+([^`]*)`+", re.DOTALL),
    re.compile(r'"([^"]*)"', re.DOTALL),
    re.compile(rf"\\(?:{_TEXT})\s*\{{([^{{}}]*(?:\{{[^{{}}]*\}}[^{{}}]*)*)\}}", re.DOTALL),
    re.compile(r"\{([^{}]*)\}", re.DOTALL),
    re.compile(r"<answer>(.*)</answer>", re.DOTALL),
)
_LEAD = re.compile(
    r"(?:(?:so|thus|therefore|hence),?\s+)?(?:the\s+)?(?:final\s+|correct\s+)?(?:answer|result|option|choice)"
    r"\s*(?:is|:|=)+\s*"
    r"|=\s*|(?:\\approx|\\sim|~|about|approximately)(?![A-Za-z])\s*"
    r"|\\(?:displaystyle|textstyle|tiny|small|normalsize|large|Large|LARGE|huge|Huge)(?![A-Za-z])\s*",
    re.IGNORECASE,
)
_ENDS = re.compile(r"(?:\s|\\[,;:! ]|~)+$|(?<![.\\])[.]$|[,;]$|\\+$|\\q?quad$")
_BLANKS = re.compile(r"[\s~]+")
_SPACING = re.compile(r"(?:\\[,;: ] ?){2,}")
_DOLLARS_WITHIN = re.compile(r"([^\s$]\s*)\$\s+\$(?=[^$]*[^$\s])")
_EVERY_INTEGER = (
    r"(?<=\S)(?:\s|[,;~$(]|\\[,;:! ]|\\q?quad)+(?:\\text\s*\{\s*(?:where|for)?\s*\}|where|for)?"
    r"\s*\(?\s*[a-z]\s*"
    r"(?:\\in\s*\\mathbb\s*\{?\s*Z\s*\}?|(?:\\text\s*\{\s*)?is (?:an|any) integer\s*\}?)\s*\)?\s*\$?$"
)
"""The text after a formula that holds for any integer, such as ``, where k is an integer``."""
_UNIT = r"\\(?:text|mathrm)\s*\{([^{}0-9]*)\}"
_INFIX = r"\{{\s*([^{{}}]*?)\s*\\{}(?![A-Za-z])\s*([^{{}}]*?)\s*\}}"
_REWRITES = [
    (needle, re.compile(pattern), put)
    for needle, pattern, put in (
        ("\\!", r",\s*\\!\s*", "{,}"),
        ("\\!", r"\\!\s*", ""),
        ("\\over", _INFIX.format("over"), r"\\frac{\1}{\2}"),
        ("\\choose", _INFIX.format("choose"), r"\\binom{\1}{\2}"),
        ("color", r"\\(?:textcolor|colorbox|color)\s*\{[^{}]*\}|\\color\s+[a-z]+(?![A-Za-z])", ""),
        ("\\phantom", r"\\phantom\s*\{[^{}]*\}", ""),
        ("\\colon", r"\\colon(?![A-Za-z])", ":"),
        ("of", r"(?<=[0-9])\s*(?:\\text\s*\{)?\s*out of\s*\}?\s*(?=[0-9])", "/"),
        ("n", r"^(?:minus|negative) (?=\S)|^\\text\s*\{(?:minus|negative) ([0-9a-z]+)\}$", r"-\1"),
        ("\\text", r"\\text\s*\{\s*((?:hundred|thousand|[mbtr]+illion|dozen)(?![a-z])[^{}]*)\}", r" \1"),
        (" to", r"\\text\s*\{ ?to ?\}", " to "),
        ("nswer", r"\\text\s*\{\s*((?:[Tt]he )?(?:[Ff]inal )?[Aa]nswer(?: is|:)) *\}", r"\1 "),
        ("\\mathbf", r"\\mathbf ?\{? ?R ?\}?", r"\\mathbb{R}"),
        ("\\Bbb", r"\\Bbb(?![A-Za-z]) ?", r"\\mathbb "),
        ("U", r"(?<=[)\]])\s*U\s*(?=[(\[])", r"\\cup "),
        ("frac", rf"\\[dt]?frac\s*\{{{_UNIT}\}}\s*\{{{_UNIT}\}}", r"\\text{\1/\2}"),
        ("mathbb", _EVERY_INTEGER, ""),
        ("integer", _EVERY_INTEGER, ""),
    )
]  # fmt: skip
"""If a text contains the first string, matches of the pattern are replaced by the last string."""

_MACRO_UNIT = re.compile(
    r"(?:\\(?:text|textrm|textnormal|textbf|textit|mathrm|mbox|operatorname)\s*\{([^{}]*)\}"
    r"|\{\\rm\s([^{}]*)\}|(?<=[0-9\s])\{[~ ]?([A-Za-z]{1,3})\})"
    r"(\s*\^\s*(?:\{\s*-?[0-9]+\s*\}|-?[0-9])|(?:\^\{?\\circ\}?)?)\s*$"
)
_DEGREE_UNIT = re.compile(
    r"\s*(?:\^\s*\{?\s*\\circ\s*\}?|\\degree(?![A-Za-z])|\\textdegree(?![A-Za-z])"
    r"|\^\s*(?:o|\{\s*o\s*\}|\{?\\text\s*\{o\}\}?)"
    r"|\s(?:degrees?|deg)(?![A-Za-z]))\s*"
    r"(?:\\(?:text|mathrm)\s*\{\s*([CFK])\s*\}|([CFK])|(Celsius|Fahrenheit|celsius|fahrenheit))?\s*$"
)
_PERCENT = re.compile(
    r"\s*(?:\\?%|(?<![A-Za-z])per\s?cent(?:age)?|(?<![A-Za-z])pct|\\text\s*\{\s*(?:\\?%|percent)\s*\})\s*$"
)
_MODULUS = re.compile(
    r"(?:\s|\\[,;: ]|~)*(?:\\pmod ?\{? ?([0-9]+) ?\}?|\\bmod ?\{?([0-9]+)\}?"
    r"|\((?:\\text\{)?(?:\\bmod|mod|\\mod)\}? ?([0-9]+)\))$"
)
_LAKHS = re.compile(r"[+-]?[1-9][0-9]?(?:,[0-9]{2})+,[0-9]{3}(?:\.[0-9]+)?")
_OF_DEGREES = re.compile(r"(?<!arc)(?:sin|cos|tan|cot|sec|csc)(?![a-z])")
_CURRENCY = re.compile(r"([+-]?)\s*(\\?\$|€|£|¥|₹|USD|US\\?\$|EUR|GBP|Rs\.?)\s*(?=[0-9.+-])")
_CURRENCY_BEHIND = re.compile(r" ?(€|£|¥|₹|¢|\\?\$)$")
_RATE = re.compile(r" ?(?:/|per) ?[A-Za-z]{2,}$")
_OHM = re.compile(r" ?(?:\\,)? ?\\Omega$")
_SCIENTIFIC = (
    r"\s*(?:\\times|\\cdot|\\ast|\*|[xX])\s*10\s*(?:\^|\*\*)\s*"
    r"(?:\{\s*(?P<braced>[+-]?\s*[0-9]{1,5})\s*\}"
    r"|\(\s*(?P<round>[+-]?[0-9]{1,5})\s*\)|(?P<bare>[+-]?[0-9]{1,5}))"
)
_LITERAL = re.compile(rf"(?P<sign>[+-]?)\s*(?P<number>{NUMBER})(?:{_SCIENTIFIC})?")
_FRACTION = r"\\[dt]?frac\s*(?:\{[0-9]+\}|[0-9])(?:\{[0-9]+\}|[0-9])"
_HEAD = re.compile(
    rf"[+-]?\s*(?:{NUMBER}(?:{_SCIENTIFIC})?(?:\s*/\s*[0-9]+|\s+[0-9]+\s*/\s*[0-9]+|\s*{_FRACTION})?|{_FRACTION})"
)
_PLAIN_UNIT = re.compile(
    r"(?:\s|\\[ ,])*((?:[A-Za-z]+\.?)(?:(?:\s*/\s*|\s*\*\s*|\s+|-)[A-Za-z]+\.?){0,4})"
    r"\s*(\^?\s*\{?[23]\}?)?\s*$"
)
_NAMED_UNIT = re.compile(r"(?<=[0-9\s})])\s*([A-Za-z]{2,}(?:/[A-Za-z]+)?)\s*(\^\s*\{?[23]\}?)?\s*$")


def plain(text: str) -> str:
    """Return an answer without the notation around it, in ASCII where possible."""
    text = in_ascii(text)
    # Collapse runs of spaces, so that no pattern below scans them again and again.
    text = _SPACING.sub(r"\\, ", _BLANKS.sub(" ", text))
    for needle, pattern, put in _REWRITES:
        if needle in text:
            text = pattern.sub(put, text)
    text = _DOLLARS_WITHIN.sub(r"\1 ", text)
    for _ in range(8):
        before = text
        text = _unwrapped(_trimmed(text))
        if text == before:
            break
    return text


def in_ascii(text: str) -> str:
    """Return a text with LaTeX for the characters of mathematics."""
    if text.isascii():
        return text
    text = _RAISED_RUN.sub(lambda run: "^{" + run.group().translate(_RAISED) + "}", text)
    text = _LOWERED_RUN.sub(lambda run: "_{" + run.group().translate(_LOWERED) + "}", text)
    text = _UNICODE_ROOT.sub(lambda root: rf"\sqrt{{{root.group(1)}}}" if root.group(1) else r"\sqrt", text)
    return text.translate(UNICODE)


def _trimmed(text: str) -> str:
    text = text.strip()
    for _ in range(8):
        found = _ENDS.search(text)
        if not found or (text.endswith("\\,") and found.group() == ","):
            break
        text = text[: found.start()].rstrip()
    lead = _LEAD.match(text)
    return text[lead.end() :] if lead and lead.end() < len(text) else text


def _unwrapped(text: str) -> str:
    for wrapper in _WRAPPERS:
        found = wrapper.fullmatch(text)
        if found and whole(found.group(1)):
            return found.group(1).strip()
    if text.startswith("**") and text.count("**") == 1:
        return text[2:].strip()
    return text


def whole(inner: str) -> bool:
    """Return whether the braces of a text match: without its ends, ``{1}{2}`` is ``1}{2``."""
    depth = 0
    for brace in re.findall(r"\\.|[{}]", inner):
        depth += (brace == "{") - (brace == "}")
        if depth < 0:
            return False
    return depth == 0


Letters: TypeAlias = Kind["numbers", "everywhere", "nowhere"]


def unformatted(text: str) -> str:
    r"""Return a text without fonts: ``\textbf{(B)}`` is ``(B)``."""
    return _FONTS.sub(r"\1", text)


@dataclass(frozen=True, slots=True)
class Literal:
    """A number in digits.

    Attributes:
        value: its exact value.
        digits: number of significant digits; None: a whole number, which is exact.
        place: place of its last digit, such as 1/100.
    """

    value: Fraction
    digits: int | None
    place: Fraction


def read_literal(text: str) -> Literal | None:
    """Return a number with its digits: ``-4.50``, ``1,234``, ``4.5e33``, ``4.5 \\times 10^{33}``."""
    found = _LITERAL.fullmatch(text)
    if not found:
        return None
    exponent = next((found[name] for name in ("braced", "round", "bare") if found[name]), None)
    power = int(exponent.replace(" ", "")) if exponent else 0
    mantissa, _, e = found["number"].lower().partition("e")
    power += int(e) if e else 0
    if abs(power) > LARGEST_EXPONENT or found["number"] == ".":
        return None
    value = number(mantissa) * (-1 if found["sign"] == "-" else 1)
    if "." not in mantissa.rstrip(".") and exponent is None and not e:
        return Literal(value, None, Fraction(1))
    figures = re.sub(r"[^0-9]", "", mantissa)
    places = len(mantissa.partition(".")[2])
    digits = len(figures.lstrip("0")) or 1
    scale = Fraction(10) ** power
    if digits in (16, 17, 18):
        value = _without_noise(value)
    return Literal(value * scale, digits, scale / 10**places)


def read_lakhs(text: str) -> Literal | None:
    """Return a number with Indian separators, such as ``12,34,567``, which could also be a list."""
    return read_literal(text.replace(",", "")) if _LAKHS.fullmatch(text) else None


def _without_noise(value: Fraction) -> Fraction:
    """Return 0.3 for 0.30000000000000004, a result of floating-point arithmetic."""
    rounded = Context(prec=15).divide(Decimal(value.numerator), Decimal(value.denominator)).normalize()
    return Fraction(rounded) if len(rounded.as_tuple().digits) <= 12 else value


def split_unit(text: str, letters: Letters = "numbers") -> tuple[str, str | None]:
    r"""Return a text without its unit, and the unit: ``18\text{ cm}^2`` is ``18`` and ``cm^2``.

    Only a quantity has one. ``letters`` says where a single letter may be a unit instead of a variable: after
    numbers in digits (``5 m``) but not after formulas (``\\frac12 m``), everywhere, or nowhere.
    """
    found = _CURRENCY.match(text)
    if found:
        head, unit = split_unit(found.group(1) + _RATE.sub("", text[found.end() :]), letters)
        mark = found.group(2).strip("\\.")
        return head, unit if unit else "$" if "$" in mark or mark == "USD" else mark
    found = _CURRENCY_BEHIND.search(text)
    if found and _is_quantity(text[: found.start()]):
        return text[: found.start()], UNITS.get(found.group(1), found.group(1).strip("\\"))
    if letters == "everywhere" and (found := _OHM.search(text)) and _is_quantity(text[: found.start()]):
        return text[: found.start()], "ohm"
    found = _PERCENT.search(text)
    if found and text[: found.start()].strip():
        return text[: found.start()].rstrip("\\ "), "%"
    found = _MODULUS.search(text)
    if found and text[: found.start()]:
        return text[: found.start()], "mod^" + next(group for group in found.groups() if group)
    found = _DEGREE_UNIT.search(text)
    if found and _is_quantity(text[: found.start()]) and not _OF_DEGREES.search(text):
        scale = next((group for group in found.groups() if group), "")
        return text[: found.start()], "°" + scale[:1].upper()
    return _split_words(text, letters)


def _split_words(text: str, letters: Letters) -> tuple[str, str | None]:
    head = text
    parts: list[str] = []
    for _ in range(6):
        found = _MACRO_UNIT.search(head)
        if not found or not _is_quantity(head[: found.start()]):
            break
        word = next(group for group in found.groups()[:3] if group is not None).strip(" ~")
        word, _, power = word.partition("^")
        if not all(
            w.lower().strip(".,-/()") not in NO_UNITS or (len(w) == 1 and w not in "ei") for w in word.split()
        ) or re.search("[0-9=]", word):
            break
        raised = re.sub(r"[^0-9-]", "", found.group(4) or power)
        parts.insert(0, _canonical(word, raised))
        rest = head[: found.start()]
        if re.search(r"\\mu\s*$", rest):
            rest, parts[0] = rest[: rest.rindex("\\mu")], "u" + parts[0]
        head = re.sub(r"(?:\s|\\[,;:! ]|~|\\cdot|\\times|/|\{\}|\\(?=$))+$", "", rest)
        if "/" in rest[len(head) :]:
            parts.insert(0, "/")
    if parts:
        return head, _joined(parts)
    return _split_plain(text, letters)


def _split_plain(text: str, letters: Letters) -> tuple[str, str | None]:
    literal = _HEAD.match(text)
    if literal:
        found = _PLAIN_UNIT.fullmatch(text, literal.end())
        if found:
            words = re.split(r"[\s/*-]+", found.group(1))
            factor = MULTIPLIERS.get(words[0].lower())
            if factor:
                rest = text[found.start(1) + len(words[0]) :]
                head, unit = split_unit("1 " + rest.strip()) if rest.strip() else ("1", None)
                return (f"({text[: literal.end()]})*{factor}", unit) if head.strip() == "1" else (text, None)
            number = letters == "everywhere" or (letters == "numbers" and bool(read_literal(literal.group())))
            if _are_units(words, text[literal.end() : found.start(1)], number):
                return text[: literal.end()], _canonical(
                    found.group(1), re.sub("[^0-9]", "", found.group(2) or "")
                )
    found = _NAMED_UNIT.search(text)
    if found and _is_quantity(text[: found.start()]) and found.group(1).lower() in UNITS:
        return text[: found.start()], _canonical(found.group(1), re.sub("[^0-9]", "", found.group(2) or ""))
    return text, None


def _are_units(words: list[str], between: str, letters: bool) -> bool:
    if len(words) == 1 and len(words[0]) == 1:
        return letters and words[0] in LETTER_UNITS
    return all(word.strip(".").lower() not in NO_UNITS for word in words) and (
        len(words[0]) > 3 or bool(between) or words[0].lower() in UNITS or len(words) > 1
    )


def _canonical(word: str, raised: str) -> str:
    word = re.sub(r"\s+", " ", word.strip(" .~\\")).replace(" per ", "/").replace(" / ", "/")
    if word.startswith("per "):
        word = "/" + word[4:]
    for name, power in (("square ", "2"), ("sq ", "2"), ("sq. ", "2"), ("cubic ", "3"), ("cu ", "3")):
        if word.lower().startswith(name):
            word, raised = word[len(name) :], power
    known = UNITS.get(word) or UNITS.get(word.lower())
    if known is None and "/" in word:
        known = "/".join(UNITS.get(part.strip().lower(), part.strip()) for part in word.split("/"))
        known = UNITS.get(known, known)
    known = known or word
    return f"{known}^{raised}" if raised and raised != "1" else known


def _joined(parts: list[str]) -> str:
    unit = " ".join(parts).replace(" / ", "/").replace("/ ", "/")
    if len(parts) > 1 and re.fullmatch(r"[^/]*[^/ ] [A-Za-z]+\^-[1-9]", unit):  # m s^-1
        above, _, below = unit.rpartition(" ")
        unit = above + "/" + below.replace("^-1", "").replace("^-", "^")
    return UNITS.get(unit, unit)


def _is_quantity(head: str) -> bool:
    head = re.sub(r"(?:\s|\\[,;:! ]|~)+$", "", head)
    return bool(re.search(r"[0-9]|\\pi|\\infty", head)) and not head.strip().endswith(tuple("+-*(=,"))


def units_differ(a: str | None, b: str | None) -> bool:
    """Return whether two units are known to differ; False for words that are not known units."""
    if a is None or b is None or a == b:
        return False

    def known(unit: str) -> bool:
        return all(part.partition("^")[0] in KNOWN_UNITS for part in re.split(r"[/ ]", unit) if part)

    return known(a) and known(b)
