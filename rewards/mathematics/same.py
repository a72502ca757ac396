r"""Judges whether an answer is the same as a reference, in whatever form each is written.

``True`` and ``False`` are certain: they do not depend on a library with absolute tolerances. ``None`` means
that an answer could not be read, or is ambiguous; math-verify then decides.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from fractions import Fraction
from typing import TypeAlias

from areal.rewards.mathematics import numeric
from areal.rewards.mathematics.choices import chosen
from areal.rewards.mathematics.forms import Form, InBase, Infinite, Many, Relation, Value, read, upward
from areal.rewards.mathematics.notation import plain, read_lakhs, read_literal, unformatted, units_differ
from areal.rewards.mathematics.tree import Tree, symbols
from areal.rewards.mathematics.words import Words, same_words

Verdict: TypeAlias = bool | None

FEWEST_DIGITS = 3
"""Minimum number of significant digits of a decimal reference to which longer answers are rounded."""
ENOUGH_DIGITS = 6
"""Minimum number of significant digits and decimal places with which a rounded answer counts as exact."""
_LAST_PLACE = Fraction(1, 10**ENOUGH_DIGITS)
_MAX_DIGITS = 15
_DECIMAL_COMMA = re.compile(r"[+-]?[0-9]+(?:,|\{,\})[0-9]+")
_NAMING = ("abs", "sin", "cos", "tan")
"""Functions whose value may be the answer, as in ``|z| = 5``."""
_NO_NUMBER = re.compile(r"[+-]?[0-9.]+(?:\s+[0-9.]+)+$|!=|[<>]|\\(?:neq?|[lg]eq?|[lg]t)(?![A-Za-z])")
"""Two numbers side by side, or an inequality without a left side."""
_SPACES = re.compile(r"(?<![0-9A-Za-z.])\s+|\s+(?![0-9A-Za-z.\\])")


def judge(answer: str, target: str) -> Verdict:
    """Return whether an answer is the same as a reference, in any form; None: math-verify has to decide."""
    verdict = chosen(answer, target, judge)
    if verdict is not None:
        return verdict
    if _bare(answer) == _bare(target) != "":
        return True
    wanted = read(target)
    if wanted is None:
        return None
    given = read(answer, "nowhere" if _has_symbols(wanted) else "everywhere")
    if isinstance(wanted, Value) and wanted.literal and not isinstance(given, Value):
        given = _other_number(plain(answer)) or given
        if given is None and _NO_NUMBER.match(plain(answer)):
            return False
    return None if given is None else same(wanted, given)


def _other_number(text: str) -> Form | None:
    """Read a number in another convention, ``12,34,567`` or ``3,14``, which could also be a list."""
    literal = read_lakhs(text)
    if literal is None and _DECIMAL_COMMA.fullmatch(text):
        literal = read_literal(re.sub(r"\{?,\}?", ".", text))
    return Value(("number", literal.value), literal) if literal else None


def _bare(text: str) -> str:
    """Return an answer without fonts and spaces, except spaces between digits or letters."""
    return _SPACES.sub("", unformatted(plain(text)))


def _has_symbols(form: Form) -> bool:
    if isinstance(form, Value):
        return bool(symbols(form.tree))
    parts = form.items if isinstance(form, Many) else form.sides if isinstance(form, Relation) else ()
    return any(_has_symbols(part) for part in parts)


def same(target: Form, answer: Form) -> Verdict:
    """Return whether an answer equals the reference; None: unknown."""
    if isinstance(target, InBase) or isinstance(answer, InBase):
        return _same_digits(target, answer)
    if isinstance(target, Relation) or isinstance(answer, Relation):
        return _same_relations(target, answer)
    if isinstance(target, Value) and isinstance(answer, Value):
        return _same_values(target, answer)
    if isinstance(target, Many) or isinstance(answer, Many):
        return _same_many(target, answer)
    if isinstance(target, Infinite) or isinstance(answer, Infinite):
        return target == answer if not isinstance(target, Words) and not isinstance(answer, Words) else None
    if isinstance(target, Words) and isinstance(answer, Words):
        return same_words(target, answer)
    return False if _is_mathematics(target) or _is_mathematics(answer) else None


def _same_digits(target: Form, answer: Form) -> Verdict:
    """Compare digits; if only one of them names its base, it is also the base of the other."""
    if isinstance(target, InBase) and isinstance(answer, InBase):
        return target == answer if target.base.isdigit() == answer.base.isdigit() else None
    based, other = (target, answer) if isinstance(target, InBase) else (answer, target)
    assert isinstance(based, InBase)
    if isinstance(other, Value) and other.literal and other.literal.digits is None:
        return based.digits.lstrip("0") == str(other.literal.value)
    return None if isinstance(other, Value) and symbols(other.tree) else False


def _is_mathematics(form: Form) -> bool:
    """Return whether a form is certainly not text: it is a number, or has one among its items."""
    if isinstance(form, Many):
        return any(_is_mathematics(item) for item in form.items)
    return isinstance(form, InBase | Infinite) or (isinstance(form, Value) and not symbols(form.tree))


def _same_values(target: Value, answer: Value) -> Verdict:
    verdict = _same_quantities(target, answer)
    if verdict is not False and units_differ(target.unit, answer.unit):
        return False
    if verdict is False and (target.ambiguous or answer.ambiguous):
        return None
    return verdict


def _same_quantities(target: Value, answer: Value) -> Verdict:
    """Compare without units; a percent sign on only one side counts as a hundredth, or does not count."""
    scales = [Fraction(1)]
    if (target.unit == "%") != (answer.unit == "%"):
        scales.append(Fraction(1, 100) if answer.unit == "%" else Fraction(100))
    return _any([_same_numbers(target, answer, scale) for scale in scales])


def _same_numbers(target: Value, answer: Value, scale: Fraction) -> Verdict:
    """Compare two values; ``scale`` multiplies the answer.

    Values that are exactly equal are equal. A decimal number with enough digits also equals each value that
    rounds to it: the reference 3.14 equals π and 3.1416, the answer 0.333333 equals 1/3. An answer may be
    truncated instead of rounded.
    """
    given = answer.tree if scale == 1 else ("*", answer.tree, ("number", scale))
    if target.literal and answer.literal:
        exact: Verdict = target.literal.value == answer.literal.value * scale
    else:
        exact = numeric.equal(target.tree, given)
    if exact is not False:
        return exact
    if target.literal and target.literal.digits and target.literal.digits >= FEWEST_DIGITS:
        return _rounds(given, target.literal.value, target.literal.place / 2, None)
    if target.literal and target.literal.digits:
        return False
    decimal = answer.literal
    if not decimal or not decimal.digits:
        return False
    if decimal.digits >= ENOUGH_DIGITS and decimal.place * scale <= _LAST_PLACE:
        place = decimal.place * scale * 10 ** max(0, decimal.digits - _MAX_DIGITS)
        return _rounds(target.tree, decimal.value * scale, place / 2, place)
    if decimal.digits == ENOUGH_DIGITS - 1:  # 0.57735 counts as 0.577350; 0.053571 has six places
        return _rounds(target.tree, decimal.value * scale, _LAST_PLACE * scale / 2, None)
    return False


def _rounds(tree: Tree, decimal: Fraction, half: Fraction, cut: Fraction | None) -> Verdict:
    """Return whether a formula's value is ``decimal`` when rounded, or truncated, to its last place."""
    if symbols(tree):
        return False
    try:
        value = numeric.value(tree)
    except numeric.NotComputedError:
        return False
    if not isinstance(value, Fraction):
        if value.imag:
            return False
        value = numeric.fraction(value)
    if abs(value - decimal) <= half:
        return True
    return cut is not None and value * decimal > 0 and 0 <= abs(value) - abs(decimal) < cut


def _same_relations(target: Form, answer: Form) -> Verdict:
    if isinstance(target, Relation) and isinstance(answer, Relation):
        if target.signs != ("=",) or answer.signs != ("=",):
            return _same_inequalities(target, answer)
        return _same_equations(target, answer)
    relation, other = (target, answer) if isinstance(target, Relation) else (answer, target)
    assert isinstance(relation, Relation)
    if relation.signs == ("=",):
        if not _is_name(relation.sides[0]):
            if _is_name(relation.sides[1]):  # 5 = x
                return _sided(target, relation.sides[0], other)
            if relation is target or _is_unsolved(relation.sides[0]):
                return False if isinstance(other, Value) else None
            # m + n = 10 may be the value of m + n; it does not equal any value but 10.
            return False if _sided(target, relation.sides[1], other) is False else None
        return _sided(target, relation.sides[1], other)
    interval = _interval_of(relation)
    if interval is None or (isinstance(other, Many) and other.kind in ("list", "set")):
        return None if interval is None else False
    return _sided(target, interval, other)


def _is_unsolved(form: Form) -> bool:
    """Return whether an equation with this left side is unsolved: ``2x``, ``x^2``; not ``f(3)``."""
    return isinstance(form, Value) and form.tree[0] != "call" and len(symbols(form.tree)) == 1


def _sided(target: Form, side: Form, other: Form) -> Verdict:
    return same(side, other) if isinstance(target, Relation) else same(other, side)


def _is_name(form: Form) -> bool:
    """Return whether a side of an equation is a name: a symbol, ``f(x)``, ``(x, y)`` or a word."""
    if isinstance(form, Many):
        return all(_is_name(item) for item in form.items)
    if not isinstance(form, Value):
        return isinstance(form, Words)
    kind, *parts = form.tree
    if kind == "*":  # the length AB
        return all(part[0] == "symbol" and part[1].isupper() for part in parts)
    return kind == "symbol" or (kind == "call" and parts[0] in _NAMING and bool(symbols(form.tree)))


def _same_equations(target: Relation, answer: Relation) -> Verdict:
    if _is_name(target.sides[0]) and _same_names(target.sides[0], answer.sides[0]):
        verdict = same(target.sides[1], answer.sides[1])
        if verdict is not None:
            return verdict
    sides = [side for relation in (target, answer) for side in relation.sides]
    if not all(isinstance(side, Value) and not side.unit for side in sides):
        return None
    trees = [side.tree for side in sides if isinstance(side, Value)]
    first, second = (("+", left, ("neg", right)) for left, right in (trees[:2], trees[2:]))
    verdict = _same_solutions(first, second)
    sure = not any(isinstance(side, Value) and side.ambiguous for side in sides)
    return verdict if verdict is not False or sure else None


def _same_names(first: Form, second: Form) -> bool:
    """Return whether two names are the same, as ``x`` and ``x_1`` are if solutions are numbered."""
    names = [form.tree[1] for form in (first, second) if isinstance(form, Value) and form.tree[0] == "symbol"]
    bare = {name.partition("_")[0] for name in names}
    return first == second or (len(names) == 2 and len(bare) == 1 and bare <= set(names))


def _same_solutions(first: Tree, second: Tree) -> Verdict:
    """Return whether two formulas have the same zeros: both are linear in a symbol, or one is a multiple."""
    names = symbols(first)
    if names != symbols(second):
        return False
    for name in sorted(names):
        lines = [_line(tree, name) for tree in (first, second)]
        if all(lines):
            (a, b), (c, d) = (line for line in lines if line)
            return numeric.equal(("*", a, d), ("*", c, b))
    # Test whether one is a multiple of the other.
    point: dict[str, Tree] = {
        name: ("number", Fraction(7 + 2 * i, 5)) for i, name in enumerate(sorted(names))
    }
    multiple = ("/", _at(first, point), _at(second, point))
    return numeric.equal(first, ("*", multiple, second)) or None


def _line(tree: Tree, name: str) -> tuple[Tree, Tree] | None:
    """Return the constant and the slope of a formula that is linear in a symbol; None: it is not."""
    zero, one, two = (_at(tree, {name: ("number", Fraction(n))}) for n in range(3))
    slope = ("+", one, ("neg", zero))
    if numeric.equal(("+", two, ("neg", one)), slope) is not True or numeric.equal(one, zero) is not False:
        return None
    return zero, slope


def _at(tree: Tree, point: dict[str, Tree]) -> Tree:
    if tree[0] == "symbol":
        return point.get(tree[1], tree)
    parts = []
    for part in tree:  # no comprehension: it would take a frame for each level of the tree
        parts.append(_at(part, point) if isinstance(part, tuple) else part)
    return tuple(parts)


def _same_inequalities(target: Relation, answer: Relation) -> Verdict:
    target, answer = upward(target), upward(answer)
    if target.signs == answer.signs and _same_items(target.sides, answer.sides):
        return True
    if target.signs == answer.signs == ("!=",) and _same_items(target.sides, answer.sides[::-1]):
        return True
    if _variable(target) != _variable(answer) or _variable(target) is None:
        return None
    first, second = _interval_of(target), _interval_of(answer)
    return None if first is None or second is None else same(first, second)


def _variable(relation: Relation) -> str | None:
    names = [s.tree[1] for s in relation.sides if isinstance(s, Value) and s.tree[0] == "symbol"]
    return names[0] if len(names) == 1 else None


def _interval_of(relation: Relation) -> Form | None:
    """Return the interval of an inequality in one variable: ``x < 3``, ``1 \\le x < 3``."""
    relation = upward(relation)
    sides, signs = list(relation.sides), list(relation.signs)
    if _variable(relation) is None or not all(sign.startswith("<") for sign in signs) or len(sides) > 3:
        return None
    at = next(i for i, s in enumerate(sides) if isinstance(s, Value) and s.tree[0] == "symbol")
    if len(sides) == 2:
        signs.insert(at, "<")
        sides.insert(2 * at, Infinite(1 if at else -1))
        at = 1
    if at != 1:
        return None
    kind = {"<<": "tuple", "<=<=": "[]", "<=<": "[)", "<<=": "(]"}["".join(signs)]
    return Many(kind, (sides[0], sides[2]))  # type: ignore[arg-type]


def _same_many(target: Form, answer: Form) -> Verdict:
    if isinstance(target, Many) and isinstance(answer, Many):
        return _same_kinds(target, answer)
    if isinstance(target, Words) or isinstance(answer, Words):
        times = [_time(form) for form in (target, answer)]
        if times[0] and times[1]:
            return same_words(*(time for time in times if time))
        return False if _is_mathematics(target) or _is_mathematics(answer) else None
    many, one = (target, answer) if isinstance(target, Many) else (answer, target)
    assert isinstance(many, Many)
    if many.kind == "ratio" and isinstance(one, Value) and len(many.items) == 2:
        first, second = many.items
        assert isinstance(first, Value)
        assert isinstance(second, Value)
        return numeric.equal(("/", first.tree, second.tree), one.tree)
    if len(many.items) == 1 and many.kind == "matrix":
        return None
    if many.kind in ("set", "list"):
        if not many.items:
            return False
        # One value in two forms is one answer: \boxed{2\frac12} or \boxed{5/2}.
        return _all(same(item, one) if many is target else same(one, item) for item in many.items)
    return False if isinstance(one, Value) and not one.ambiguous else None


def _time(form: Form) -> Words | None:
    """Return a ratio such as ``3:30`` as a time; None: it cannot be one."""
    if isinstance(form, Many) and form.kind == "ratio":
        parts = [str(item.literal.value) for item in form.items if isinstance(item, Value) and item.literal]
        is_time = len(parts) == len(form.items) == 2
        return Words(f"{parts[0]}:{parts[1].zfill(2)}", exact=True) if is_time else None
    return form if isinstance(form, Words) and form.exact else None


def _assigned(many: Many) -> Many:
    """Return ``y = 3, x = 2`` as a tuple of values, in the order of their names."""
    sides = {}
    for item in many.items:
        if isinstance(item, Relation) and item.signs == ("=",) and isinstance(item.sides[0], Value):
            kind, name, *_ = item.sides[0].tree
            if kind == "symbol":
                sides[name] = item.sides[1]
    if many.kind != "list" or len(many.items) < 2 or len(sides) < len(many.items):
        return many
    return Many("tuple", tuple(sides[name] for name in sorted(sides)))


def _same_kinds(target: Many, answer: Many) -> Verdict:
    if "tuple" in (target.kind, answer.kind):
        target, answer = _assigned(target), _assigned(answer)
    kinds = {target.kind, answer.kind}
    if kinds == {"union"}:
        return _same_sets(target.items, answer.items)
    if kinds == {"union", "list"}:  # x < -1 or x > 1
        return _same_sets(_intervals(target.items), _intervals(answer.items))
    if kinds == {"matrix"}:
        return _same_items(target.items, answer.items) if target.width == answer.width else False
    if kinds == {"ratio"}:
        return _same_ratios(target.items, answer.items)
    if kinds == {"matrix", "tuple"}:  # a vector
        matrix = target if target.kind == "matrix" else answer
        one_line = matrix.width in (1, len(matrix.items))
        return _same_items(target.items, answer.items) if one_line else False
    if kinds & {"union", "matrix", "ratio"}:
        return None
    if kinds <= {"list", "set"} or (target.kind == "list" and answer.kind == "tuple"):
        return _same_sets(target.items, answer.items)
    if kinds <= {"list", "set", "tuple"}:
        return _same_items(target.items, answer.items)
    return _same_items(target.items, answer.items) if len(kinds) == 1 else False


def _intervals(items: Sequence[Form]) -> list[Form]:
    return [(_interval_of(item) if isinstance(item, Relation) else None) or item for item in items]


def _all(verdicts: Iterable[Verdict]) -> Verdict:
    known: Verdict = True
    for verdict in verdicts:
        if verdict is False:
            return False
        known = None if verdict is None else known
    return known


def _any(verdicts: Sequence[Verdict]) -> Verdict:
    return True if True in verdicts else None if None in verdicts else False


def _same_items(target: Sequence[Form], answer: Sequence[Form]) -> Verdict:
    if len(target) != len(answer):
        return False
    return _all(same(t, a) for t, a in zip(target, answer, strict=True))


def _same_sets(target: Sequence[Form], answer: Sequence[Form]) -> Verdict:
    """Compare in any order; duplicates count once."""
    if len(target) * len(answer) > 900:
        return None
    if not target or not answer:
        return len(target) == len(answer)
    grid = [[same(t, a) for a in answer] for t in target]
    return _all(_any(line) for line in [*grid, *zip(*grid, strict=True)])


def _same_ratios(target: Sequence[Form], answer: Sequence[Form]) -> Verdict:
    if len(target) != len(answer):
        return False
    trees = [[item.tree for item in items if isinstance(item, Value)] for items in (target, answer)]
    pairs = zip(trees[0][1:], trees[1][1:], strict=True)
    return _all(numeric.equal(("*", t, trees[1][0]), ("*", a, trees[0][0])) for t, a in pairs)
