"""A run for the page, as plain data: its description, its metrics and its batches."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from areal.config.objective import Objective
from areal.errors import UserError
from areal.telemetry.alarms import alarms
from areal.telemetry.plain import plain
from areal.telemetry.run_directory import CONFIG, EVENTS, METRICS, RunDirectory, parsed
from areal.telemetry.scores import finite
from areal.telemetry.status import read_status, rows
from areal.trajectory import Group
from areal.viewer.evaluations import WatchedEvaluation, is_evaluation
from areal.viewer.index import Index
from areal.viewer.inside import inside
from areal.viewer.listing import (
    Listing,
    Read,
    excerpt_of,
    flat_settings,
    plain_conversation,
    plain_data,
    text_of,
)
from areal.viewer.records import DAMAGE, RunRecords, finish_of, mark_of
from areal.viewer.rollouts import Decode, Rollout, decoder_of, rollouts_of
from areal.viewer.runs import summary_of
from areal.viewer.sessions import WatchedSessions, files_of_sessions
from areal.viewer.tail import Tail
from areal.viewer.timeline import Timeline, Window, tail_of_metrics
from areal.viewer.token_values import Known, of_each_token, read_token_values

_CHUNK = 4 * 2**20
"""Maximum bytes of metrics in one answer."""
_AT_ONCE = 2**20
"""Maximum bytes of metrics for which the first answer contains all of them."""
_OUTLINE = 1000
"""Otherwise, the number of updates in the first answer: about the number of pixels of a chart."""
_TAIL = 2 * 2**20
"""Number of bytes of the last metrics that are searched for alarms."""
_MARKS = 200
"""Maximum number of restarts and resumptions in the state of a run."""
_NOR = "; it has no NAME.jsonl either, which evaluations and sessions of `areal serve --record` have"
_LIVES = ("running", "suspended")
_NOW = ("waiting", "groups")
"""Lines of ``areal status`` that are included in the state of an active run."""


class WatchedRun(Listing):
    """One run.

    Args:
        name: its name on the page.
        run: its directory.
        cache: folder of its index.
    """

    def __init__(self, name: str, run: RunDirectory, cache: Path) -> None:
        self.run = run
        self._check()
        super().__init__(name, Index(RunRecords(run.path), cache))
        self._rows, self._events, self._timeline = tail_of_metrics(), Tail(), Timeline()
        self._tails = threading.Lock()
        self._last: tuple[str, list[dict[str, Any]]] = "", []

    def _check(self) -> None:
        for file in (CONFIG, METRICS, EVENTS, "status.json", "rollouts", "tokens"):
            inside(self.run.path, file)

    def state(self) -> dict[str, Any]:
        """Return its state and its problems."""
        self._check()
        found = summary_of(self.run.path)
        over = bool(found.state) and found.state not in _LIVES
        wrong = alarms(self._last_lines(), over)
        return plain_data(
            {
                **found.to_json(),
                "name": self.name,
                "alarms": [{"name": a.name, "step": a.step, "line": a.line} for a in wrong],
                "marks": self.marks(),
                "now": self._now() if found.state in _LIVES else [],
            }
        )

    def _status(self) -> dict[str, Any]:
        """Return the status; empty: the run is from an old version, or has just begun."""
        try:
            return read_status(self.run.path)
        except UserError:
            return {}

    def _now(self) -> list[str]:
        """Return what it waits for and the progress of its groups, in the words of ``areal status``."""
        status = self._status()
        return [f"{name}: {value}" for name, value in rows(status) if name in _NOW] if status else []

    def marks(self) -> list[dict[str, Any]]:
        """Return the last restarts and resumptions."""
        with self._tails:
            return self._timeline_now().marks[-_MARKS:]

    def _timeline_now(self) -> Timeline:
        """Return the timeline, including new data."""
        rows, again = self._rows.read(inside(self.run.path, METRICS))
        events, other = self._events.read(inside(self.run.path, EVENTS))  # after the rows: what led to them
        if again or other:  # the run was reset, so data of the other file are outdated, too
            self._rows, self._events = tail_of_metrics(), Tail()
            rows, _ = self._rows.read(inside(self.run.path, METRICS))
            events, _ = self._events.read(inside(self.run.path, EVENTS))
            self._timeline = Timeline()
        self._timeline.add(rows, events)
        return self._timeline

    def timeline(self, wanted: Window) -> dict[str, Any]:
        """Return the timeline; see :meth:`areal.viewer.timeline.Timeline.view`.

        Returns:
            In addition, ``groups``: for each, when and by which update it was consumed, its number, and its
            staleness; the ``bound`` of the staleness, null if there is none; ``left``, the number of updates
            whose groups are not in the index yet; and ``live``, whether the run is running.
        """
        self._check()
        status = self._status()
        live = status.get("state") == "running"
        with self._tails:
            shown = self._timeline_now().view(wanted, status if live else None)
        taken = shown.pop("taken")
        left = self.index.update(0.1)
        found = self.index.staleness(min(taken), max(taken)) if taken else []
        bound = float(self.settings().get("rollout.max_staleness", "inf"))
        return plain_data(
            {
                **shown,
                "groups": [(taken[step], step, group, n) for step, group, n in found if step in taken],
                "bound": bound,
                "left": left,
                "live": live,
            }
        )

    def latest(self) -> dict[str, float]:
        """Return the latest value of each metric, and whether the run is running: ``running``, 1 or 0."""
        self._check()
        values = {"running": float(summary_of(self.run.path).state == "running")}
        for line in self._last_lines():
            found = {key: value for key in line if (value := finite(line, key)) is not None}
            values |= {plain(key): value for key, value in found.items()}
        return values

    def _last_lines(self) -> list[dict[str, Any]]:
        try:
            with inside(self.run.path, METRICS).open("rb") as file:
                mark = mark_of(os.fstat(file.fileno()))
                if self._last[0] != mark:
                    file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL))
                    self._last = mark, [line for raw in file if (line := parsed(raw)) is not None]
                return self._last[1]
        except FileNotFoundError:
            return []

    def settings(self) -> dict[str, str]:
        """Return each setting and its value as text, including those of the objective's preset."""
        try:
            config = yaml.safe_load(
                inside(self.run.path, CONFIG).read_text(encoding="utf-8", errors="replace")
            )
        except yaml.YAMLError as error:
            raise UserError(f"{self.run.path / CONFIG} is damaged") from error
        learner = config.get("learner") if isinstance(config, dict) else None
        if isinstance(learner, dict):
            config = {**config, "learner": {**learner, **_of_preset(learner)}}
        return flat_settings(config)

    def metrics(self, mark: str, chunk: int = _CHUNK) -> dict[str, Any]:
        """Return the new metrics.

        Args:
            mark: mark from the previous answer; empty at first. It identifies the file and the position in
                it.
            chunk: maximum number of bytes to read.

        Returns:
            ``columns`` of the new lines by name, null where a line has no such value; their number,
            ``length``; the next ``mark``; ``again``, if they replace the earlier ones (a run that was reset
            rewrites its file); ``more``, if others remain.
        """
        try:
            with inside(self.run.path, METRICS).open("rb") as file:
                stat = os.fstat(file.fileno())
                inode, _, offset = mark.partition("-")
                goes_on = inode == str(stat.st_ino) and offset.isdecimal() and int(offset) <= stat.st_size
                start = int(offset) if goes_on else 0
                file.seek(start)
                data = file.read(chunk)
        except FileNotFoundError:
            return {"mark": "", "again": bool(mark), "more": False, "length": 0, "columns": {}}
        end = data.rfind(b"\n") + 1
        lines = [line for raw in data[:end].splitlines() if (line := parsed(raw)) is not None]
        return {
            "mark": f"{stat.st_ino}-{start + end}",
            "again": not goes_on,
            "more": end > 0 and start + end < stat.st_size,
            "length": len(lines),
            "columns": _columns(lines),
        }

    def outline(self) -> dict[str, Any]:
        """Return the metrics for a first view: all of them, or those of updates at a regular interval.

        Returns:
            The same as :meth:`metrics`; if only a part is included, also ``every``, the interval in updates.
            The ``mark`` then requests all metrics, from the beginning.
        """
        try:
            data = inside(self.run.path, METRICS).read_bytes()
        except FileNotFoundError:
            return self.metrics("")
        if len(data) <= _AT_ONCE:
            return self.metrics("")
        raw = data[: data.rfind(b"\n") + 1].splitlines()
        every = max(1, len(raw) // _OUTLINE)
        # Held-out scores have separate lines, and are few; the page shows the last line as the current state.
        chosen = (line for i, line in enumerate(raw) if (len(raw) - 1 - i) % every == 0 or b'"eval/' in line)
        lines = [line for each in chosen if (line := parsed(each)) is not None]
        found = {"mark": "all", "again": True, "more": True, "length": len(lines), "every": every}
        return {**found, "columns": _columns(lines)}

    def reader(self) -> Read:
        """Return a reader of rollouts for one answer."""
        return _Reader(self)

    def make_decoder(self) -> Decode:
        """Return a function that converts tokens to text; raises UserError if there is no tokenizer."""
        return decoder_of(self.run)

    def called(self, step: int, group: int, number: int | None) -> str:
        """Return the name of a group, or of one rollout of it."""
        which = f"group {group}" if number is None else f"rollout {number} of group {group}"
        return f"{which} of update {step}"


@dataclass(frozen=True, slots=True)
class _Entry:
    """A rollout with all its data."""

    rollout: Rollout
    watched: WatchedRun
    reader: _Reader

    def text(self) -> str:
        """Return the text of all its conversations."""
        return text_of(self.rollout.episode.trajectories, self.watched.decode)

    def excerpt(self) -> str:
        """Return the beginning of its last response."""
        return excerpt_of(self.rollout.episode.trajectories[-1], self.watched.decode)

    def whole(self) -> dict[str, Any]:
        """Return all its data as plain data."""
        rollout, episode = self.rollout, self.rollout.episode
        oldest, newest = rollout.versions
        facts = {
            "step": rollout.step,
            "group": rollout.group,
            "number": rollout.number,
            "size": rollout.size,
            "mean": rollout.mean,
            "reward": episode.reward,
            "parts": episode.reward_parts,
            "players": episode.players,
            "env": episode.env,
            "task": episode.task,
            "tokens": episode.sampled,
            "staleness": rollout.staleness,
            "oldest": oldest,
            "newest": newest,
            "finish": finish_of(rollout),
            "failure": episode.failure,
            "expected": episode.expected,
            "seconds": round(episode.ended - episode.started, 3),
            "latency": episode.seconds,
        }
        known, place = self.reader.token_values(rollout.step), (rollout.group, rollout.number)
        said = [
            {
                **plain_conversation(trajectory, self.watched.decode),
                "values": of_each_token(trajectory, known.get((*place, number))),
            }
            for number, trajectory in enumerate(episode.trajectories)
        ]
        valued = sorted({(group, number) for group, number, _ in known})
        return {**plain_data(facts), "conversations": said, "valued": valued}


class _Reader:
    """Reads rollouts by their rows in the index; the file of a group that was just read is not read again."""

    def __init__(self, watched: WatchedRun) -> None:
        self._watched = watched
        self._groups: dict[tuple[int, int], list[Rollout]] = {}
        self._values: tuple[int, Known] = (0, {})

    def token_values(self, step: int) -> Known:
        """Return an update's values for the tokens of some of its rollouts."""
        if self._values[0] != step:
            self._values = step, read_token_values(self._watched.run, step)
        return self._values[1]

    def __call__(self, row: dict[str, Any]) -> _Entry:
        key = row["step"], row["start"]
        if key not in self._groups:
            if len(self._groups) > 64:
                self._groups.clear()
            self._groups[key] = list(self._read(row))
        return _Entry(self._groups[key][row["number"] - 1], self._watched, self)

    def _read(self, row: dict[str, Any]) -> Iterator[Rollout]:
        damaged = UserError(
            f"the record of update {row['step']} of {self._watched.name} has changed; try again"
        )
        try:
            with self._watched.index.records.file(row["step"]).open("rb") as file:
                file.seek(row["start"])
                group = Group.from_json(parsed(file.read(row["length"])) or {})
        except (FileNotFoundError, *DAMAGE) as error:
            raise damaged from error
        if len(group.episodes) != row["size"]:
            raise damaged
        return rollouts_of(group, row["step"])


def _columns(lines: list[dict[str, Any]]) -> dict[str, list[float | None]]:
    """Return the finite numbers of lines by name, with six digits."""
    columns: dict[str, list[float | None]] = {}
    for number, line in enumerate(lines):
        for key in line:
            if (value := finite(line, key)) is not None:
                if key not in columns:
                    columns[key] = [None] * len(lines)
                columns[key][number] = float(f"{value:.6g}")
    return {plain(key): values for key, values in columns.items()}


Watched = WatchedRun | WatchedEvaluation | WatchedSessions


def watch(paths: list[str], cache: Path) -> list[Watched]:
    """Return runs, evaluations and files of sessions, each with a unique name.

    Raises:
        UserError: a path is none of these.
    """
    sessions = {path: files_of_sessions(Path(path)) for path in paths}
    folders = {each.resolve(): str(each) for path in paths for each in sessions[path] or [Path(path)]}
    names = [folder.name for folder in folders]
    found: list[Watched] = []
    for folder, path in folders.items():
        name = plain(folder.name if names.count(folder.name) == 1 else str(path))
        if folder.is_file():
            found.append(WatchedSessions(name, folder, cache))
        elif is_evaluation(folder):
            found.append(WatchedEvaluation(name, folder, cache))
        else:
            found.append(WatchedRun(name, RunDirectory.open(path, _NOR), cache))
    return found


def _of_preset(learner: dict[str, Any]) -> dict[str, str]:
    """Return the learner settings of a run that its preset determines."""
    given = {name: value for name, value in learner.items() if name in Objective.model_fields}
    try:
        choices = Objective(**given).choices()
    except ValueError:  # from another version of areal
        return {}
    left = {name: value for name, value in choices.items() if given.get(name) is None and value is not None}
    return {name: f"{value} (preset)" for name, value in left.items()}
