"""Procedural programming problems (areal.envs.procedural): the built-in problems of ``code-v1``.

Each problem asks for ``f(x)`` and has the correct expression and *slips*: wrong expressions that people write
instead, such as off-by-one errors or reversed comparisons. The tests distinguish the slips from the correct
expression.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

from areal.envs.procedural import check_known, drawn

DIFFICULTIES = {
    1: "arithmetic on a number",
    2: "also conditions and ranges",
    3: "also lists and strings",
    4: "also filtered and mapped lists",
}
DEFAULT_DIFFICULTY = 3


@dataclass(frozen=True, slots=True)
class ProgramProblem:
    """A function to be written.

    Attributes:
        task: the required result of ``f(x)``, such as ``"3 times x plus 7"``.
        right: a correct expression in ``x``.
        slips: similar expressions that are wrong for at least one input.
        inputs: values of ``x`` for the tests.
    """

    task: str
    right: str
    slips: tuple[str, ...]
    inputs: tuple[Any, ...]

    @property
    def text(self) -> str:
        """The text of the problem."""
        return f"Write a Python function f(x) that returns {self.task}."

    @property
    def outputs(self) -> tuple[Any, ...]:
        """The correct result of ``f`` for each of the inputs."""
        return values(self.right, self.inputs)


def program(expression: str) -> str:
    """Return the source of a function ``f(x)`` that returns the value of an expression."""
    return f"def f(x):\n    return {expression}\n"


def values(expression: str, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return the value of a trusted expression for each input."""
    function: Callable[[Any], Any] = eval(f"lambda x: {expression}")
    return tuple(map(function, inputs))


def problem(split: str, difficulty: int, index: int) -> ProgramProblem:
    """Return problem ``index`` (≥ 0) of a split; raises ValueError for an unknown split or difficulty."""
    check_known(split, difficulty, DIFFICULTIES)
    families = [family for level in range(1, difficulty + 1) for family in _FAMILIES[level]]
    seed = f"programs/{split}/{difficulty}/{index}"
    return drawn(seed, split, lambda rng: rng.choice(families)(rng), attrgetter("task"))


# --- numbers ---------------------------------------------------------------------------------------------

_COMPARISONS = {"greater than": ">", "less than": "<", "at least": ">=", "at most": "<="}
_NEARLY = {">": (">=", "<"), "<": ("<=", ">"), ">=": (">", "<="), "<=": ("<", ">=")}


def _numbers(rng: random.Random, *edges: int) -> tuple[int, ...]:
    """Return inputs at the edges, next to them, and anywhere."""
    beside = {edge + step for edge in edges for step in (-1, 0, 1)}
    return tuple(sorted(beside | {0, *(rng.randint(-50, 150) for _ in range(4))}))


def _product(rng: random.Random) -> ProgramProblem:
    a, b = rng.sample(range(2, 100), 2)
    word, sign, other = rng.choice([("plus", "+", "-"), ("minus", "-", "+")])
    slips = (f"{a} * x {other} {b}", f"{a} * (x {sign} {b})", f"{a} {sign} x * {b}")
    return ProgramProblem(f"{a} times x {word} {b}", f"{a} * x {sign} {b}", slips, _numbers(rng))


def _product_of_sum(rng: random.Random) -> ProgramProblem:
    a, b = rng.sample(range(2, 100), 2)
    word, sign, other = rng.choice([("plus", "+", "-"), ("minus", "-", "+")])
    slips = (f"x {sign} {a} * {b}", f"(x {other} {a}) * {b}", f"(x {sign} {b}) * {a}")
    return ProgramProblem(f"x {word} {a}, all times {b}", f"(x {sign} {a}) * {b}", slips, _numbers(rng))


def _remainder(rng: random.Random) -> ProgramProblem:
    a, b = rng.sample(range(2, 100), 2)
    slips = (f"x // {a} + {b}", f"x / {a} + {b}", f"x % ({a} + {b})")
    task = f"the remainder of x divided by {a}, plus {b}"
    return ProgramProblem(task, f"x % {a} + {b}", slips, _numbers(rng, a))


# --- conditions and ranges -------------------------------------------------------------------------------


def _choice(rng: random.Random) -> ProgramProblem:
    a, b = rng.sample(range(2, 100), 2)
    words, sign = rng.choice(list(_COMPARISONS.items()))
    near, opposite = _NEARLY[sign]
    task = f"{b} if x is {words} {a}, else x"
    slips = (f"{b} if x {near} {a} else x", f"{b} if x {opposite} {a} else x", f"x if x {sign} {a} else {b}")
    return ProgramProblem(task, f"{b} if x {sign} {a} else x", slips, _numbers(rng, a, b))


def _between(rng: random.Random) -> ProgramProblem:
    a = rng.randint(2, 80)
    b = a + rng.randint(3, 90)
    words, low, high = rng.choice([("including both", "<=", "<="), ("excluding both", "<", "<")])
    other = "<" if low == "<=" else "<="
    slips = (f"{a} {other} x {other} {b}", f"{a} {other} x {high} {b}", f"{a} {low} x {other} {b}")
    task = f"whether x is between {a} and {b}, {words}"
    return ProgramProblem(task, f"{a} {low} x {high} {b}", slips, _numbers(rng, a, b))


def _up_to(rng: random.Random) -> ProgramProblem:
    a, b = rng.sample(range(2, 100), 2)
    later, counted = f"sum(range({a} + 1, x + 1)) + {b}", f"len(range({a}, x + 1)) + {b}"
    slips = (f"sum(range({a}, x)) + {b}", later, counted)
    task = f"the sum of the numbers from {a} to x, plus {b}"
    inputs = tuple(sorted({a, a + 1, a + 2, *(a + rng.randint(3, 60) for _ in range(4))}))
    return ProgramProblem(task, f"sum(range({a}, x + 1)) + {b}", slips, inputs)


# --- lists and strings -----------------------------------------------------------------------------------

_LETTERS = "abcdefghijklmnopqrstuvwxyz"


def _lists(rng: random.Random, *edges: int) -> tuple[list[int], ...]:
    """Return lists of numbers, each of which includes the edges and their neighbors, and the empty list."""
    beside = [edge + step for edge in edges for step in (-1, 0, 1)]
    return ([], *(rng.sample([*beside, *(rng.randint(1, 120) for _ in range(n))], 3 + n) for n in (3, 4, 5)))


def _words(rng: random.Random, letters: str, size: int) -> tuple[str, ...]:
    """Return words that contain each of the letters more than once, and longer words of any letters."""
    dense = "".join(rng.choices(letters, k=size)) + letters * 2
    return (dense, *("".join(rng.choices(_LETTERS, k=size + n)) for n in (4, 7, 9)))


def _filtered(rng: random.Random) -> ProgramProblem:
    a = rng.randint(5, 99)
    words, sign = rng.choice(list(_COMPARISONS.items()))
    near, opposite = _NEARLY[sign]
    what, start, end, wrong = rng.choice(
        [
            ("sum", "sum([", "])", "len(["),
            ("number", "len([", "])", "sum(["),
            ("list", "[", "]", "sum(["),
        ]
    )
    slips = (
        f"{start}v for v in x if v {near} {a}{end}",
        f"{start}v for v in x if v {opposite} {a}{end}",
        f"{wrong}v for v in x if v {sign} {a}])",
    )
    task = f"the {what} of the elements of x that are {words} {a}"
    return ProgramProblem(task, f"{start}v for v in x if v {sign} {a}{end}", slips, _lists(rng, a))


def _mapped(rng: random.Random) -> ProgramProblem:
    a, b = rng.sample(range(2, 100), 2)
    slips = (f"[v + {a} * {b} for v in x]", f"[v * {b} + {a} for v in x]", f"[(v + {b}) * {a} for v in x]")
    task = f"the list of the elements of x, each times {a} plus {b}"
    return ProgramProblem(task, f"[v * {a} + {b} for v in x]", slips, _lists(rng, a))


def _slice(rng: random.Random) -> ProgramProblem:
    a = rng.randint(2, 30)
    what, right, wrong = rng.choice(
        [
            (f"the first {a} characters of x", f"x[:{a}]", (f"x[{a}:]", f"x[:{a} - 1]", f"x[1:{a}]")),
            (f"the last {a} characters of x", f"x[-{a}:]", (f"x[:-{a}]", f"x[{a}:]", f"x[-{a}:-1]")),
            (f"x without its first {a} characters", f"x[{a}:]", (f"x[:{a}]", f"x[{a} + 1:]", f"x[:-{a}]")),
            (f"x without its last {a} characters", f"x[:-{a}]", (f"x[-{a}:]", f"x[:{a}]", f"x[:-{a} - 1]")),
        ]
    )
    c = rng.choice(_LETTERS)
    slips = tuple(f"{slip} + '{c}'" for slip in wrong)
    return ProgramProblem(f"{what}, then '{c}'", f"{right} + '{c}'", slips, _words(rng, _LETTERS, 2 * a + 3))


def _replaced(rng: random.Random) -> ProgramProblem:
    a, b, c = rng.sample(_LETTERS, 3)
    slips = (
        f"x.replace('{b}', '{a}') + '{c}'",
        f"x.replace('{a}', '{b}', 1) + '{c}'",
        f"x.replace('{a}', '{b}' + '{c}')",
    )
    task = f"x with each '{a}' replaced by '{b}', then '{c}'"
    return ProgramProblem(task, f"x.replace('{a}', '{b}') + '{c}'", slips, _words(rng, a + b + c, 6))


def _counted(rng: random.Random) -> ProgramProblem:
    a = rng.choice(_LETTERS)
    b = rng.randint(2, 99)
    slips = (f"x.find('{a}') + {b}", f"x.count('{a}' + {b})", f"x.index('{a}') * {b}")
    task = f"how often '{a}' occurs in x, plus {b}"
    return ProgramProblem(task, f"x.count('{a}') + {b}", slips, _words(rng, a, 5))


# --- two steps -------------------------------------------------------------------------------------------


def _filtered_and_mapped(rng: random.Random) -> ProgramProblem:
    a, b = rng.sample(range(2, 100), 2)
    words, sign = rng.choice(list(_COMPARISONS.items()))
    near, opposite = _NEARLY[sign]
    what, start, end = rng.choice([("sum", "sum([", "])"), ("list", "[", "]")])
    slips = (
        f"{start}v * {b} for v in x if v {near} {a}{end}",
        f"{start}v * {b} for v in x if v {opposite} {a}{end}",
        f"{start}v for v in x if v * {b} {sign} {a}{end}",
    )
    task = f"the {what} of {b} times each element of x that is {words} {a}"
    return ProgramProblem(task, f"{start}v * {b} for v in x if v {sign} {a}{end}", slips, _lists(rng, a))


_FAMILIES: dict[int, tuple[Callable[[random.Random], ProgramProblem], ...]] = {
    1: (_product, _product_of_sum, _remainder),
    2: (_choice, _between, _up_to),
    3: (_filtered, _mapped, _slice, _replaced, _counted),
    4: (_filtered_and_mapped,),
}
