"""Problems from files, folders or the Hugging Face hub, in two splits."""

from __future__ import annotations

import hashlib
import itertools
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Protocol, TypeVar

from areal.envs.choices import Choice, choice_of
from areal.envs.forms import Asked, Opening, asked, form_name, reference
from areal.envs.places import Rows, Splits, find_splits, stamp
from areal.envs.rows import Row
from areal.errors import UserError
from areal.rewards.answers import Reference, read_reference

_HELD_OUT_SHARE = 10
"""Where a data set has no test split, one problem in this many is held out."""
_HELD_OUT = ("test", "validation", "valid", "val", "dev", "eval", "evaluation")
"""Splits that are held out, the first that there is."""


class HasProblem(Protocol):
    """Whatever is asked, as text."""

    @property
    def problem(self) -> str:
        """The text: it alone decides whether the problem is held out."""
        ...


T = TypeVar("T", bound=HasProblem)
Convert = Callable[[Row, str], T]
"""Makes a problem of a row; the second argument says where the row stands, for complaints."""


@dataclass(frozen=True, slots=True)
class Pair:
    """A problem and its expected final answer.

    Attributes:
        problem: the question.
        answer: the expected answer.
        opening: messages before the question, as pairs of role and text.
        form: what rows of this form are called.
        rule: where the final answer stood in the reference.
    """

    problem: str
    answer: str
    opening: Opening = ()
    form: str = field(default="", compare=False)
    rule: str = field(default="", compare=False)


class Loaded(dict[str, list[T]]):
    """The problems of the splits ``train`` and ``test``.

    Attributes:
        notices: how the data was read, for the user to see.
        warnings: what may be wrong with it.
    """

    notices: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def load_pairs(data: str, subset: str | None, test_data: str | None) -> Loaded[Pair]:
    """Return pairs of problem and answer; see ``load_problems``."""
    return load_problems(_pair, data, subset, test_data)


def load_problems(convert: Convert[T], data: str, subset: str | None, test_data: str | None) -> Loaded[T]:
    """Return the problems of the splits ``train`` and ``test``; they are remembered until a file changes.

    Args:
        convert: makes a problem of a row.
        data: a place (areal.envs.places).
        subset: the hub's name of a configuration, such as ``main``.
        test_data: a place of held-out problems; None: the data set's own test split, or else one in ten
            problems, chosen by the hash of their text, so that the choice survives reordering.

    Raises:
        UserError: unreadable data; the message names file and line.
    """
    return _load(stamp(data, test_data), convert, data, subset, test_data)


@lru_cache(maxsize=16)
def _load(
    stamped: tuple[int, ...], convert: Convert[T], data: str, subset: str | None, test_data: str | None
) -> Loaded[T]:
    train, test = _read(convert, data, subset)
    if test_data is not None:
        _, rest = given = _read(convert, test_data, subset)
        train, test = train or test, rest or given[0]
    elif not test:
        train, test = _divided(train)
    found: Loaded[T] = Loaded(train=train, test=test)
    found.notices = (_summary(data, train, test), *_rules([*train, *test]))
    found.warnings = tuple(_warnings(train, test))
    return found


def _divided(problems: list[T]) -> tuple[list[T], list[T]]:
    """Hold out one in ten problems; of few of them, too, at least one, and at least one stays to train on."""
    chosen = {p.problem: _hash(p.problem) for p in problems}
    held = {text for text, number in chosen.items() if number % _HELD_OUT_SHARE == 0}
    if len(chosen) > 1 and not held:
        held = {min(chosen, key=chosen.__getitem__)}
    if held == set(chosen):  # something is left to train on
        held.discard(max(chosen, key=chosen.__getitem__))
    return [p for p in problems if p.problem not in held], [p for p in problems if p.problem in held]


def _hash(text: str) -> int:
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big")


def _read(convert: Convert[T], data: str, subset: str | None) -> tuple[list[T], list[T]]:
    """Return the problems of a place to train on, and those that it holds out itself."""
    train, test = _chosen(find_splits(data, subset), data)
    return [convert(*row) for row in train()], [convert(*row) for row in test()]


def _chosen(splits: Splits, data: str) -> tuple[Callable[[], Rows], Callable[[], Rows]]:
    """Return what reads the split to train on, and the one that is held out."""
    test = next((name for name in _HELD_OUT if name in splits), None)
    others = [name for name in splits if name not in _HELD_OUT]
    if len(others) > 1 and "train" not in others:
        raise UserError(
            f"{data} has no split train: name one, as in data={data}:{others[0]} ({', '.join(splits)})"
        )
    train = "train" if "train" in others else next(iter(others), None)
    return splits.get(train or "", _nothing), splits.get(test or "", _nothing) if test else _nothing


def _nothing() -> Rows:
    return iter(())


def held_out_rows(data: str) -> Rows:
    """Yield the rows that a place holds out, or all, if it has one split only, and where they stand.

    Raises:
        UserError: there is no such place, or it cannot be read.
    """
    splits = find_splits(data, None)
    _, test = _chosen(splits, data)
    return next(iter(splits.values()))() if len(splits) == 1 else test()


def _summary(data: str, train: list[T], test: list[T]) -> str:
    forms = Counter(getattr(p, "form", "") for p in itertools.chain(train, test))
    read = ", ".join(f"{form} ({n:,})" if len(forms) > 1 else form for form, n in forms.most_common() if form)
    return f"{data}: {f'read as {read}: ' if read else ''}{len(train):,} problems, {len(test):,} held out"


def _rules(problems: list[T]) -> Iterable[str]:
    """Say where final answers were found, unless all of them were given alone."""
    rules = Counter(rule for p in problems if (rule := getattr(p, "rule", "")))
    if set(rules) - {"the whole text", "a letter"}:
        yield "final answers: " + ", ".join(
            f"{n:,} {rule}" for rule, n in sorted(rules.items(), key=lambda found: (-found[1], found[0]))
        )


def _warnings(train: list[T], test: list[T]) -> Iterable[str]:
    known = {_asked(p) for p in train}
    if leaked := sum(_asked(p) in known for p in test):
        yield (
            f"{leaked:,} of the {len(test):,} held-out problems are trained on, too: their accuracy tells "
            "nothing of new ones"
        )
    if (again := len(train) - len(known)) * _HELD_OUT_SHARE >= len(train) > 0:
        yield f"{again:,} of the {len(train):,} problems to train on repeat an earlier one: leave them out"


def _asked(problem: HasProblem) -> tuple[str, Opening]:
    return problem.problem, getattr(problem, "opening", ())


def _pair(row: Row, where: str) -> Pair:
    question = asked(row, where)
    if (choice := choice_of(row, question.problem, where)) is not None:
        return choice_pair(row, question, choice)
    text, field = reference(row, question, where)
    found = found_answer(text, where)
    return Pair(question.problem, found.answer, question.opening, form_name(row, question, field), found.rule)


def choice_pair(row: Row, question: Asked, choice: Choice, shown: str | None = None) -> Pair:
    """Return a question with choices as a pair; ``shown`` is what it is in a prompt, if that is not alone."""
    form = f"{form_name(row, question, choice.field)} with choices"
    return Pair(shown or choice.problem, choice.letter, question.opening, form, "a letter")


def found_answer(text: str, where: str, mathematics: bool = True) -> Reference:
    """Return the final answer of a reference; raises UserError if there is none that can be read."""
    found = read_reference(text, mathematics)
    if found is None:
        end = text.strip()[-60:]
        raise UserError(
            f"{where}: no final answer: give it alone in 'answer', after '####', or in a \\boxed{{}}"
            + (f" (it ends: {end!r})" if end else "")
        )
    return found
