"""An index of a run's rollouts, in a cache file: what a list of them filters and sorts by.

The file may be deleted at any time; it is made anew. Nothing is written to the run directory. A record of an
update appears whole and is replaced as a whole, so that a file is read again exactly if its mark (size, time,
inode) is another one.
"""

from __future__ import annotations

import hashlib
import os
import re
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from areal.errors import UserError
from areal.telemetry.plain import plain
from areal.telemetry.run_directory import RunDirectory, parsed
from areal.trajectory import Group
from areal.viewer.inside import inside
from areal.viewer.rollouts import Rollout, rollouts_of

Sort = Literal["step", "reward", "tokens", "staleness"]
Span = tuple[int, int]

_ALL_STEPS = (0, 2**62)
_ALL_REWARDS = (float("-inf"), float("inf"))

_FORM = 1
"""Of the tables; an index of another form is another file."""
_SETTLED = 2.0
"""Seconds after which the time of a folder tells whether it has changed: such clocks are coarse."""
_RECORD = re.compile(r"step-([0-9]{6,15})\.jsonl")
_WAIT = 60.0
"""Seconds that one process waits for another one that writes to the same index."""

_TABLES = """
CREATE TABLE IF NOT EXISTS files (step INTEGER PRIMARY KEY, mark TEXT NOT NULL, damaged INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS names (kind TEXT, name TEXT, PRIMARY KEY (kind, name)) WITHOUT ROWID;
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
DAMAGE = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)
"""What a record raises whose values are not of the kinds that they should be."""
_COLUMNS = (
    "step", "group", "number", "size", "mean", "reward", "env", "tokens", "staleness", "oldest", "newest",
    "finish", "start", "length",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Query:
    """Which rollouts, and in what order.

    Attributes:
        steps: first and last update.
        rewards: least and largest reward.
        env: of this environment of a mixture; empty: of any.
        finish: that ended so; empty: in any way.
        sort: by what; equal ones by update, the newest first.
        descending: the largest first.
    """

    steps: Span = _ALL_STEPS
    rewards: tuple[float, float] = _ALL_REWARDS
    env: str = ""
    finish: str = ""
    sort: Sort = "step"
    descending: bool = False

    def where(self) -> tuple[str, list[Any]]:
        """Return the condition in SQL and its values."""
        conditions: list[str] = []
        values: list[Any] = []
        for name, (low, high), whole in (
            ("step", self.steps, _ALL_STEPS),
            ("reward", self.rewards, _ALL_REWARDS),
        ):
            if (low, high) != whole:
                conditions.append(f"{name} BETWEEN ? AND ?")
                values += [low, high]
        for name, wanted in (("env", self.env), ("finish", self.finish)):
            if wanted:
                conditions.append(f"{name} = ?")
                values.append(wanted)
        return " AND ".join(conditions) or "1", values

    def order(self) -> str:
        """Return the order in SQL; each one is that of an index, forwards or backwards."""
        if self.sort == "step":
            return ", ".join(f"{name}{' DESC' * self.descending}" for name in ("step", '"group"', "number"))
        if self.descending:
            return f'{self.sort} DESC, step, "group" DESC, number DESC'
        return f'{self.sort}, step DESC, "group", number'


class Index:
    """The rollouts of one run.

    Args:
        run: of which.
        folder: of the cache file.

    Raises:
        UserError: the file cannot be written.
    """

    def __init__(self, run: RunDirectory, folder: Path) -> None:
        self.run = run
        digest = hashlib.sha256(str(run.path.resolve()).encode()).hexdigest()[:16]
        self.path = folder / f"{run.path.resolve().name}-{digest}-{_FORM}.sqlite"
        self._writing = threading.Lock()
        self._seen: tuple[int, dict[int, str]] = (-1, {})
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(
                f"no index can be kept in {folder}: {error.strerror}; set XDG_CACHE_HOME to a folder"
            ) from error
        with self._open() as database:
            database.execute("PRAGMA journal_mode=WAL")
            database.executescript(_TABLES)

    def update(self, seconds: float, first: Span | None = None) -> int:
        """Read records that are new, the latest first, for some seconds; return how many are left.

        Args:
            seconds: no record is begun after them, but for those of ``first``.
            first: a range of updates that is wanted now, and read whole.
        """
        end = time.monotonic() + seconds
        with self._writing, self._open() as database:
            known = dict(database.execute("SELECT step, mark FROM files"))
            found = self._marks()
            with database:
                gone = [(step,) for step in known.keys() - found.keys()]
                database.executemany("DELETE FROM rollouts WHERE step = ?", gone)
                database.executemany("DELETE FROM files WHERE step = ?", gone)
            new = sorted((step for step, mark in found.items() if known.get(step) != mark), reverse=True)
            if first is not None:
                low, high = first
                new.sort(key=lambda step: not low <= step <= high)  # which leaves the order else
            for number, step in enumerate(new):
                wanted = first is not None and first[0] <= step <= first[1]
                if not wanted and time.monotonic() > end:
                    return len(new) - number
                with database:
                    self._read(database, step, found[step])
        return 0

    def _marks(self) -> dict[int, str]:
        """Return the mark of each record that there is."""
        folder = inside(self.run.path, "rollouts")
        try:
            changed = folder.stat().st_mtime_ns
        except FileNotFoundError:
            return {}
        if self._seen[0] == changed:
            return self._seen[1]
        found = {}
        with os.scandir(folder) as entries:
            for entry in entries:
                name = _RECORD.fullmatch(entry.name)
                if name and entry.is_file(follow_symlinks=False):
                    stat = entry.stat(follow_symlinks=False)
                    found[int(name[1])] = f"{stat.st_size} {stat.st_mtime_ns} {stat.st_ino}"
        if time.time() - changed / 1e9 > _SETTLED:
            self._seen = changed, found
        return found

    def _read(self, database: sqlite3.Connection, step: int, mark: str) -> None:
        rows: list[tuple[Any, ...]] = []
        damaged = False
        start = 0
        for line in self._lines(step):
            try:
                found = rollouts_of(Group.from_json(parsed(line) or {}), step)
                rows += [_row(rollout, start, len(line)) for rollout in found]
            except DAMAGE:
                damaged = True
            start += len(line)
        database.execute("DELETE FROM rollouts WHERE step = ?", (step,))
        holes = ", ".join("?" * len(_COLUMNS))
        database.executemany(f"INSERT INTO rollouts VALUES ({holes})", rows)
        for kind, column in (("env", 6), ("finish", 11)):
            names = {(kind, row[column]) for row in rows if row[column]}
            database.executemany("INSERT OR IGNORE INTO names VALUES (?, ?)", names)
        database.execute("INSERT OR REPLACE INTO files VALUES (?, ?, ?)", (step, mark, damaged))

    def _lines(self, step: int) -> Iterator[bytes]:
        try:
            with self.record(step).open("rb") as file:
                yield from file
        except FileNotFoundError:  # the run was set back in this moment
            return

    def record(self, step: int) -> Path:
        """Return the file of what an update consumed."""
        return inside(self.run.path, "rollouts", f"step-{step:06d}.jsonl")

    def find(self, query: Query, limit: int, skip: int = 0) -> list[dict[str, Any]]:
        """Return rollouts that are asked for."""
        where, values = query.where()
        order = f"SELECT * FROM rollouts WHERE {where} ORDER BY {query.order()} LIMIT ? OFFSET ?"
        with self._open() as database:
            rows = database.execute(order, [*values, limit, skip]).fetchall()
        return [dict(zip(_COLUMNS, row, strict=True)) for row in rows]

    def count(self, query: Query) -> int:
        """Return how many rollouts are asked for."""
        where, values = query.where()
        with self._open() as database:
            (found,) = database.execute(f"SELECT count(*) FROM rollouts WHERE {where}", values).fetchone()
        return int(found)

    def group(self, step: int, group: int) -> list[dict[str, Any]]:
        """Return the rollouts of a group."""
        with self._open() as database:
            rows = database.execute(
                'SELECT * FROM rollouts WHERE step = ? AND "group" = ? ORDER BY number', (step, group)
            ).fetchall()
        return [dict(zip(_COLUMNS, row, strict=True)) for row in rows]

    def staleness(self, first: int, last: int) -> list[tuple[int, int, int]]:
        """Return the update, the number and the largest staleness of each group of some updates, in order."""
        with self._open() as database:
            return database.execute(
                'SELECT step, "group", max(staleness) FROM rollouts WHERE step BETWEEN ? AND ? '
                'GROUP BY step, "group" ORDER BY step, "group"',
                (first, last),
            ).fetchall()

    def facts(self) -> dict[str, Any]:
        """Return what there is: the range of updates, names to filter by, records that are damaged."""
        with self._open() as database:
            low, high, count = database.execute("SELECT min(step), max(step), count(*) FROM files").fetchone()
            names = database.execute("SELECT kind, name FROM names ORDER BY name").fetchall()
            damaged = database.execute("SELECT step FROM files WHERE damaged LIMIT 10").fetchall()
        return {
            "first": low,
            "last": high,
            "updates": count,
            "envs": [name for kind, name in names if kind == "env"],
            "finishes": [name for kind, name in names if kind == "finish"],
            "damaged": [step for (step,) in damaged],
        }

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        try:
            with closing(sqlite3.connect(self.path, timeout=_WAIT)) as database:
                database.execute("PRAGMA synchronous=OFF")  # a cache
                yield database
        except sqlite3.DatabaseError as error:
            raise UserError(f"the index {self.path} cannot be used ({error}); delete it") from error


def _row(rollout: Rollout, start: int, length: int) -> tuple[Any, ...]:
    episode = rollout.episode
    return (
        rollout.step, rollout.group, rollout.number, rollout.size, rollout.mean, float(episode.reward),
        plain(episode.env), episode.sampled, rollout.staleness, *rollout.versions, finish_of(rollout),
        start, length,
    )  # fmt: skip


def finish_of(rollout: Rollout) -> str:
    """Return how an episode ended: as its last generation, or ``failed`` or ``unfinished``."""
    episode = rollout.episode
    return "failed" if episode.failure else "unfinished" if episode.unfinished else episode.finish


def cache_folder() -> Path:
    """Return the folder of all indexes: below ``XDG_CACHE_HOME``, or ``~/.cache``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "areal" / "view"
