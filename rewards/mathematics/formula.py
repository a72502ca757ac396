r"""Reads a formula, in LaTeX or plain text, as a tree: ``\frac{\pi}{4}``, ``pi/4`` and ``π/4`` are one tree.

A formula is read completely or not at all: nothing is skipped or guessed.
The text comes from a model, so reading takes linear time and the depth is bounded.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from fractions import Fraction

from areal.rewards.mathematics.decimals import DECIMAL, NUMBER, NotReadError, number, repeating
from areal.rewards.mathematics.tree import Tree
from areal.rewards.mathematics.vocabulary import ACCENTS, BEGINNINGS, FONTS, FUNCTIONS, GREEK

DEEPEST = 40
"""Maximum depth of nested formulas; deeper ones are not read."""
LONGEST = 200
"""Maximum number of factors of a formula; longer ones are not read."""
_NUMBER = re.compile(NUMBER)
_DECIMAL = re.compile(DECIMAL)
_BRACED = re.compile(r"\{([^{}]*)\}|(\\?[A-Za-z]+)")

_SKIPPED = re.compile(
    r"(?:\s|\\(?:left|right|[bB]igg?[lrm]?|displaystyle|textstyle|limits|quad|qquad)(?![A-Za-z])"
    r"|\\[,;:!> ]|~|\\\\(?=[A-Za-z]))+"
)
_COMMAND = re.compile(r"\\(?:[A-Za-z]+|[{}|%$])")
_LETTERS = re.compile(r"[A-Za-z]+")
_MODULE = re.compile(r"(?:np|numpy|math|sp|sympy|mp|mpmath|cmath)\.(?=[a-z])")
_D = r"(?:d|\\partial|\\mathrm\{d\})\s*"
_NTH = r"(?:\^\s*\{?\s*([2-4])\s*\}?\s*)?"
_DERIVATIVE = re.compile(
    rf"\\[dt]?frac\s*\{{\s*{_D}{_NTH}(\\?[A-Za-z]+(?:_(?:\{{\w+\}}|\w))?)?\s*\}}"
    rf"\s*\{{\s*{_D}(\\?[A-Za-z]+)\s*{_NTH}\s*\}}"
)
_LOG_OF = re.compile(r"log(?:2|10)(?=\s*[({])")
_DEGREES = re.compile(r"\^\s*(?:\{\s*\\circ\s*\}|\\circ(?![A-Za-z]))|\\degree(?![A-Za-z])|°")
_PRIMES = re.compile(r"\^\s*\{?\s*((?:\\prime\s*)+)\}?|('+)")
_SUBSCRIPT = re.compile(r"_\s*(?:\{((?:[^{}]|\{[^{}]*\})*)\}|(\\[A-Za-z]+|[A-Za-z0-9]))")
_TIMES = ("\\times", "\\cdot", "\\ast", "\\bullet")
_PLAIN = re.compile(
    "|".join(sorted(FUNCTIONS, key=len, reverse=True)) + r"|infinity|infty|inf(?![a-z])|oo(?![a-z])|pi"
)


def read_formula(text: str) -> tuple[Tree, bool]:
    """Return a formula's tree, and whether it is ambiguous; raises NotReadError if it is not a formula."""
    reader = _Reader(text)
    tree = reader.sum()
    if reader.here():
        raise reader.unknown()
    return tree, reader.ambiguous


class _Reader:
    """Reads from left to right; each method reads one kind of element at ``at`` and moves past it."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.ambiguous = False
        self._depth = 0
        self._factors = 0

    def match(self, pattern: re.Pattern[str]) -> re.Match[str] | None:
        """Move past the match of a pattern at this place, if there is one."""
        found = pattern.match(self.text, self.at)
        if found:
            self.at = found.end()
        return found

    def skip(self) -> None:
        self.match(_SKIPPED)

    def here(self) -> str:
        """Return the next character that is not a space; empty at the end."""
        self.skip()
        return self.text[self.at : self.at + 1]

    def unknown(self) -> NotReadError:
        return NotReadError(f"{self.text[self.at :]!r} is unknown")

    def take(self, *choices: str) -> str | None:
        """Move past the first of the choices that is at this place, if any."""
        self.skip()
        for choice in choices:
            if self.text.startswith(choice, self.at):
                end = self.at + len(choice)
                if choice[-1].isalpha() and end < len(self.text) and self.text[end].isalpha():
                    continue
                self.at = end
                return choice
        return None

    def expect(self, choice: str) -> None:
        if self.take(choice) is None:
            raise NotReadError(f"{choice!r} is missing")

    def sum(self) -> Tree:
        tree = self._signed(self._product)
        while sign := self.take("+", "-"):
            term = self._product()
            tree = ("+", tree, term if sign == "+" else ("neg", term))
        return tree

    def _signed(self, read: Callable[[], Tree]) -> Tree:
        """Read something that may have a sign before it."""
        sign = self.take("+", "-")
        tree = read()
        return ("neg", tree) if sign == "-" else tree

    def _product(self) -> Tree:
        tree = self._factor()
        while True:
            if self.take("**"):
                raise NotReadError("a power without a base")
            if self.take("*", *_TIMES):
                tree = ("*", tree, self._signed(self._factor))
            elif self.take("/", "\\div"):
                tree = ("/", tree, self._signed(self._divisor))
            elif self._begins_factor():
                if self._digit():
                    raise NotReadError("two numbers side by side")
                tree = ("*", tree, self._factor())
            else:
                return tree

    def _divisor(self) -> Tree:
        """``t/RC`` divides by all of ``RC``, ``1/2x`` only by 2; both are ambiguous."""
        by_number = self._digit()
        tree = self._factor()
        while self._begins_factor() and not self._digit():
            self.ambiguous = True
            if by_number:
                break
            tree = ("*", tree, self._factor())
        return tree

    def _digit(self) -> bool:
        return self.here().isdigit()

    def _begins_factor(self) -> bool:
        here = self.here()
        if here == "\\":
            found = _COMMAND.match(self.text, self.at)
            return found is not None and found.group()[1:] in BEGINNINGS
        return bool(here) and (here.isalnum() or here in "({[") and here.isascii()

    def _factor(self) -> Tree:
        """A primary with the suffixes after it: powers, factorials, degrees."""
        tree = self._primary()
        while True:
            self.skip()
            self._factors += 1
            if self._factors > LONGEST:
                raise NotReadError("too long")
            if self.match(_DEGREES):
                tree = ("degrees", tree)
            elif self.take("!"):
                tree = ("call", "factorial", tree)
            elif self.take("^", "**"):
                tree = ("^", tree, self._exponent())
            else:
                return tree

    def _exponent(self) -> Tree:
        sign = self.take("-", "+")
        tree = self._primary()
        if self.take("^", "**"):  # 2**3**2; in LaTeX this is an error
            self._enter()
            tree = ("^", tree, self._exponent())
            self._depth -= 1
        return ("neg", tree) if sign == "-" else tree

    def _primary(self) -> Tree:
        self._enter()
        tree = self._bare()
        self._depth -= 1
        return tree

    def _enter(self) -> None:
        self._depth += 1
        if self._depth > DEEPEST:
            raise NotReadError("nested too deeply")

    def _bare(self) -> Tree:
        here = self.here()
        if here.isdigit() or here == ".":
            return self._number()
        if here in ("(", "{", "["):
            return self._group()
        if self.take("|"):
            return self._bars("|")
        if here == "\\":
            return self._command()
        if here.isalpha() and here.isascii():
            return self._letters()
        raise self.unknown()

    def _group(self) -> Tree:
        opening = self.text[self.at]
        self.at += 1
        tree = self.sum()
        self.expect({"(": ")", "{": "}", "[": "]"}[opening])
        return tree

    def _bars(self, closing: str) -> Tree:
        """Read the content of bars, after the opening one."""
        tree = self.sum()
        self.expect(closing)
        return ("call", {"|": "abs", "\\rvert": "abs", "\\rfloor": "floor", "\\rceil": "ceil"}[closing], tree)

    def _number(self) -> Tree:
        periodic = repeating(self.text, self.at)
        if periodic:
            value, self.at = periodic
            return ("number", value)
        found = _NUMBER.match(self.text, self.at)
        if not found or found.group() == ".":
            raise NotReadError("no number")
        text = found.group()
        if "," in text and "{,}" not in text:
            # Within a formula, a comma is a separator; notation.py looks at whole answers.
            text = re.match(DECIMAL, text).group()  # type: ignore[union-attr]
        self.at += len(text)
        value = number(text)
        self.skip()
        return self._mixed(value) if value.denominator == 1 and text.isdigit() else ("number", value)

    def _mixed(self, whole: Fraction) -> Tree:
        r"""``2\frac12`` and ``2 1/2`` are two and a half; ``2\frac{10}{3}`` may also be a product."""
        found = _MIXED.match(self.text, self.at)
        if not found:
            return ("number", whole)
        above, below = (int(part) for part in found.groups() if part is not None)
        if not 0 < above < below:
            if found.group().startswith("\\"):
                self.ambiguous = True
                return ("number", whole)
            raise NotReadError("two numbers side by side")
        self.at = found.end()
        return ("number", whole + Fraction(above, below))

    def _command(self) -> Tree:
        if derivative := self.match(_DERIVATIVE):
            nth, of, by, _ = (re.sub(r"[\\{}]", "", group or "") for group in derivative.groups())
            return self._symbol(f"d{nth}{of}/d{by}{nth}")
        found = self.match(_COMMAND)
        if not found:
            raise self.unknown()
        name = found.group()[1:]
        bars = {"lfloor": "\\rfloor", "lceil": "\\rceil", "lvert": "\\rvert"}
        if name in bars:
            return self._bars(bars[name])
        if name in ("frac", "dfrac", "tfrac", "cfrac"):
            return ("/", self._argument(), self._argument())
        if name in ("binom", "dbinom", "tbinom"):
            return ("call", "binomial", self._argument(), self._argument())
        if name in FONTS:
            return self._unwrapped()
        if name in ACCENTS:
            return self._symbol(f"{name} {self._braced()}")
        return self._named(name)

    def _named(self, name: str) -> Tree:
        if name == "pi":
            return ("constant", "pi")
        if name in ("imath", "i"):
            return ("constant", "i")
        if name in FUNCTIONS:
            return self._call(FUNCTIONS[name])
        if name in GREEK:
            return self._symbol(name)
        raise NotReadError(f"{name!r} is unknown")

    def _unwrapped(self) -> Tree:
        r"""``\mathrm{e}`` and ``\operatorname{sin}``; other words are not part of a formula."""
        inner = self._braced().strip(" ~")
        if inner in FUNCTIONS:
            return self._call(FUNCTIONS[inner])
        if len(inner) == 1 and inner.isalpha():
            return self._letter(inner)
        if re.fullmatch(DECIMAL, inner):
            return ("number", number(inner))
        raise NotReadError(f"{inner!r} is not a formula")

    def _braced(self) -> str:
        r"""Return the text in ``{x}``, or the single letter or command at this place."""
        self.skip()
        found = self.match(_BRACED)
        if not found:
            raise NotReadError("an argument is missing")
        return (found.group(1) if found.group(1) is not None else found.group(2)).strip().lstrip("\\")

    def _argument(self) -> Tree:
        r"""An argument of a command: in braces, or one token; ``\frac12`` has two arguments of one digit."""
        here = self.here()
        if here == "{":
            return self._group()
        if here.isdigit():
            self.at += 1
            return ("number", Fraction(int(here)))
        if here.isalpha() and here.isascii():
            self.at += 1
            return self._letter(here)
        if here == "\\":
            self._enter()
            tree = self._command()
            self._depth -= 1
            return tree
        raise NotReadError("an argument is missing")

    def _letters(self) -> Tree:
        self.match(_MODULE)
        found = _LETTERS.match(self.text, self.at)
        assert found is not None
        word = found.group()
        if word == "log" and (based := self.match(_LOG_OF)):
            return self._call(based.group())
        known = _PLAIN.match(word)
        if known and (
            known.end() == len(word) or known.group() in ("pi", "sqrt") or len(word) - known.end() == 1
        ):
            self.at += known.end()
            if known.group() in ("infinity", "infty", "inf", "oo"):
                raise NotReadError("infinity is not a number")
            return self._named(known.group())
        if len(word) > 3:
            inner = next((at for at in range(1, len(word)) if _PLAIN.match(word, at) and at < 3), None)
            if inner is None:
                self.at = found.end()
                self.ambiguous = True
                return self._symbol(word)
        self.at += 1
        return self._letter(word[0])

    def _letter(self, letter: str) -> Tree:
        if self.here() not in ("_", "'") and not _PRIMES.match(self.text, self.at):
            if letter == "e":
                return ("constant", "e")
            if letter == "i":
                return ("constant", "i")
        return self._symbol(letter)

    def _symbol(self, name: str) -> Tree:
        """A name with its subscript, its primes, and its argument, as in x(t)."""
        for _ in range(2):
            self.skip()
            if found := self.match(_SUBSCRIPT):
                inner = next(part for part in found.groups() if part is not None)
                name += "_" + re.sub(r"\\(?:text|mathrm|rm)(?![A-Za-z])|[\s{}~\\]", "", inner)
            if primes := self.match(_PRIMES):
                name += "'" * (primes.group(0).count("\\prime") + primes.group(0).count("'"))
        found = _APPLIED.match(self.text, self.at)
        if found and (
            found.group(1).isdigit() or len(found.group(1).strip("\\")) == 1 or "\\" in found.group(1)
        ):
            self.ambiguous = True
            self.at = found.end()
            name += f"({found.group(1)})"
        return ("symbol", name)

    def _call(self, function: str) -> Tree:
        """A function with its argument, which may lack parentheses; a power may precede the argument."""
        power = base = None
        if function == "sqrt" and self.take("["):
            base = self.sum()
            self.expect("]")
        for _ in range(2):
            if self.take("_"):
                base = self._argument_of_index()
            if self.take("^", "**"):
                power = self._exponent()
        argument = self._applied_to(function)
        tree = ("call", function, argument) if base is None else ("call", function, argument, base)
        if power == ("neg", ("number", Fraction(1))) and "arc" + function in FUNCTIONS:
            return ("call", "arc" + function, argument)
        return tree if power is None else ("^", tree, power)

    def _argument_of_index(self) -> Tree:
        if self._digit():
            found = re.compile(r"[0-9]+").match(self.text, self.at)
            assert found is not None
            # \log_28 has base 2, because the base is one token; \log_{10} has braces.
            self.at += 1 if self.text[self.at - 1] == "_" else len(found.group())
            return ("number", Fraction(int(self.text[self.at - 1])))
        return self._argument()

    def _applied_to(self, function: str) -> Tree:
        if self.here() in ("(", "{", "["):
            return self._group()
        if self.take("|"):
            return self._bars("|")
        if function in ("sqrt", "cbrt", "abs"):
            return self._number_or_argument()
        tree = self._factor()
        while self._begins_factor() and not self._begins_function() and not self._digit():
            tree = ("*", tree, self._factor())
        if self.text.startswith("/", self.at):
            self.ambiguous = True
        return tree

    def _number_or_argument(self) -> Tree:
        if self._digit():
            found = self.match(_DECIMAL)
            assert found is not None
            return ("number", number(found.group()))
        return self._argument()

    def _begins_function(self) -> bool:
        found = re.compile(r"\\?([A-Za-z]+)").match(self.text, self.at)
        return found is not None and found.group(1) in FUNCTIONS


_MIXED = re.compile(
    r"(?:\\[dtc]?frac\s*(?:\{\s*([0-9]{1,9})\s*\}|([0-9]))\s*(?:\{\s*([0-9]{1,9})\s*\}|([0-9]))"
    r"|([0-9]{1,9})\s*/\s*([0-9]{1,9})(?![0-9.]))"
)
_APPLIED = re.compile(r"\s*\(\s*([0-9]+|[A-Za-z]|\\[A-Za-z]+)\s*\)")
