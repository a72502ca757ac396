"""The sources of an index: the rollouts of a run's updates, and the responses of an evaluation, as rows.

A record is a file: the batch of an update, or the responses to a benchmark. It is read again if and only if
its mark (size, time, inode) changes.
"""

from __future__ import annotations

import os
import re
import statistics
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from areal.errors import UserError
from areal.evaluation.responses import Response, read_header, read_response
from areal.telemetry.plain import plain
from areal.telemetry.run_directory import parsed
from areal.trajectory import Group
from areal.viewer.inside import inside
from areal.viewer.rollouts import Rollout, rollouts_of, session_of

DAMAGE = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, UserError, ValueError)
"""Exceptions of a record whose values have wrong types."""
_SETTLED = 2.0
"""Seconds after which the time of a folder shows whether it has changed, because file clocks are coarse."""
_RECORD = re.compile(r"step-([0-9]{6,15})\.jsonl")


@dataclass(slots=True)
class Row:
    """The data of one rollout or response by which a list filters and sorts.

    Attributes:
        step: number of the update that consumed it, or of the benchmark in the evaluation, from 1.
        group: number of its group, or of its problem.
        number: its number in the group, from 1; ``size`` is the size of the group, ``mean`` its mean reward.
        parts: the named parts of the reward.
        tokens: number of sampled tokens.
        staleness, oldest, newest: those of the weights that sampled it; 0 in an evaluation.
        start, length: place of its line in the record, in bytes.
    """

    step: int
    group: int
    number: int
    size: int
    mean: float
    reward: float
    env: str
    tokens: int
    staleness: int
    oldest: int
    newest: int
    finish: str
    start: int
    length: int
    parts: dict[str, float] = field(default_factory=dict)


class Records(Protocol):
    """All records of a run or an evaluation."""

    path: Path

    def marks(self) -> dict[int, str]:
        """Return the mark of each existing record, by its number."""
        ...

    def file(self, number: int) -> Path:
        """Return the file of a record."""
        ...

    def rows(self, number: int) -> tuple[list[Row], bool]:
        """Return the rows of a record, and whether a part of it is damaged."""
        ...


def mark_of(stat: os.stat_result) -> str:
    """Return a mark that changes when the file does."""
    return f"{stat.st_size} {stat.st_mtime_ns} {stat.st_ino}"


class RunRecords:
    """The batches of a run's updates; a record appears as a whole, and is replaced as a whole.

    Args:
        path: the run's folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._seen: tuple[int, dict[int, str]] = (-1, {})

    def marks(self) -> dict[int, str]:
        """Return the mark of each existing record, by its update."""
        folder = inside(self.path, "rollouts")
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
                    found[int(name[1])] = mark_of(entry.stat(follow_symlinks=False))
        if time.time() - changed / 1e9 > _SETTLED:
            self._seen = changed, found
        return found

    def file(self, number: int) -> Path:
        """Return the file with the batch of an update."""
        return inside(self.path, "rollouts", f"step-{number:06d}.jsonl")

    def rows(self, number: int) -> tuple[list[Row], bool]:
        """Return the rollouts of an update's batch, and whether a part of its record is damaged."""
        rows: list[Row] = []
        damaged, start = False, 0
        try:
            with self.file(number).open("rb") as file:
                for line in file:
                    try:
                        found = rollouts_of(Group.from_json(parsed(line) or {}), number)
                        rows += [_row(rollout, start, len(line)) for rollout in found]
                    except DAMAGE:
                        damaged = True
                    start += len(line)
        except FileNotFoundError:  # the run was reset at this moment
            return [], False
        return rows, damaged


class SessionRecords:
    """The sessions from ``areal serve --record``: one record, with a session in each line.

    Args:
        path: path of the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def marks(self) -> dict[int, str]:
        """Return the mark of the file."""
        return {1: mark_of(self.path.stat())}

    def file(self, number: int) -> Path:
        """Return the file."""
        return self.path

    def rows(self, number: int) -> tuple[list[Row], bool]:
        """Return the sessions, and whether some are damaged."""
        rows: list[Row] = []
        damaged, start = False, 0
        with self.path.open("rb") as file:
            for place, line in enumerate(file):
                if line.endswith(b"\n"):  # else it is being written
                    try:
                        rows += [_row(rollout, start, len(line)) for rollout in session_of(line, place)]
                    except DAMAGE:
                        damaged = True
                start += len(line)
        return rows, damaged


def _row(rollout: Rollout, start: int, length: int) -> Row:
    episode = rollout.episode
    oldest, newest = rollout.versions
    return Row(
        rollout.step, rollout.group, rollout.number, rollout.size, rollout.mean, float(episode.reward),
        plain(episode.env), episode.sampled, rollout.staleness, oldest, newest, finish_of(rollout), start,
        length, numbers(episode.reward_parts),
    )  # fmt: skip


def numbers(parts: dict[str, float]) -> dict[str, float]:
    """Return the named parts of a reward in the form in which they are shown."""
    return {plain(str(name)): float(value) for name, value in parts.items()}


def finish_of(rollout: Rollout) -> str:
    """Return how an episode ended: the finish of its last generation, or ``failed`` or ``unfinished``."""
    episode = rollout.episode
    return "failed" if episode.failure else "unfinished" if episode.unfinished else episode.finish


class EvaluationRecords:
    """The responses of an evaluation: one record per benchmark, sorted by name.

    Args:
        path: the evaluation's folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def names(self) -> list[str]:
        """Return the names of the files of responses."""
        found = (path.name for path in self.path.glob("*.jsonl") if path.is_file() and not path.is_symlink())
        return sorted(found)

    def marks(self) -> dict[int, str]:
        """Return the mark of each file, by its number."""
        return {
            number: mark_of((self.path / name).stat()) for number, name in enumerate(self.names(), start=1)
        }

    def file(self, number: int) -> Path:
        """Return the file of a benchmark; raises UserError if it does not exist."""
        names = self.names()
        if not 1 <= number <= len(names):
            raise UserError(f"{self.path} has {len(names)} benchmarks; {number} is not one of their numbers")
        return inside(self.path, names[number - 1])

    def rows(self, number: int) -> tuple[list[Row], bool]:
        """Return the responses to a benchmark, and whether some are damaged."""
        path = self.file(number)
        rows: list[Row] = []
        damaged = False
        with path.open("rb") as file:
            first = file.readline()
            try:
                samples = read_header(first.decode(), str(path)).samples
            except DAMAGE:
                return [], True
            start = len(first)
            for line in file:
                if line.endswith(b"\n"):  # else it is being written
                    try:
                        response = read_response(line.decode(), str(path))
                        rows.append(_response_row(number, response, samples, start, len(line)))
                    except DAMAGE:
                        damaged = True
                start += len(line)
        by_problem: dict[int, list[Row]] = {}
        for row in rows:
            by_problem.setdefault(row.group, []).append(row)
        for group in by_problem.values():
            mean = statistics.fmean(row.reward for row in group)
            for row in group:
                row.mean = mean
        return rows, damaged


def _response_row(number: int, response: Response, samples: int, start: int, length: int) -> Row:
    return Row(
        number, int(response.problem), int(response.sample) + 1, samples, 0.0, float(response.reward),
        plain(response.env), int(response.tokens), 0, 0, 0, plain(response.finish), start, length,
        numbers(response.parts),
    )  # fmt: skip
