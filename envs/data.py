"""Problems from files, folders or the Hugging Face hub, in two splits."""

from __future__ import annotations

import hashlib
import itertools
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from types import MappingProxyType
from typing import Protocol, TypeVar

from areal.envs.choices import Choice, choice_of
from areal.envs.forms import Asked, Opening, asked, form_name, reference
from areal.envs.nemo_gym import refuse_other_judges
from areal.envs.places import Rows, Splits, find_splits, stamp
from areal.envs.rows import Row
from areal.errors import UserError
from areal.rewards.answers import Reference, read_reference

_HELD_OUT_SHARE = 10
"""If a data set has no test split, one in this many problems is held out."""
_HELD_OUT = ("test", "validation", "valid", "val", "dev", "eval", "evaluation")
"""Names of held-out splits, in order of precedence."""
_OF_ONE_ROW = re.compile(r"'[^']*'|\"[^\"]*\"|\([^)]*\)?|\d+")
"""The parts of a message that differ within one kind."""


class HasProblem(Protocol):
    """A problem, as text."""

    @property
    def problem(self) -> str:
        """The text, which alone decides whether the problem is held out."""
        ...


T = TypeVar("T", bound=HasProblem)
Convert = Callable[[Row, str], T]
"""Creates a problem from a row; the second argument is the place of the row, for messages."""


@dataclass(frozen=True, slots=True)
class Pair:
    """A problem and its expected final answer.

    Attributes:
        problem: the question.
        answer: the expected answer.
        opening: messages before the question, as pairs of role and text.
        form: the name of the format of the row.
        rule: where in the reference the final answer was found.
    """

    problem: str
    answer: str
    opening: Opening = ()
    form: str = field(default="", compare=False)
    rule: str = field(default="", compare=False)


class Loaded(dict[str, list[T]]):
    """The problems of the splits ``train`` and ``test``.

    Attributes:
        notices: how the data was read, for the user.
        warnings: possible problems of the data.
        skipped: skipped rows: the message about the first of each kind, and their number.
    """

    notices: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    skipped: Mapping[str, int] = MappingProxyType({})


def load_pairs(
    data: str, subset: str | None, test_data: str | None, skip_unreadable: bool = False
) -> Loaded[Pair]:
    """Return pairs of problem and answer; see ``load_problems``."""
    return load_problems(_pair, data, subset, test_data, skip_unreadable)


def load_problems(
    convert: Convert[T],
    data: str,
    subset: str | None,
    test_data: str | None,
    skip_unreadable: bool = False,
) -> Loaded[T]:
    """Return the problems of the splits ``train`` and ``test``; they are cached until a file changes.

    Args:
        convert: creates a problem from a row.
        data: a place (areal.envs.places).
        subset: configuration of the data set on the hub, such as ``main``.
        test_data: a place of held-out problems; None: the data set's own test split, or else one in ten
            problems. The hash of their text chooses these, so the choice survives reordering.
        skip_unreadable: skip rows that cannot be read as problems; the notices report them.

    Raises:
        UserError: unreadable data; the message names file and line.
    """
    return _load(stamp(data, test_data), convert, data, subset, test_data, skip_unreadable)


@lru_cache(maxsize=16)
def _load(
    stamped: tuple[int, ...],
    convert: Convert[T],
    data: str,
    subset: str | None,
    test_data: str | None,
    skip_unreadable: bool,
) -> Loaded[T]:
    skipped = _Skipped() if skip_unreadable else None
    train, test, held_out = _read(convert, data, subset, skipped)
    if test_data is not None:
        others, own, _ = _read(convert, test_data, subset, skipped)
        train, test, held_out = train or test, own or others, f"from {test_data}"
    if skipped is not None and not train and not test:
        raise UserError(f"no row can be read: {next(iter(skipped.counts))}")
    if test_data is None and not test:
        train, test = divided(train)
        held_out = "one in ten, by a hash of their text"
    found: Loaded[T] = Loaded(train=train, test=test)
    found.notices = (_summary(data, train, test, held_out), *_rules([*train, *test]))
    if skipped is not None and (counts := skipped.counts):
        found.skipped = counts
        found.notices += tuple(
            f"skipped {count:,} row{'s' * (count > 1)}{', the first because' * (count > 1)}: {first}"
            for first, count in counts.items()
        )
    found.warnings = tuple(_warnings(train, test))
    return found


class _Skipped:
    """Messages about rows, by kind, without the place and the content of the row."""

    def __init__(self) -> None:
        self._first: dict[str, str] = {}
        self._count: Counter[str] = Counter()

    def add(self, complaint: str, where: str) -> None:
        kind = _OF_ONE_ROW.sub("", complaint.replace(where, ""))
        self._first.setdefault(kind, complaint)
        self._count[kind] += 1

    @property
    def counts(self) -> dict[str, int]:
        """The first message of each kind, and their numbers, the most frequent kind first."""
        return {self._first[kind]: count for kind, count in self._count.most_common()}


def divided(problems: list[T]) -> tuple[list[T], list[T]]:
    """Hold out one in ten problems; at least one, and at least one remains for training."""
    chosen = {p.problem: _hash(p.problem) for p in problems}
    held = {text for text, number in chosen.items() if number % _HELD_OUT_SHARE == 0}
    if len(chosen) > 1 and not held:
        held = {min(chosen, key=chosen.__getitem__)}
    if held == set(chosen):  # leave a problem to train on
        held.discard(max(chosen, key=chosen.__getitem__))
    return [p for p in problems if p.problem not in held], [p for p in problems if p.problem in held]


def _hash(text: str) -> int:
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big")


def _read(
    convert: Convert[T], data: str, subset: str | None, skipped: _Skipped | None
) -> tuple[list[T], list[T], str]:
    """Return the training problems, the problems that a place itself holds out, and the latter's name."""
    train, test, name = _chosen(find_splits(data, subset), data)
    kept = [list(_converted(convert, rows(), skipped)) for rows in (train, test)]
    return kept[0], kept[1], f"its split {name}"


def _converted(convert: Convert[T], rows: Rows, skipped: _Skipped | None) -> Iterable[T]:
    for row, where in rows:
        try:
            yield convert(row, where)
        except UserError as error:
            if skipped is None:
                raise UserError(f"{error} (`areal data show` lists all such rows)") from error
            skipped.add(str(error), where)


def _chosen(splits: Splits, data: str) -> tuple[Callable[[], Rows], Callable[[], Rows], str]:
    """Return the readers of the training split and of the held-out split, with the name of the latter."""
    test = next((name for name in _HELD_OUT if name in splits), "")
    others = [name for name in splits if name not in _HELD_OUT]
    if len(others) > 1 and "train" not in others:
        raise UserError(
            f"{data} has no split train; name another one, as in data={data}:{others[0]} "
            f"({', '.join(splits)})"
        )
    train = "train" if "train" in others else next(iter(others), None)
    return splits.get(train or "", _nothing), splits[test] if test else _nothing, test


def _nothing() -> Rows:
    return iter(())


def held_out_rows(data: str) -> Rows:
    """Yield the held-out rows of a place, or all rows if it has only one split, with their places.

    Raises:
        UserError: the place does not exist, or cannot be read.
    """
    splits = find_splits(data, None)
    _, test, _ = _chosen(splits, data)
    return next(iter(splits.values()))() if len(splits) == 1 else test()


def _summary(data: str, train: list[T], test: list[T], held_out: str) -> str:
    forms = Counter(getattr(p, "form", "") for p in itertools.chain(train, test))
    read = ", ".join(f"{form} ({n:,})" if len(forms) > 1 else form for form, n in forms.most_common() if form)
    how, s = f" ({held_out})" if test else "", "s" * (len(train) != 1)
    return (
        f"{data}: {f'read as {read}: ' if read else ''}{len(train):,} training problem{s}, "
        f"{len(test):,} held out{how}"
    )


def _rules(problems: list[T]) -> Iterable[str]:
    """Describe where final answers were found, unless all were given alone."""
    rules = Counter(rule for p in problems if (rule := getattr(p, "rule", "")))
    if set(rules) - {"the whole text", "a letter"}:
        yield "final answers: " + ", ".join(
            f"{n:,} {rule}" for rule, n in sorted(rules.items(), key=lambda found: (-found[1], found[0]))
        )


def _warnings(train: list[T], test: list[T]) -> Iterable[str]:
    known = {_asked(p) for p in train}
    if leaked := sum(_asked(p) in known for p in test):
        yield (
            f"{leaked:,} of the {len(test):,} held-out problems are also training problems, so the accuracy "
            "does not measure performance on new problems"
        )
    if (again := len(train) - len(known)) * _HELD_OUT_SHARE >= len(train) > 0:
        yield f"{again:,} of the {len(train):,} training problems are duplicates; remove them"


def _asked(problem: HasProblem) -> tuple[str, Opening]:
    return problem.problem, getattr(problem, "opening", ())


def _pair(row: Row, where: str) -> Pair:
    refuse_other_judges(row, where)
    question = asked(row, where)
    if (choice := choice_of(row, question.problem, where)) is not None:
        return choice_pair(row, question, choice)
    text, field = reference(row, question, where)
    found = found_answer(text, where)
    return Pair(question.problem, found.answer, question.opening, form_name(row, question, field), found.rule)


def choice_pair(row: Row, question: Asked, choice: Choice, shown: str | None = None) -> Pair:
    """Return a question with choices as a pair; ``shown`` is the question within the prompt, if not alone."""
    form = f"{form_name(row, question, choice.field)} with choices"
    return Pair(shown or choice.problem, choice.letter, question.opening, form, "a letter")


def found_answer(text: str, where: str, mathematics: bool = True) -> Reference:
    """Return the final answer of a reference; raises UserError if it cannot be read."""
    found = read_reference(text, mathematics)
    if found is None:
        end = text.strip()[-60:]
        raise UserError(
            f"{where}: no final answer; give it alone in 'answer', after '####', or in a \\boxed{{}}"
            + (f" (it ends: {end!r})" if end else "")
        )
    return found
