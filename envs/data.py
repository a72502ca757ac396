"""Problems from a local JSONL file or the Hugging Face hub, in two splits."""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol, TypeVar

from areal.errors import UserError, install_hint
from areal.rewards.answers import reference_answer

PROBLEM_KEYS = ("problem", "question", "prompt")
ANSWER_KEYS = ("answer", "solution", "response")
_HELD_OUT_SHARE = 10
"""Where a data set has no test split, one problem in this many is held out."""


class HasProblem(Protocol):
    """Whatever is asked, as text."""

    @property
    def problem(self) -> str:
        """The text: it alone decides whether the problem is held out."""
        ...


T = TypeVar("T", bound=HasProblem)
Convert = Callable[[dict[str, Any], str], T]
"""Makes a problem of a row; the second argument says where the row stands, for complaints."""


@dataclass(frozen=True, slots=True)
class Pair:
    """A problem and its expected final answer."""

    problem: str
    answer: str


@lru_cache(maxsize=8)
def load_pairs(data: str, subset: str | None, test_data: str | None) -> dict[str, list[Pair]]:
    """Return pairs of problem and answer; see ``load_problems``."""
    return load_problems(_pair, data, subset, test_data)


def load_problems(
    convert: Convert[T], data: str, subset: str | None, test_data: str | None
) -> dict[str, list[T]]:
    """Return the problems of the splits ``train`` and ``test``.

    Args:
        convert: makes a problem of a row.
        data: a ``.jsonl`` (or ``.jsonl.gz``) file, one object a line, or the id of a data set on the hub.
        subset: the hub's name of a configuration, such as ``main``.
        test_data: held-out problems; None: the data set's own test split, or else one in ten problems,
            chosen by the hash of their text, so that the choice survives reordering.

    Raises:
        UserError: unreadable data; the message names file and line.
    """
    train, test = _read(convert, data, subset)
    if test_data is not None:
        train, test = [*train, *test], [p for part in _read(convert, test_data, subset) for p in part]
    elif not test:
        test = [p for p in train if _is_held_out(p)]
        train = [p for p in train if not _is_held_out(p)]
    return {"train": train, "test": test}


def _is_held_out(problem: HasProblem) -> bool:
    digest = hashlib.sha256(problem.problem.encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big") % _HELD_OUT_SHARE == 0


def _read(convert: Convert[T], data: str, subset: str | None) -> tuple[list[T], list[T]]:
    path = Path(data).expanduser()
    if path.is_file():
        return [convert(row, where) for row, where in read_rows(path)], []
    if path.suffix in (".jsonl", ".json", ".gz") or path.is_absolute() or data.startswith((".", "~")):
        raise UserError(f"the data file {path} does not exist")
    return _read_hub(convert, data, subset)


def read_rows(path: Path) -> Iterator[tuple[dict[str, Any], str]]:
    """Yield each row of a ``.jsonl`` or ``.jsonl.gz`` file, and where it stands, for complaints.

    Raises:
        UserError: not such a file, or empty.
    """
    empty = True
    opened: Any = gzip.open if path.suffix == ".gz" else open
    with opened(path, "rt", encoding="utf-8") as file:
        try:
            for number, line in enumerate(file, start=1):
                if not line.strip():
                    continue
                empty = False
                where = f"{path}, line {number}"
                yield _parse(line, where), where
        except UnicodeDecodeError as error:
            raise UserError(f"{path} is not UTF-8 text: {error.reason}; convert it") from error
        except (gzip.BadGzipFile, EOFError) as error:
            raise UserError(f"{path} is not a whole gzip file: {error}") from error
    if empty:
        raise UserError(f"{path} is empty; it should have one JSON object a line")


def _parse(line: str, where: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise UserError(f"{where}: not valid JSON ({error}); mend or remove the line") from error
    if not isinstance(row, dict):
        raise UserError(f'{where}: not a JSON object; a line looks like {{"problem": "…", …}}')
    return row


def _pair(row: dict[str, Any], where: str) -> Pair:
    problem = first_text(row, PROBLEM_KEYS, where)
    answer = reference_answer(first_text(row, ANSWER_KEYS, where))
    if answer is None:
        raise UserError(
            f"{where}: no final answer: give it alone in 'answer', after '####', or in a \\boxed{{}}"
        )
    return Pair(problem, answer)


def first_text(row: dict[str, Any], keys: Iterable[str], where: str) -> str:
    """Return the first of a row's fields that holds text or a number.

    Raises:
        UserError: none does.
    """
    for key in keys:
        value = row.get(key)
        if isinstance(value, str) and value.strip():
            return value
        if isinstance(value, int | float) and not isinstance(value, bool):
            return str(value)
    found = ", ".join(row) or "nothing"
    raise UserError(f"{where}: none of the keys {', '.join(keys)} holds text (found: {found})")


def _read_hub(convert: Convert[T], name: str, subset: str | None) -> tuple[list[T], list[T]]:
    try:
        import datasets
    except ModuleNotFoundError as error:
        raise UserError(
            f"'{name}' is no file, and to read it from the hub needs `{install_hint('data')}`"
        ) from error
    try:
        loaded = datasets.load_dataset(name, subset)
    except (OSError, ValueError) as error:
        raise UserError(f"cannot load the data set '{name}': {str(error).splitlines()[0]}") from error
    splits = {
        split: [convert(dict(row), f"{name}/{split}, row {i}") for i, row in enumerate(rows)]
        for split, rows in loaded.items()
        if split in ("train", "test")
    }
    if not splits:
        raise UserError(f"the data set '{name}' has neither a train nor a test split: {', '.join(loaded)}")
    return splits.get("train", []), splits.get("test", [])
