r"""Reads answers as values, lists, sets, tuples, intervals, equations, ratios, times or words.

Examples are ``1{,}000 cm``, ``\{1, 2\}``, ``1 \le x < 3`` and ``3 \pm \sqrt5``. This module never guesses.
areal.rewards.mathematics.same compares the results.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Literal as Kind
from typing import TypeAlias, TypeGuard

from areal.rewards.mathematics.decimals import NotReadError
from areal.rewards.mathematics.formula import read_formula
from areal.rewards.mathematics.notation import Letters, Literal, plain, read_lakhs, read_literal, split_unit
from areal.rewards.mathematics.tree import Tree
from areal.rewards.mathematics.vocabulary import same_names
from areal.rewards.mathematics.words import Words, read_words, spelled

_MAX_ITEMS = 60
_DEEPEST = 8


@dataclass(frozen=True, slots=True)
class Value:
    """A number or a formula, with its unit; ``literal`` if it is a single number in digits."""

    tree: Tree
    literal: Literal | None
    unit: str | None = None
    ambiguous: bool = False


@dataclass(frozen=True, slots=True)
class Many:
    """Several items: a list without brackets, a set, a tuple, an interval, a union, a ratio or a matrix."""

    kind: Kind["list", "set", "tuple", "[]", "[)", "(]", "union", "ratio", "matrix"]
    items: tuple[Form, ...]
    width: int = 1


@dataclass(frozen=True, slots=True)
class Relation:
    """An equation or an inequality: the signs of a chain, and its sides."""

    signs: tuple[str, ...]
    sides: tuple[Form, ...]


@dataclass(frozen=True, slots=True)
class Infinite:
    """Positive or negative infinity, such as the end of an interval."""

    sign: int


@dataclass(frozen=True, slots=True)
class InBase:
    """Digits with an explicit base: ``1011_2``."""

    digits: str
    base: str


Form: TypeAlias = Value | Many | Relation | Infinite | InBase | Words


@lru_cache(maxsize=4096)
def read(text: str, letters: Letters = "numbers") -> Form | None:
    """Return an answer in its form; None: it cannot be read.

    ``letters`` says where a letter at the end, as in ``5 m``, is a unit and not a variable
    (notation.split_unit).
    """
    try:
        return _Reading(letters).read(plain(text), 0)
    except NotReadError:
        return None


_INFINITE = re.compile(r"([+-]?)\s*(?:\\infty|\\infinity|infinity|infty|inf|oo)(?![A-Za-z])", re.IGNORECASE)
_EMPTY = re.compile(
    r"\\emptyset|\\varnothing|\\\{\s*\\\}|\\phi_empty|(?:the )?empty set|no (?:real )?solutions?",
    re.IGNORECASE,
)
_IN_BASE = re.compile(
    r"\(?([0-9][0-9A-Z]*(?:(?:\{,\}|,)[0-9]{3})*)\)?\s*_\s*"
    r"(?:\{\s*(?:\\text\s*\{)?\(?([0-9]{1,2}|[a-z]+)\)?\}?\s*\}|\\text\s*\{([a-z]+)\}|([0-9]{1,2}))"
)
_ALL_REAL = re.compile(r"\\math(?:bb|bf|rm) ?\{?R\}?|(?:the set of )?all real(?: number)?s", re.IGNORECASE)
_ELLIPSIS = re.compile(r"\\[lc]?dots|\.{3}")
_CASES = re.compile(
    r"(?:\\left ?\\\{ ?)?\\begin\{(cases|aligned)\}(.*)\\end\{\1\}(?: ?\\right ?\.)?", re.DOTALL
)
_OUTWARD = re.compile(r"([\[\](])([^\[\]()]*[,;][^\[\]()]*)([\[\])])")
_TRANSPOSED = re.compile(r"[\[(]([^\[\]()]+)[\])] ?\^ ?\{? ?(?:T|\\top|\\mathrm\{T\}|\\intercal) ?\}?")
_ROWS = re.compile(r"(?:Matrix\()?\[ ?(\[[^\[\]]*\](?: ?, ?\[[^\[\]]*\])*) ?\]\)?")
_BOTH_SIGNS = re.compile(r"\\(?:pm|mp)(?![A-Za-z])")
_RATIO = re.compile(r"[^:]+(?::[^:]+)+")
_MATRIX = re.compile(r"\\begin\{([pbB]?matrix|smallmatrix|array)\}(?:\{[lcr|]*\})?(.*)\\end\{\1\}", re.DOTALL)
_MATRIX_WITHIN = re.compile(
    r"(?:\\left ?)?[\[(] ?\\begin\{((?:small)?matrix|array)\}(?:\{[lcr|]*\})?(.*)"
    r"\\end\{\1\} ?(?:\\right ?)?[\])]",
    re.DOTALL,
)
_TOKEN = re.compile(
    r"\\(?:left|right|[bB]igg?[lrm]?)(?![A-Za-z])|\\begin\{[a-z]*\}|\\end\{[a-z]*\}"
    r"|\\(?:text|mathrm)\s*\{\s*,?\s*(?:and|or)\s*\}|\\(?:[A-Za-z]+|.)"
    r"|[<>=!]=|(?<![A-Za-z])(?:,\s*)?(?:and|or)(?![A-Za-z])|.",
    re.DOTALL,
)
_SUCH_THAT = re.compile(
    r"([a-z])\s*(?:\\in\s*\\mathbb\s*\{?R\}?\s*)?(?:\||:|\\mid(?![a-z]))\s*([^|:]*\1[^|:]*)"
)
_AND_OR = re.compile(r"(?<![a-z])(?:and|or)\s*\}?$|^\\l(?:and|or)$")
_SIGNS = same_names(r"= == \equiv|< \lt|> \gt|<= \le \leq \leqslant|>= \ge \geq \geqslant|!= \ne \neq|in \in")
_OPENING = frozenset(["(", "[", "{", "\\{", "\\langle", "\\lbrace", "\\lbrack", "\\lparen"])
_CLOSING = frozenset([")", "]", "}", "\\}", "\\rangle", "\\rbrace", "\\rbrack", "\\rparen"])
_BRACKETS = {
    ("(", ")"): "tuple", ("\\{", "\\}"): "set", ("\\lbrace", "\\rbrace"): "set",
    ("\\langle", "\\rangle"): "tuple",
    ("[", "]"): "[]", ("[", ")"): "[)", ("(", "]"): "(]",
}  # fmt: skip


def _read_known(text: str) -> Form | None:
    """Read special forms: infinity, the empty set, bases, times, dates and words."""
    infinite = _INFINITE.fullmatch(text)
    if infinite:
        return Infinite(-1 if infinite.group(1) == "-" else 1)
    if _EMPTY.fullmatch(text):
        return Many("set", ())
    based = _IN_BASE.fullmatch(text)
    if based:
        base = next(g for g in based.groups()[1:] if g)
        count = spelled(base)
        return InBase(re.sub(r"[^0-9A-Z]", "", based.group(1)), base if count is None else str(count))
    if re.fullmatch("0x[0-9A-Fa-f]+", text):
        return _whole(int(text, 16))
    if _ALL_REAL.fullmatch(text):
        return Many("tuple", (Infinite(-1), Infinite(1)))
    if _ELLIPSIS.fullmatch(text):
        return Words("...", exact=True)
    count = spelled(text)
    return read_words(text) if count is None else _whole(count)


def _whole(number: int) -> Value:
    value = Fraction(number)
    return Value(("number", value), Literal(value, None, Fraction(1)))


class _Parts:
    """The separators of a text outside of all brackets: commas and ``and``, relations, unions."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.separators: list[tuple[int, int]] = []
        self.relations: list[tuple[int, int, str]] = []
        self.union: list[tuple[int, int]] = []
        depth = bars = 0
        for token in _TOKEN.finditer(text):
            kind, at = token.group(), token.span()
            if kind in _OPENING or kind.startswith("\\begin"):
                depth += 1
            elif kind in _CLOSING or kind.startswith("\\end"):
                depth -= 1
                if depth < 0:
                    raise NotReadError("a closing bracket has no opening one")
            elif kind == "|":
                bars ^= 1
            elif depth == 0 and not bars:
                self._record(kind, at)
        if depth:
            raise NotReadError("a bracket is not closed")

    def _record(self, kind: str, at: tuple[int, int]) -> None:
        if kind in (",", ";") or _AND_OR.search(kind):
            self.separators.append(at)
        elif kind in _SIGNS:
            self.relations.append((*at, _SIGNS[kind]))
        elif kind == "\\cup":
            self.union.append(at)

    def cut(self, at: Iterable[tuple[int, int]]) -> list[str]:
        pieces, start = [], 0
        for begin, end in at:
            pieces.append(self.text[start:begin])
            start = end
        return [_stripped(piece) for piece in [*pieces, self.text[start:]]]


def _stripped(text: str) -> str:
    return plain(re.sub(r"^(?:\s|\\[,;:! ]|~|\\quad|\\qquad)+|(?:\s|\\[,;:! ]|~|\\quad|\\qquad)+$", "", text))


def _flat(items: Iterable[Form]) -> tuple[Form, ...]:
    """Return the items of a list, in which ``\\pm 2`` counts as two."""
    flat: list[Form] = []
    for item in items:
        flat += item.items if isinstance(item, Many) and item.kind == "list" else [item]
    return tuple(flat)


def _both_hold(first: Form, second: Form) -> Relation | None:
    """Combine ``x > 1`` and ``x < 3`` to the chain ``1 < x < 3``; None: they do not form a chain."""
    if not (_is_single(first) and _is_single(second)):
        return None
    above, below = upward(first), upward(second)
    if above.sides[0] == below.sides[1]:
        above, below = below, above
    if above.sides[1] != below.sides[0]:
        return None
    return Relation((*above.signs, *below.signs), (*above.sides, below.sides[1]))


def _is_single(form: Form) -> TypeGuard[Relation]:
    """Return whether a form is an inequality with two sides."""
    return isinstance(form, Relation) and len(form.signs) == 1 and form.signs[0][0] in "<>"


def upward(relation: Relation) -> Relation:
    """Return a chain of ``>`` as a chain of ``<``."""
    if not all(sign.startswith(">") for sign in relation.signs):
        return relation
    return Relation(tuple(sign.replace(">", "<") for sign in relation.signs[::-1]), relation.sides[::-1])


def _inward(interval: re.Match[str]) -> str:
    opening, inner, closing = interval.groups()
    return opening.replace("]", "(") + inner + closing.replace("[", ")")


def _is_one(text: str) -> bool:
    """Return whether the first bracket closes at the end of the text."""
    depth = 0
    for token in _TOKEN.finditer(text):
        depth += (token.group() in _OPENING) - (token.group() in _CLOSING)
        if depth == 0:
            return token.end() == len(text)
    return False


class _Reading:
    """Reads nested forms; ``letters`` as in :func:`read`."""

    def __init__(self, letters: Letters) -> None:
        self._letters = letters

    def read(self, text: str, depth: int) -> Form:
        if depth > _DEEPEST or not text:
            raise NotReadError("empty, or nested too deeply")
        literal = read_literal(text)
        if literal:
            return Value(("number", literal.value), literal)
        known = _read_known(text)
        if known is not None:
            return known
        arranged = self._read_arranged(text, depth)
        if arranged is not None:
            return arranged
        if text[0] == "]" or text[-1] == "[":  # ]0,1[ is (0,1)
            text = _OUTWARD.sub(_inward, text)
        parts = _Parts(text)
        if parts.union:
            return Many("union", tuple(self.read(part, depth + 1) for part in parts.cut(parts.union)))
        if parts.separators:
            return self._read_list(text, parts, depth)
        if parts.relations:
            return self._read_relation(parts, depth)
        bracketed = self._read_bracketed(text, depth)
        return bracketed if bracketed is not None else self._read_value(text, depth)

    def _read_arranged(self, text: str, depth: int) -> Form | None:
        """Read a text with rows: a matrix in any notation, a column, a system of equations."""
        if not text.endswith(("}", "]", ")", ".", "T", "\\top")):
            return None
        matrix = _MATRIX.fullmatch(text) or _MATRIX_WITHIN.fullmatch(text)
        if matrix:
            return self._read_matrix(matrix.group(2), depth)
        if rows := _ROWS.fullmatch(text):  # [[1,2],[3,4]]
            inner = re.sub(r"\] ?, ?\[", r"\\\\", rows.group(1)[1:-1]).replace(",", "&")
            return self._read_matrix(inner, depth)
        if column := _TRANSPOSED.fullmatch(text):
            return self._read_matrix(column.group(1).replace(",", r"\\"), depth)
        if system := _CASES.fullmatch(text):
            lines = [_stripped(line.replace("&", "")) for line in system.group(2).split(r"\\")]
            return Many("list", tuple(self.read(line, depth + 1) for line in lines if line))
        return None

    def _read_list(self, text: str, parts: _Parts, depth: int) -> Form:
        grouped = split_unit(text, self._letters)
        literal = read_literal(grouped[0]) or (read_lakhs(grouped[0]) if grouped[1] else None)
        if literal:  # 1,234 dollars
            return Value(("number", literal.value), literal, grouped[1])
        spaced = [piece.strip() for piece in re.split(r",\s+|;", text)]
        numbers = [read_literal(piece) for piece in spaced]
        if len(spaced) > 1 and all(numbers):
            return Many("list", tuple(Value(("number", n.value), n) for n in numbers if n))
        pieces = [piece for piece in parts.cut(parts.separators) if piece]
        if not 1 < len(pieces) <= _MAX_ITEMS:
            raise NotReadError("too many items, or too few")
        items = [self.read(piece, depth + 1) for piece in pieces]
        both = len(items) == 2 and "and" in text[slice(*parts.separators[0])] and _both_hold(*items)
        return both or Many("list", _flat(items))

    def _read_relation(self, parts: _Parts, depth: int) -> Form:
        sides = parts.cut((begin, end) for begin, end, _ in parts.relations)
        if len(sides) > 6 or not all(sides):
            raise NotReadError("a side is missing")
        signs = tuple(sign for _, _, sign in parts.relations)
        if "in" in signs and signs != ("in",):
            raise NotReadError("a relation within a relation")
        if signs == ("in",):
            return self.read(sides[1], depth + 1)
        if all(sign == "=" for sign in signs):
            return Relation(("=",), (self._named_side(sides[0], depth), self.read(sides[-1], depth + 1)))
        return Relation(signs, tuple(self.read(side, depth + 1) for side in sides))

    def _named_side(self, text: str, depth: int) -> Form:
        """Read the left side of an equation, which may be a name in words: ``Area = 5``."""
        try:
            return self.read(text, depth + 1)
        except NotReadError:
            if re.fullmatch(r"[A-Za-z\\{}()_' ]+", text):
                return Words(" ".join(re.findall(r"[A-Za-z']+", text)).lower())
            raise

    def _read_matrix(self, inner: str, depth: int) -> Form:
        rows = [
            row.split("&")
            for row in re.split(r"\\\\(?:\[[^\]]*\])?", inner)
            if row.strip() and row.strip() != "\\hline"
        ]
        if not rows or any(len(row) != len(rows[0]) for row in rows) or len(rows) * len(rows[0]) > _MAX_ITEMS:
            raise NotReadError("not a matrix")
        cells = tuple(self.read(_stripped(cell), depth + 1) for row in rows for cell in row)
        return Many("matrix", cells, len(rows[0]))

    def _read_bracketed(self, text: str, depth: int) -> Form | None:
        """Read a tuple, a set or an interval, if all of the text is one."""
        bare = re.sub(r"\\(?:left|right|[bB]igg?[lrm]?)(?![A-Za-z])\s*", "", text).strip()
        opening = next((o for o in ("\\{", "\\langle", "\\lbrace", "(", "[") if bare.startswith(o)), None)
        closing = next((c for c in ("\\}", "\\rangle", "\\rbrace", ")", "]") if bare.endswith(c)), None)
        kind = _BRACKETS.get((opening or "", closing or ""))
        if kind is None or not _is_one(bare):
            return None
        inner = bare[len(opening or "") : len(bare) - len(closing or "")].strip()
        if re.search(r"\\mid(?![A-Za-z])|(?<!\\)\|(?=[^|]*$)|:", inner) and kind == "set":
            condition = _SUCH_THAT.fullmatch(inner)
            such = self.read(_stripped(condition.group(2)), depth + 1) if condition else None
            if isinstance(such, Relation) and "=" not in such.signs:
                return such
            raise NotReadError("a set that is defined by a property of its members")
        parts = _Parts(inner)
        if not parts.separators:
            return self._read_single(inner, kind, depth)
        pieces = parts.cut(parts.separators)
        if len(pieces) > _MAX_ITEMS or not all(pieces):
            raise NotReadError("too many items, or an empty one")
        items = tuple(self.read(piece, depth + 1) for piece in pieces)
        if kind in ("[)", "(]") and len(items) != 2:
            raise NotReadError("not an interval")
        return Many(kind, _flat(items) if kind == "set" else items)  # type: ignore[arg-type]

    def _read_single(self, inner: str, kind: str, depth: int) -> Form | None:
        if not inner:
            return Many("set", ()) if kind == "set" else None
        if kind == "set":
            return Many("set", _flat([self.read(inner, depth + 1)]))
        if kind == "tuple" and (_Parts(inner).relations or re.fullmatch(r"[A-Za-z ]+", inner)):
            return self.read(inner, depth + 1)
        return None

    def _read_value(self, text: str, depth: int) -> Form:
        if depth > _DEEPEST or not text:
            raise NotReadError("empty, or nested too deeply")
        if _BOTH_SIGNS.search(text):
            return self._read_both_signs(text, depth)
        if ":" in text and _RATIO.fullmatch(text) and text.count(":") <= 4:
            return Many("ratio", tuple(self._read_value(part.strip(), depth + 1) for part in text.split(":")))
        to = re.fullmatch(r"([0-9]+)\s+to\s+([0-9]+)", text)
        if to:
            return Many("ratio", tuple(self._read_value(part, depth + 1) for part in to.groups()))
        head, unit = split_unit(text, self._letters)
        literal = read_literal(head.strip())
        if literal:
            return Value(("number", literal.value), literal, unit)
        tree, ambiguous = read_formula(head)
        return Value(tree, None, unit, ambiguous)

    def _read_both_signs(self, text: str, depth: int) -> Form:
        if len(_BOTH_SIGNS.findall(text)) > 1 and "\\mp" not in text:
            raise NotReadError("several plus-minus signs")
        both = [
            re.sub(r"\\pm(?![A-Za-z])", pm, re.sub(r"\\mp(?![A-Za-z])", mp, text)) for pm, mp in ("+-", "-+")
        ]
        return Many("list", tuple(self._read_value(one.strip(), depth + 1) for one in both))
