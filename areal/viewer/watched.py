"""A run as the page sees it: plain data of what it is, what it measured and what it learned from.

All text of others goes through :func:`areal.telemetry.plain.plain` here, on its way out.
"""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from areal.errors import UserError
from areal.telemetry.alarms import alarms
from areal.telemetry.plain import plain
from areal.telemetry.run_directory import CONFIG, EVENTS, METRICS, RunDirectory, parsed
from areal.telemetry.scores import finite
from areal.telemetry.status import read_status
from areal.trajectory import Group, Trajectory
from areal.viewer.index import DAMAGE, Index, Query, finish_of
from areal.viewer.inside import inside
from areal.viewer.rollouts import Decode, Rollout, decoder_of, rollouts_of
from areal.viewer.runs import summary_of
from areal.viewer.timeline import Tail, Timeline, Window, events_of, marks_of, tail_of_metrics
from areal.viewer.tokens import pieces

_CHUNK = 4 * 2**20
"""Bytes of metrics in one answer."""
_TAIL = 2 * 2**20
"""Bytes of the last metrics, which alarms are looked for in."""
_EXCERPT = 200
"""Letters of a response in a list."""
_SEARCHED = 1000
"""Rollouts whose texts are looked through for one answer."""
_MARKS = 200
"""Restarts and resumptions that are told with the state of a run."""
_LIVES = ("running", "suspended")


class WatchedRun:
    """One run.

    Args:
        name: that the page calls it by.
        run: its directory.
        cache: folder of its index.
    """

    def __init__(self, name: str, run: RunDirectory, cache: Path) -> None:
        self.name = name
        self.run = run
        self._check()
        self.index = Index(run, cache)
        self._rows, self._events = tail_of_metrics(), Tail()
        self._tails = threading.Lock()
        self._decode: Decode | None = None
        self._decoding = threading.Lock()

    def _check(self) -> None:
        for file in (CONFIG, METRICS, EVENTS, "status.json", "rollouts"):
            inside(self.run.path, file)

    def state(self) -> dict[str, Any]:
        """Return how it is, and what is wrong with it."""
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
            }
        )

    def marks(self) -> list[dict[str, Any]]:
        """Return the last restarts and resumptions."""
        with self._tails:
            self._events.read(inside(self.run.path, EVENTS))
            return marks_of(events_of(self._events.lines))[-_MARKS:]

    def timeline(self, wanted: Window) -> dict[str, Any]:
        """Return who did what when; see :meth:`areal.viewer.timeline.Timeline.view`.

        Returns:
            Besides that, ``groups``: when each was consumed, by which update, its number, and its staleness;
            the ``bound`` of the staleness, null if there is none; ``left``, updates whose groups are not in
            the index yet; whether the run is ``live``.
        """
        self._check()
        try:
            status = read_status(self.run.path)
        except UserError:  # of an old version, or only begun
            status = {}
        live = status.get("state") == "running"
        with self._tails:
            self._rows.read(inside(self.run.path, METRICS))
            self._events.read(inside(self.run.path, EVENTS))
            shown = Timeline(self._rows.lines, self._events.lines, status if live else None).view(wanted)
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
        """Return the last value of each metric, and whether the run goes on: ``running``, 1 or 0."""
        self._check()
        values = {"running": float(summary_of(self.run.path).state == "running")}
        for line in self._last_lines():
            found = {key: value for key in line if (value := finite(line, key)) is not None}
            values |= {plain(key): value for key, value in found.items()}
        return values

    def _last_lines(self) -> list[dict[str, Any]]:
        try:
            with inside(self.run.path, METRICS).open("rb") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL))
                return [line for raw in file if (line := parsed(raw)) is not None]
        except FileNotFoundError:
            return []

    def settings(self) -> dict[str, str]:
        """Return each setting and its value, as text."""
        try:
            config = yaml.safe_load(
                inside(self.run.path, CONFIG).read_text(encoding="utf-8", errors="replace")
            )
        except yaml.YAMLError as error:
            raise UserError(f"{self.run.path / CONFIG} is damaged") from error
        return {plain(key): plain(value) for key, value in _flat(config)}

    def metrics(self, mark: str, chunk: int = _CHUNK) -> dict[str, Any]:
        """Return the metrics that are new.

        Args:
            mark: that came with those before; empty at first. It names the file and how far it was read.
            chunk: bytes to read at most.

        Returns:
            ``columns`` of the new lines by name, null where a line has no such value; their number,
            ``length``; the next ``mark``; ``again``, if they replace those before (a run that was set back
            writes its file anew); ``more``, if others wait.
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

    def find(
        self, query: Query, limit: int, skip: int = 0, text: str = "", searched: int = _SEARCHED
    ) -> dict[str, Any]:
        """Return rollouts for a list.

        Args:
            query: which ones.
            limit: how many at most.
            skip: how many before them are left out.
            text: what their conversations must contain, in letters of either case.
            searched: rollouts whose texts are looked through at most.

        Returns:
            ``rows``; ``count`` of all that the query finds; ``next``, how many to skip the next time, null
            at the end; ``left``, updates that are not in the index yet; what there is to filter by.
        """
        few = query.steps[1] - query.steps[0] < 8
        left = self.index.update(0.3, query.steps if few else None)
        count = self.index.count(query)
        looked_at = self.index.find(query, searched if text else limit, skip)
        rows: list[dict[str, Any]] = []
        done = 0
        read = _Reader(self)
        wanted = text.casefold()
        while done < len(looked_at) and len(rows) < limit:
            row = looked_at[done]
            done += 1
            found = read(row)
            if not text or wanted in self.text_of(found).casefold():
                rows.append({**plain_data(row), "excerpt": self.excerpt(found)})
        return {
            "rows": rows,
            "count": count,
            "next": skip + done if looked_at and skip + done < count else None,
            "left": left,
            **self.index.facts(),
        }

    def step(self, step: int) -> list[tuple[dict[str, Any], dict[str, Any]]]:
        """Return each rollout of an update, as in a list and whole."""
        self.index.update(0, (step, step))
        read = _Reader(self)
        found = []
        for row in self.index.find(Query((step, step)), -1):
            rollout = read(row)
            found.append(({**plain_data(row), "excerpt": self.excerpt(rollout)}, self._whole(rollout)))
        return found

    def text_of(self, rollout: Rollout) -> str:
        """Return all that is in a rollout's conversations, as one text."""
        decode = self.decode
        return "\n".join(plain(decode(t.tokens.tolist())) for t in rollout.episode.trajectories)

    def excerpt(self, rollout: Rollout) -> str:
        """Return how the last response of a rollout begins."""
        last = rollout.episode.trajectories[-1]
        begin = last.turns[-1] if last.turns else int(last.loss_mask.argmax())
        said = last.tokens[begin:][last.loss_mask[begin:]][: _EXCERPT * 2]
        return plain(self.decode(said.tolist()))[:_EXCERPT]

    def group(self, step: int, group: int, number: int | None = None) -> dict[str, Any]:
        """Return the rollouts of a group with all their tokens; or one of them.

        Raises:
            UserError: there are none.
        """
        self.index.update(0, (step, step))
        rows = self.index.group(step, group)
        if number is not None:
            rows = [row for row in rows if row["number"] == number]
        if not rows:
            what = f"group {group}" if number is None else f"rollout {number} of group {group}"
            raise UserError(f"there is no {what} of update {step} in {self.name}")
        read = _Reader(self)
        return {"rollouts": [self._whole(read(row)) for row in rows]}

    def _whole(self, rollout: Rollout) -> dict[str, Any]:
        episode = rollout.episode
        oldest, newest = rollout.versions
        facts = {
            "step": rollout.step,
            "group": rollout.group,
            "number": rollout.number,
            "size": rollout.size,
            "mean": rollout.mean,
            "reward": episode.reward,
            "parts": episode.reward_parts,
            "env": episode.env,
            "task": episode.task,
            "tokens": episode.sampled,
            "staleness": rollout.staleness,
            "oldest": oldest,
            "newest": newest,
            "finish": finish_of(rollout),
            "failure": episode.failure,
            "seconds": round(episode.ended - episode.started, 3),
            "latency": episode.seconds,
        }
        return {**plain_data(facts), "conversations": [self._conversation(t) for t in episode.trajectories]}

    def _conversation(self, trajectory: Trajectory) -> dict[str, Any]:
        ids = trajectory.tokens.tolist()
        return {
            "texts": list(map(plain, pieces(ids, self.decode))),
            "ids": ids,
            "versions": trajectory.versions.tolist(),
            "logprobs": plain_data([round(x, 5) for x in trajectory.logprobs.tolist()]),
            "sampled": trajectory.loss_mask.astype(int).tolist(),
            "turns": trajectory.turns,
            "rewards": plain_data(trajectory.rewards),
        }

    @property
    def decode(self) -> Decode:
        """What makes text of tokens.

        Raises:
            UserError: there is no tokenizer.
        """
        with self._decoding:
            if self._decode is None:
                self._decode = decoder_of(self.run)
            return self._decode


class _Reader:
    """Reads rollouts by their rows in the index; of a group that was just read the file is not read again."""

    def __init__(self, watched: WatchedRun) -> None:
        self._watched = watched
        self._groups: dict[tuple[int, int], list[Rollout]] = {}

    def __call__(self, row: dict[str, Any]) -> Rollout:
        key = row["step"], row["start"]
        if key not in self._groups:
            if len(self._groups) > 64:
                self._groups.clear()
            self._groups[key] = list(self._read(row))
        return self._groups[key][row["number"] - 1]

    def _read(self, row: dict[str, Any]) -> Iterator[Rollout]:
        damaged = UserError(
            f"the record of update {row['step']} of {self._watched.name} has changed; try again"
        )
        try:
            with self._watched.index.record(row["step"]).open("rb") as file:
                file.seek(row["start"])
                group = Group.from_json(parsed(file.read(row["length"])) or {})
        except (FileNotFoundError, *DAMAGE) as error:
            raise damaged from error
        if len(group.episodes) != row["size"]:
            raise damaged
        return rollouts_of(group, row["step"])


def plain_data(value: Any) -> Any:
    """Return plain data whose texts are all shown as they are; infinities and NaN become null."""
    if isinstance(value, str):
        return plain(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {plain(str(key)): plain_data(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain_data(item) for item in value]
    return value


def _columns(lines: list[dict[str, Any]]) -> dict[str, list[float | None]]:
    """Return the finite numbers of some lines by name, in six digits."""
    columns: dict[str, list[float | None]] = {}
    for number, line in enumerate(lines):
        for key in line:
            if (value := finite(line, key)) is not None:
                if key not in columns:
                    columns[key] = [None] * len(lines)
                columns[key][number] = float(f"{value:.6g}")
    return {plain(key): values for key, values in columns.items()}


def _flat(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, dict) and value:
        for key, item in value.items():
            yield from _flat(item, f"{name}.{key}" if name else str(key))
    else:
        yield name, "" if value is None else str(value)


def watch(paths: list[str], cache: Path) -> list[WatchedRun]:
    """Return some runs, each under a name of its own.

    Raises:
        UserError: one of them is none.
    """
    runs = {run.path.resolve(): run for run in map(RunDirectory.open, paths)}
    names = [run.path.resolve().name for run in runs.values()]
    return [
        WatchedRun(plain(name if names.count(name) == 1 else str(run.path)), run, cache)
        for name, run in zip(names, runs.values(), strict=True)
    ]
