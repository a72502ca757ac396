"""Evaluates the trees of :mod:`areal.rewards.mathematics.tree` and decides whether two are equal.

Whole numbers and fractions are never rounded. All other values are computed to 100 digits and compared to 50,
relative to their size: no difference is too small to count. Formulas with symbols are compared at a few
points, which depend on the names of the symbols. Symbols have positive values, unless an absolute value makes
their sign matter. Expensive values, such as a tower of powers, are not computed.
"""

from __future__ import annotations

import math
import operator
import os
import threading
import zlib
from collections.abc import Callable
from fractions import Fraction
from typing import Any

from areal.rewards.mathematics.tree import Tree, mentions, symbols

MAX_BITS = 1 << 16
"""Maximum number of bits of an exact number; larger ones are rounded."""
_LARGEST_LOGARITHM = 1 << 8
"""Maximum number of bits of an exponent; larger powers are not computed."""
_DIGITS = 100
"""Digits of values that are not rational; twice as many distinguish a small difference from rounding."""
_POINTS = 5
_lock = threading.Lock()
_context: Any = None


def _forked() -> None:
    """Give a forked child a free lock, and a context that no computation is using."""
    global _lock, _context
    _lock, _context = threading.Lock(), None


os.register_at_fork(after_in_child=_forked)


class NotComputedError(ArithmeticError):
    """The formula has no value here, or none that can be computed in a short time."""


class HugeError(NotComputedError):
    """The value is too large, or too small, to be computed."""


def equal(a: Tree, b: Tree) -> bool | None:
    """Return whether two formulas are equal wherever both have a value; None: unknown."""
    names = sorted(symbols(a) | symbols(b))
    complex_ = mentions(a, "constant", "i") or mentions(b, "constant", "i")
    signed = mentions(a, "call", "abs") or mentions(b, "call", "abs")
    bases = (None, 10) if mentions(a, "call", "log") or mentions(b, "call", "log") else (None,)
    with _lock:
        verdicts = [_equal(a, b, _points(names, signed), complex_, base) for base in bases]
    return True if True in verdicts else None if None in verdicts else False


def value(tree: Tree) -> Any:
    """Return the value of a formula without symbols: a Fraction, or a number of mpmath to 100 digits.

    Raises:
        NotComputedError: it has none, or none that can be computed in a short time.
    """
    with _lock:
        return _Evaluation({}, None).of(tree)


def _equal(
    a: Tree, b: Tree, points: list[dict[str, Fraction]], complex_: bool, base: int | None
) -> bool | None:
    compared = 0
    for point in points:
        first, second = (_Evaluation(point, base) for _ in range(2))
        try:
            left, right = _tried(first, a), _tried(second, b)
        except NotComputedError:
            continue
        if left is None or right is None:
            return None if left is right else False
        if point and not complex_ and _imaginary(left) and _imaginary(right):
            compared += _close(left, right)
            continue  # outside of the domain of both
        if not _close(left, right) and not _is_rounding(a, b, point, base):
            return False
        if (first.rounded or second.rounded) and not point:
            return None
        compared += 1
    return compared >= min(2, len(points)) or None


def _tried(evaluation: _Evaluation, tree: Tree) -> Any:
    """Return a value; None: it is too large, or too small, to be computed."""
    try:
        return evaluation.of(tree)
    except HugeError:
        return None


def _is_rounding(a: Tree, b: Tree, point: dict[str, Fraction], base: int | None) -> bool:
    """Return whether a difference is due to rounding: with more digits it shrinks, as that of sin π and 0."""
    made = _made()
    differences = []
    for digits in (_DIGITS, 2 * _DIGITS):
        made.dps = digits
        try:
            left, right = _Evaluation(point, base).of(a), _Evaluation(point, base).of(b)
            differences.append(abs(_inexact(left) - _inexact(right)))
        finally:
            made.dps = _DIGITS
        if isinstance(left, Fraction) and isinstance(right, Fraction):
            return False
    return bool(differences[1] <= differences[0] * made.mpf(10) ** (-_DIGITS // 2))


def _points(names: list[str], signed: bool) -> list[dict[str, Fraction]]:
    """Return values for the symbols, between 0.2 and 3; if ``signed``, some are negative."""
    if not names:
        return [{}]
    points = []
    for number in range(_POINTS):
        point = {}
        for name in names:
            bits = zlib.crc32(f"{number} {name}".encode())
            negative = signed and (number == _POINTS - 1 or (number > 1 and bits & 1 << 20))
            size = Fraction(200 + bits % 2801, 1000) + Fraction(1, 7919)
            point[name] = -size if negative else size
        points.append(point)
    return points


def _imaginary(number: Any) -> bool:
    return not isinstance(number, Fraction) and abs(number.imag) > abs(number) * _made().mpf(10) ** -50


def _close(a: Any, b: Any) -> bool:
    if isinstance(a, Fraction) and isinstance(b, Fraction):
        return a == b
    a, b = _inexact(a), _inexact(b)
    return bool(abs(a - b) <= max(abs(a), abs(b)) * _made().mpf(10) ** -(_DIGITS // 2))


def _made() -> Any:
    """Return this process's own context of mpmath, whose precision no other code changes."""
    global _context
    if _context is None:
        import mpmath

        _context = mpmath.mp.clone()
        _context.dps = _DIGITS
    return _context


def _inexact(number: Any) -> Any:
    if not isinstance(number, Fraction):
        return number
    made = _made()
    return made.mpf(number.numerator) / number.denominator


class _Evaluation:
    """One evaluation: the values of symbols, the base of ``log``, and whether an exact number was rounded."""

    def __init__(self, point: dict[str, Fraction], base: int | None) -> None:
        self._point = point
        self._base = base
        self.rounded = False

    def of(self, tree: Tree) -> Any:
        kind = tree[0]
        if kind == "number":
            return self._bounded(tree[1])
        if kind == "symbol":
            return self._point[tree[1]]
        if kind == "constant":
            made = _made()
            return {"pi": +made.pi, "e": +made.e, "i": made.mpc(0, 1)}[tree[1]]
        if kind == "degrees":  # unchanged, except as the argument of a function
            return self.of(tree[1])
        if kind == "call":
            return self._call(tree)
        parts = []
        for part in tree[1:]:  # no comprehension: it would take a frame for each level of the tree
            parts.append(self.of(part))
        return self._bounded(self._power(*parts) if kind == "^" else _calculated(kind, *parts))

    def _bounded(self, number: Any) -> Any:
        if isinstance(number, Fraction):
            if max(number.numerator.bit_length(), number.denominator.bit_length()) > MAX_BITS:
                self.rounded = True
                return _inexact(number)
            return number
        made = _made()
        if not made.isfinite(number):
            raise NotComputedError("no value")
        size = abs(number)
        if size and abs(made.mag(size)).bit_length() > _LARGEST_LOGARITHM:
            raise HugeError("too large")
        return number

    def _power(self, base: Any, exponent: Any) -> Any:
        """A power: exact if it is rational and not too large."""
        if isinstance(base, Fraction) and isinstance(exponent, Fraction):
            exact = _exact_power(base, exponent)
            if exact is not None:
                return exact
            if exponent.denominator == 1:
                self.rounded = True
        if not base:
            if not isinstance(exponent, Fraction) or exponent <= 0:
                raise NotComputedError("a power of zero")
            return Fraction(0)
        exponent = _inexact(exponent)
        made = _made()
        log = made.log(_inexact(base))
        if made.mag(abs(log) + 1) + made.mag(abs(exponent) + 1) > _LARGEST_LOGARITHM:
            raise HugeError("too large")
        return (
            made.exp(log * exponent)
            if made.im(log) or made.im(exponent)
            else made.power(_inexact(base), exponent)
        )

    def _argument(self, tree: Tree) -> Any:
        if tree[0] == "degrees":
            return _calculated("*", self.of(tree[1]), +_made().pi / 180)
        return self.of(tree)

    def _call(self, tree: Tree) -> Any:
        name, parts = tree[1], [self._argument(part) for part in tree[2:]]
        exact = _exact_call(name, parts)
        if exact is not None:
            return self._bounded(exact)
        numbers = [_inexact(part) for part in parts]
        made = _made()
        huge = any(number and made.mag(abs(number)) > _LARGEST_LOGARITHM for number in numbers)
        if huge and name not in ("sqrt", "cbrt", "abs", "ln", "log"):
            raise HugeError("too large")
        try:
            return self._bounded(_function(name, self._base)(made, *numbers))
        except (ValueError, ZeroDivisionError, OverflowError, made.NoConvergence) as error:
            raise NotComputedError(str(error)) from error


_ARITHMETIC: dict[str, Callable[..., Any]] = {
    "+": operator.add, "*": operator.mul, "/": operator.truediv, "neg": operator.neg
}  # fmt: skip


def _calculated(kind: str, *parts: Any) -> Any:
    """Return the sum, product, quotient or negative of numbers: exact if they are."""
    if kind == "/" and not parts[1]:
        raise NotComputedError("division by zero")
    exact = all(isinstance(part, Fraction) for part in parts)
    return _ARITHMETIC[kind](*(parts if exact else map(_inexact, parts)))


def _exact_power(base: Fraction, exponent: Fraction) -> Fraction | None:
    bits = max(base.numerator.bit_length(), base.denominator.bit_length())
    if exponent.denominator == 1:
        if not base and exponent <= 0:
            raise NotComputedError("a power of zero")
        if base in (0, 1):
            return base
        if base == -1:
            return base if exponent % 2 else Fraction(1)
        if abs(exponent) * bits <= MAX_BITS:
            return base**exponent.numerator
        return None
    if exponent.denominator == 2 and base >= 0:
        root = _exact_root(base)
        return None if root is None else _exact_power(root, Fraction(exponent.numerator))
    return None


def _exact_root(number: Fraction) -> Fraction | None:
    above, below = math.isqrt(number.numerator), math.isqrt(number.denominator)
    whole = above * above == number.numerator and below * below == number.denominator
    return Fraction(above, below) if whole else None


def _exact_call(name: str, parts: list[Any]) -> Fraction | None:
    """Return the value of a function of rational numbers if it is rational, too, and found at once."""
    if not all(isinstance(part, Fraction) for part in parts):
        return None
    number = parts[0]
    if name == "sqrt" and len(parts) == 1 and number >= 0:
        return _exact_root(number)
    if name == "abs":
        return abs(number)
    if name in ("floor", "ceil"):
        return Fraction(math.floor(number) if name == "floor" else math.ceil(number))
    if name == "factorial" and number.denominator == 1 and 0 <= number <= 2000:
        return Fraction(math.factorial(number.numerator))
    if name == "binomial" and all(p.denominator == 1 and 0 <= p <= 2000 for p in parts):
        return Fraction(math.comb(parts[0].numerator, parts[1].numerator))
    return None


def _root(made: Any, number: Any, degree: Any = 2) -> Any:
    """The real root of a negative number if the degree is odd; otherwise the principal root."""
    if made.isint(degree) and int(degree) % 2 and not made.im(number) and made.re(number) < 0:
        return -made.power(-number, 1 / degree)
    return made.sqrt(number) if degree == 2 else made.power(number, 1 / degree)


def _function(name: str, base: int | None) -> Callable[..., Any]:
    def logarithm(made: Any, number: Any, of: Any = None) -> Any:
        if not number:
            raise ValueError("the logarithm of zero")
        return made.log(number) / made.log(of if of is not None else base or made.e)

    special: dict[str, Callable[..., Any]] = {
        "log": logarithm,
        "ln": lambda made, number, of=None: made.log(number) if number else logarithm(made, number),
        "lg": lambda made, number: logarithm(made, number, 10),
        "log2": lambda made, number: logarithm(made, number, 2),
        "log10": lambda made, number: logarithm(made, number, 10),
        "sqrt": _root,
        "cbrt": lambda made, number: _root(made, number, made.mpf(3)),
        "abs": lambda made, number: abs(number),
        "binomial": lambda made, n, k: made.binomial(n, k),
        "factorial": _factorial,
    }
    if name in special:
        return special[name]
    attribute = f"a{name[3:]}" if name.startswith("arc") else name
    return lambda made, number: getattr(made, attribute)(number)


def _factorial(made: Any, number: Any) -> Any:
    if abs(number) > 10**6:
        raise HugeError("too large")
    return made.factorial(number)


def fraction(number: Any) -> Fraction:
    """Return the exact value of a real number of mpmath as a fraction."""
    sign, mantissa, exponent, _ = number.real._mpf_
    return Fraction(-mantissa if sign else mantissa) * Fraction(2) ** exponent
