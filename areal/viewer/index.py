"""An index of the rollouts of a run, or the responses of an evaluation, in a cache file, for lists.

The file may be deleted at any time, and is then recreated. Nothing is written to the run directory.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from areal.errors import UserError
from areal.viewer.records import Records

Sort = Literal["step", "reward", "tokens", "staleness", "part"]
Span = tuple[int, int]

_ALL_STEPS = (0, 2**62)
_ALL_REWARDS = (float("-inf"), float("inf"))

_FORM = 3
"""Version of the tables; each version has its own file."""
_PARTS = 16
"""Maximum number of named parts of the reward with a column."""
_WAIT = 60.0
"""Seconds that a process waits for another one that writes to the same index."""

_TABLES = """
CREATE TABLE IF NOT EXISTS files (step INTEGER PRIMARY KEY, mark TEXT NOT NULL, damaged INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS names (kind TEXT, name TEXT, PRIMARY KEY (kind, name)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS parts (name TEXT UNIQUE, "column" TEXT);
CREATE TABLE IF NOT EXISTS rollouts (
    step INTEGER, "group" INTEGER, number INTEGER, size INTEGER, mean REAL, reward REAL, env TEXT,
    tokens INTEGER, staleness INTEGER, oldest INTEGER, newest INTEGER, finish TEXT,
    start INTEGER, length INTEGER,
    PRIMARY KEY (step, "group", number)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS by_reward ON rollouts (reward, step DESC, "group", number);
CREATE INDEX IF NOT EXISTS by_tokens ON rollouts (tokens, step DESC, "group", number);
CREATE INDEX IF NOT EXISTS by_staleness ON rollouts (staleness, step DESC, "group", number);
"""
_COLUMNS = (
    "step", "group", "number", "size", "mean", "reward", "env", "tokens", "staleness", "oldest", "newest",
    "finish", "start", "length",
)  # fmt: skip


Filter = tuple[str, str, list[Any]]
"""The column of a condition, its form in SQL, and its values."""


@dataclass(frozen=True, slots=True)
class Query:
    """Selects rollouts and their order.

    Attributes:
        steps: first and last update.
        rewards: smallest and largest reward.
        part: a named part of the reward, to which ``values`` and the order ``part`` refer; empty: none.
        values: smallest and largest value of that part.
        env: environment of a mixture; empty: any.
        finish: how the rollout ended; empty: in any way.
        sort: the sort key; equal ones are sorted by update, the newest first.
        descending: whether the largest comes first.
        changed: only rollouts within which the weights changed.
    """

    steps: Span = _ALL_STEPS
    rewards: tuple[float, float] = _ALL_REWARDS
    part: str = ""
    values: tuple[float, float] = _ALL_REWARDS
    env: str = ""
    finish: str = ""
    sort: Sort = "step"
    descending: bool = False
    changed: bool = False

    def filters(self, column: str) -> list[Filter]:
        """Return the conditions; ``column`` is the column of the part."""
        found: list[Filter] = []
        for name, (low, high), whole in (
            ("step", self.steps, _ALL_STEPS),
            ("reward", self.rewards, _ALL_REWARDS),
            (column, self.values, _ALL_REWARDS),
        ):
            if (low, high) != whole:
                found.append((name, "{0} BETWEEN ? AND ?", [low, high]))
        for name, wanted in (("env", self.env), ("finish", self.finish)):
            if wanted:
                found.append((name, "{0} = ?", [wanted]))
        if self.changed:
            found.append(("newest", "{0} > oldest", []))
        if self.part and (self.sort == "part" or self.values != _ALL_REWARDS):
            found.append((column, "{0} IS NOT NULL", []))
        return found

    def order(self, column: str) -> tuple[str, str]:
        """Return the column of the order, and the order in SQL, which is that of an index or its reverse."""
        if self.sort == "step":
            names = ("step", '"group"', "number")
            return "step", ", ".join(f"{name}{' DESC' * self.descending}" for name in names)
        by = column if self.sort == "part" else self.sort
        if self.descending:
            return by, '{0} DESC, step, "group" DESC, number DESC'
        return by, '{0}, step DESC, "group", number'


def _where(filters: list[Filter], by: str) -> tuple[str, list[Any]]:
    """Return a condition in SQL and its values; only the index of one column may be used for it.

    SQLite does not know how many rows match a condition, and looks up a million rows one by one in the order
    of an index, although reading all of them takes a tenth of the time. A plus sign prevents this.
    """
    conditions = [form.format(name if name == by else f"+{name}") for name, form, _ in filters]
    return " AND ".join(conditions) or "1", [value for _, _, values in filters for value in values]


class Index:
    """The rollouts of one run, or the responses of one evaluation.

    Args:
        records: the records to index.
        folder: folder of the cache file.

    Raises:
        UserError: the file cannot be written.
    """

    def __init__(self, records: Records, folder: Path) -> None:
        self.records = records
        path = records.path.resolve()
        digest = hashlib.sha256(str(path).encode()).hexdigest()[:16]
        self.path = folder / f"{path.name}-{digest}-{_FORM}.sqlite"
        self._writing = threading.Lock()
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(
                f"cannot keep an index in {folder}: {error.strerror}; set XDG_CACHE_HOME to a writable folder"
            ) from error
        with self._open() as database:
            database.execute("PRAGMA journal_mode=WAL")
            database.executescript(_TABLES)

    def update(
        self, seconds: float, first: Span | None = None, go_on: Callable[[], bool] = lambda: True
    ) -> int:
        """Read new records, the latest first, for some seconds; return the number of remaining ones.

        Args:
            seconds: time after which no further record is begun, except those of ``first``.
            first: a range of updates that is needed now, and read completely.
            go_on: no further record is begun once it returns false, either.
        """
        end = time.monotonic() + seconds
        with self._writing, self._open() as database:
            known = dict(database.execute("SELECT step, mark FROM files"))
            found = self.records.marks()
            with database:
                gone = [(step,) for step in known.keys() - found.keys()]
                database.executemany("DELETE FROM rollouts WHERE step = ?", gone)
                database.executemany("DELETE FROM files WHERE step = ?", gone)
            new = sorted((step for step, mark in found.items() if known.get(step) != mark), reverse=True)
            if first is not None:
                low, high = first
                new.sort(key=lambda step: not low <= step <= high)  # which keeps the order otherwise
            for number, step in enumerate(new):
                wanted = first is not None and first[0] <= step <= first[1]
                if not wanted and (time.monotonic() > end or not go_on()):
                    return len(new) - number
                with database:
                    self._read(database, step, found[step])
        return 0

    def _read(self, database: sqlite3.Connection, step: int, mark: str) -> None:
        rows, damaged = self.records.rows(step)
        database.execute("BEGIN IMMEDIATE")  # before reading what other processes have added
        columns = _part_columns(database)
        names = dict.fromkeys(name for row in rows for name in row.parts)
        for name in [name for name in names if name not in columns][: _PARTS - len(columns)]:
            columns[name] = column = f"part_{len(columns)}"
            database.execute("INSERT INTO parts VALUES (?, ?)", (name, column))
            database.execute(f"ALTER TABLE rollouts ADD COLUMN {column} REAL")
            database.execute(f'CREATE INDEX by_{column} ON rollouts ({column}, step DESC, "group", number)')
        database.execute("DELETE FROM rollouts WHERE step = ?", (step,))
        every = [*_COLUMNS, *columns.values()]
        holes = ", ".join("?" * len(every))
        listed = ", ".join(f'"{name}"' for name in every)
        database.executemany(
            f"INSERT OR REPLACE INTO rollouts ({listed}) VALUES ({holes})",
            ([*(getattr(row, name) for name in _COLUMNS), *map(row.parts.get, columns)] for row in rows),
        )
        found = {(kind, name) for row in rows for kind, name in (("env", row.env), ("finish", row.finish))}
        if names.keys() - columns.keys():
            found.add(("left out", "parts"))
        database.executemany("INSERT OR IGNORE INTO names VALUES (?, ?)", [each for each in found if each[1]])
        database.execute("INSERT OR REPLACE INTO files VALUES (?, ?, ?)", (step, mark, damaged))

    def find(self, query: Query, limit: int, skip: int = 0) -> tuple[list[dict[str, Any]], int]:
        """Return the requested rollouts, each with the ``parts`` of its reward, and their total number.

        Args:
            query: selects the rollouts.
            limit: maximum number; -1: all.
            skip: number of rollouts to skip at the start.
        """
        with self._open() as database:
            columns = _part_columns(database)
            column = columns.get(query.part, "NULL")  # no rollout has values of an unknown part
            filters = query.filters(column)
            names = list(dict.fromkeys(name for name, _, _ in filters))
            where, values = _where(filters, names[0] if len(names) == 1 else "step")
            (count,) = database.execute(f"SELECT count(*) FROM rollouts WHERE {where}", values).fetchone()
            if count <= skip:
                return [], count
            by, order = query.order(column)
            # Without other conditions, an index provides the order; otherwise all rows are read once.
            walks = by == "step" or set(names) <= {by}
            where, values = _where(filters, by if walks else "step")
            order = order.format(by if walks else f"+{by}")
            keys = (
                f'SELECT step, "group", number FROM rollouts WHERE {where} ORDER BY {order} LIMIT ? OFFSET ?'
            )
            rest = f'JOIN ({keys}) USING (step, "group", number) ORDER BY {order}'
            return _rows(database, columns, rest, [*values, limit, skip]), count

    def group(self, step: int, group: int) -> list[dict[str, Any]]:
        """Return the rollouts of a group."""
        with self._open() as database:
            rest = 'WHERE step = ? AND "group" = ? ORDER BY number'
            return _rows(database, _part_columns(database), rest, [step, group])

    def staleness(self, first: int, last: int) -> list[tuple[int, int, int]]:
        """Return update, number and largest staleness of each group in a range of updates, in order."""
        with self._open() as database:
            return database.execute(
                'SELECT step, "group", max(staleness) FROM rollouts WHERE step BETWEEN ? AND ? '
                'GROUP BY step, "group" ORDER BY step, "group"',
                (first, last),
            ).fetchall()

    def facts(self) -> dict[str, Any]:
        """Return the content: the range of updates, names for filters, and damaged records."""
        with self._open() as database:
            low, high, count = database.execute("SELECT min(step), max(step), count(*) FROM files").fetchone()
            names = database.execute("SELECT kind, name FROM names ORDER BY name").fetchall()
            damaged = database.execute("SELECT step FROM files WHERE damaged LIMIT 10").fetchall()
            parts = list(_part_columns(database))
        return {
            "first": low,
            "last": high,
            "updates": count,
            "envs": [name for kind, name in names if kind == "env"],
            "finishes": [name for kind, name in names if kind == "finish"],
            "parts": parts,
            "parts_left_out": any(kind == "left out" for kind, _ in names),
            "damaged": [step for (step,) in damaged],
        }

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        try:
            with closing(sqlite3.connect(self.path, timeout=_WAIT)) as database:
                database.execute("PRAGMA synchronous=OFF")  # it is only a cache
                yield database
        except sqlite3.DatabaseError as error:
            raise UserError(f"the index {self.path} cannot be used ({error}); delete it") from error


def _rows(
    database: sqlite3.Connection, columns: dict[str, str], rest: str, values: list[Any]
) -> list[dict[str, Any]]:
    listed = ", ".join(f'"{name}"' for name in (*_COLUMNS, *columns.values()))
    found = []
    for row in database.execute(f"SELECT {listed} FROM rollouts {rest}", values):
        own = dict(zip(_COLUMNS, row, strict=False))
        parts = zip(columns, row[len(_COLUMNS) :], strict=True)
        found.append({**own, "parts": {name: value for name, value in parts if value is not None}})
    return found


def _part_columns(database: sqlite3.Connection) -> dict[str, str]:
    """Return the column of each named part of the reward, in order."""
    return dict(database.execute('SELECT name, "column" FROM parts ORDER BY rowid'))


def cache_folder() -> Path:
    """Return the folder of all indexes: below ``XDG_CACHE_HOME``, or ``~/.cache``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "areal" / "view"
