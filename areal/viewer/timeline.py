"""Who did what when in a run: spans of the learner and of each engine, restarts, staleness, latencies.

Everything here is from ``metrics.jsonl`` and ``events.jsonl``. What was not recorded is left out, and said;
no time is made up. A step is recorded when it ends, with its length and the seconds of it in which the
learner waited for its batch; a load when the engine samples again, with the length of its pause. Times are
seconds since the epoch.
"""

from __future__ import annotations

import os
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from areal.telemetry.run_directory import parsed
from areal.telemetry.scores import finite

Line = dict[str, Any]
Window = Literal["all"] | float | tuple[int, int]
"""What to show: all, the last seconds, or a range of updates."""
Span = tuple[float, float, str, int]
"""When it began and ended, what it was, and the update or the version that it belongs to."""

LEARNER = "learner"
PARTS = ("model", "env", "env_queue", "buffer")
"""Of the latency of a rollout, as metrics name them."""
_KEYS = {
    "step",
    "time",
    "time/step",
    "time/wait",
    "time/train",
    "time/generate",
    "latency/episode",
    *(f"latency/{part}" for part in PARTS),
}
MOST = 3000
"""Updates of one answer, the last ones: some hundred kilobytes, and more than a screen has pixels."""
_WAITS = {
    ("the learner", "a batch"): "wait",
    ("the run", "the learner's update"): "train",
    ("the learner", "the engines to load weights"): "load",
}
"""What a run says that it waits for now, and what the learner does meanwhile."""
_MARKS = {"lost": "lost", "restarted": "started again", "resumed": "resumed", "left": "left"}
"""Events that are marked, and what is said of them."""


@dataclass
class Tail:
    """The lines of a file of JSON lines, of which only new ones are read each time.

    Attributes:
        keys: that are kept of each line; None: all.
        lines: that were read so far.
    """

    keys: set[str] | None = None
    lines: list[Line] = field(default_factory=list)
    _inode: int = -1
    _read: int = 0

    def read(self, path: Path) -> bool:
        """Read what is new; return whether there was anything. A file that was replaced is read again."""
        try:
            with path.open("rb") as file:
                stat = os.fstat(file.fileno())
                changed = stat.st_ino != self._inode or stat.st_size < self._read
                if changed:
                    self.lines, self._inode, self._read = [], stat.st_ino, 0
                file.seek(self._read)
                data = file.read()
        except FileNotFoundError:
            changed, self.lines, self._inode, self._read = bool(self.lines), [], -1, 0
            return changed
        end = data.rfind(b"\n") + 1
        self._read += end
        for raw in data[:end].splitlines():
            if (line := parsed(raw)) is not None:
                self.lines.append(
                    line if self.keys is None else {k: line[k] for k in self.keys & line.keys()}
                )
        return changed or end > 0


def tail_of_metrics() -> Tail:
    """Return a reader of ``metrics.jsonl`` that keeps what a timeline needs."""
    return Tail(_KEYS)


@dataclass(frozen=True, slots=True)
class Update:
    """An update whose times are known.

    Attributes:
        step: its number.
        start: when the one before it ended.
        taken: when its batch was there.
        end: when it was recorded.
        train: seconds of the learner's work.
        generate: share of the step in which engines generated, on average; None: unknown.
        latency: seconds by parts of :data:`PARTS`, and those of the ``other`` parts; None: unknown.
    """

    step: int
    start: float
    taken: float
    end: float
    train: float
    generate: float | None
    latency: dict[str, float] | None


def updates_of(rows: Sequence[Line]) -> list[Update]:
    """Return the updates whose times are recorded, in order."""
    found = []
    for row in rows:
        step, end, length = finite(row, "step"), finite(row, "time"), finite(row, "time/step")
        wait, train = finite(row, "time/wait"), finite(row, "time/train")
        if step is None or end is None or length is None or wait is None or train is None:
            continue
        busy = finite(row, "time/generate")
        share = None if busy is None or length <= 0 else min(1.0, busy / length)
        start = end - length
        found.append(Update(int(step), start, start + wait, end, train, share, _latency(row)))
    return found


def _latency(row: Line) -> dict[str, float] | None:
    whole = finite(row, "latency/episode")
    parts = {part: finite(row, f"latency/{part}") for part in PARTS}
    known = {part: seconds for part, seconds in parts.items() if seconds is not None}
    if whole is None or len(known) < len(PARTS):
        return None
    inside = sum(seconds for part, seconds in known.items() if part != "buffer")
    return {**known, "other": max(0.0, whole - inside)}  # calls at once may sum to more


def events_of(lines: Sequence[Line]) -> list[Line]:
    """Return the events that have a time, in the order in which they were written."""
    return [line for line in lines if finite(line, "time") is not None and isinstance(line.get("event"), str)]


def marks_of(events: Sequence[Line]) -> list[Line]:
    """Return where parts were lost, came back or left, and where the run was resumed.

    Each has its ``time``, ``what`` happened, the ``part``, a ``text`` with the cause, and the ``step``: how
    many updates had been published by then.
    """
    found, version = [], 0
    for event in events:
        if event["event"] == "published":
            version = int(finite(event, "version") or 0)
        if (what := _MARKS.get(event["event"])) is None:
            continue
        part = str(event.get("part", "the run"))
        seconds = finite(event, "seconds")
        text = str(event.get("cause", "")) or ("" if seconds is None else f"after {seconds:.3g} s")
        step = finite(event, "version")
        found.append(
            {
                "time": event["time"],
                "step": version if step is None else int(step),
                "what": what,
                "part": part,
                "text": text,
            }
        )
    return found


def learner_spans(updates: Sequence[Update], events: Sequence[Line], end: float) -> list[Span]:
    """Return what the learner did.

    Kinds: ``wait`` for a batch, ``train``, ``load``: wait until engines have loaded, ``publish``, and
    ``lost``, until it was back. Without the times of its updates, each publication is a moment.
    """
    published, loads = _by_version(events, "published"), _by_version(events, "loaded")
    spans: list[Span] = []
    for update in updates:
        spans.append((update.start, update.taken, "wait", update.step))
        # The line of the update is written just after that, with a time in milliseconds.
        made = [
            (e["time"], seconds)
            for e in published.get(update.step, ())
            if update.start <= e["time"] <= update.end + 0.001
            and (seconds := finite(e, "seconds")) is not None
        ]
        if not made:  # the learner was lost before
            spans.append((update.taken, update.taken + update.train, "train", update.step))
            continue
        ready, seconds = made[-1]
        trained = ready - seconds
        spans.append((trained - update.train, trained, "train", update.step))
        # The memory of the version before is written anew, once no engine reads it.
        before = [e["time"] for e in loads.get(update.step - 1, ()) if trained < e["time"] < ready]
        if before:
            spans.append((trained, before[-1], "load", update.step - 1))
            trained = before[-1]
        spans.append((trained, ready, "publish", update.step))
        after = [e["time"] for e in loads.get(update.step, ()) if ready < e["time"] <= update.end]
        if after:  # as at η=0
            spans.append((ready, after[-1], "load", update.step))
    if not updates:
        moments = (event for event in events if event["event"] == "published")
        spans += [(e["time"], e["time"], "publish", int(finite(e, "version") or 0)) for e in moments]
    spans += [(begin, back, "lost", 0) for begin, back in _outages(events, LEARNER, end)]
    return sorted(spans)


def _by_version(events: Sequence[Line], kind: str) -> dict[int, list[Line]]:
    """Return the events of a kind by the version that they are about."""
    found: dict[int, list[Line]] = {}
    for event in events:
        if event["event"] == kind and (version := finite(event, "version")) is not None:
            found.setdefault(int(version), []).append(event)
    return found


def _outages(events: Sequence[Line], part: str, end: float) -> Iterator[tuple[float, float]]:
    lost: float | None = None
    for event in events:
        if event["event"] == "lost" and event.get("part") == part and lost is None:
            lost = event["time"]
        back = event["event"] == "restarted" and event.get("part") == part
        if lost is not None and (back or event["event"] == "resumed"):
            if back:
                yield lost, event["time"]
            lost = None
    if lost is not None:
        yield lost, end


def engine_spans(updates: Sequence[Update], events: Sequence[Line], end: float) -> dict[str, list[Span]]:
    """Return what each engine did, by its name.

    Kinds: ``up``: it has weights to sample with; ``load``: it was paused for a load, of which without a
    recorded pause only the moment is known; ``lost``, until it has loaded again.
    """
    ends = [update.end for update in updates]
    lanes: dict[str, list[Span]] = {}
    since: dict[str, tuple[float, str]] = {}
    recovering, last = False, 0.0

    def close(name: str, at: float) -> None:
        if (state := since.pop(name, None)) is not None:
            lanes[name].append((state[0], max(state[0], at), state[1], 0))

    for event in events:
        kind, now = event["event"], event["time"]
        name = str(event.get("engine", event.get("part", "")))
        if kind == "restarted" and name == LEARNER:
            recovering = True
        elif kind == "published" and event.get("of_new_learner"):
            if not recovering:  # the run itself begins, or goes on: what was up had ended with it
                seen = bisect_left(ends, now) - 1
                for each in list(since):
                    close(each, max(last, ends[seen] if seen >= 0 else 0.0))
            recovering = False
        elif kind == "loaded":
            lanes.setdefault(name, [])
            if since.get(name, (0.0, ""))[1] != "up":
                close(name, now)
                since[name] = now, "up"
            else:
                pause = finite(event, "pause") or 0.0
                lanes[name].append((now - pause, now, "load", int(finite(event, "version") or 0)))
        elif kind in ("lost", "left") and name in lanes:
            close(name, now)
            if kind == "lost":
                since[name] = now, "lost"
        last = now
    for name in list(since):
        close(name, end)
    return {name: sorted(lanes[name]) for name in sorted(lanes, key=lambda name: (len(name), name))}


def missing(rows: Sequence[Line], events: Sequence[Line], updates: Sequence[Update]) -> list[str]:
    """Return sentences that say what a run did not record, as runs of older versions."""
    made = [row for row in rows if finite(row, "time/step") is not None]
    found = []
    if not events and made:
        found.append("There is no events.jsonl: engines, loads of weights and restarts are not shown.")
    if made and not updates:
        found.append(
            "The times of updates were not recorded: of the learner only the moments at which it published "
            "weights are shown."
        )
    elif len(updates) < len(made):
        found.append(f"The times of {len(made) - len(updates)} updates were not recorded.")
    if any(event["event"] == "loaded" and "pause" not in event for event in events):
        found.append("How long engines paused for loads was not recorded of all: each of these is a moment.")
    if made and not any("latency/episode" in row for row in made):
        found.append("Where the time of rollouts went was not recorded.")
    return found


class Timeline:
    """What a run did so far.

    Args:
        rows: of ``metrics.jsonl``.
        lines: of ``events.jsonl``.
        status: of a run that goes on; None: it does not.
    """

    def __init__(self, rows: Sequence[Line], lines: Sequence[Line], status: Line | None = None) -> None:
        events, updates = events_of(lines), updates_of(rows)
        now = None if status is None else finite(status, "time")
        known = [event["time"] for event in events] + [update.end for update in updates]
        self.begin = min([*known, *(update.start for update in updates[:1])], default=0.0)
        self.end = max([*known, *(() if now is None else (now,))], default=0.0)
        self.lanes = {
            LEARNER: learner_spans(updates, events, self.end),
            **engine_spans(updates, events, self.end),
        }
        if status is not None and now is not None:
            self.lanes[LEARNER] += _begun(status, now, updates)
        self.updates, self.marks = updates, marks_of(events)
        self.missing = missing(rows, events, updates)
        # When each batch was consumed, as closely as it is known.
        self.taken = {
            step: made[-1]["time"] for step, made in _by_version(events, "published").items() if step
        }
        self.taken |= {update.step: update.taken for update in updates}

    def window(self, wanted: Window) -> tuple[float, float, int]:
        """Return when what is wanted begins and ends, and how many updates are left out before that."""
        begin, end = self.begin, self.end
        if isinstance(wanted, tuple):
            inside = [update for update in self.updates if wanted[0] <= update.step <= wanted[1]]
            moments = [time for step, time in self.taken.items() if wanted[0] <= step <= wanted[1]]
            begin = min([*moments, *(update.start for update in inside)], default=end)
            end = max([*moments, *(update.end for update in inside)], default=end)
        elif wanted != "all":
            begin = max(begin, end - wanted)
        inside = [update for update in self.updates if update.end > begin and update.start < end]
        if len(inside) <= MOST:
            return begin, end, 0
        return inside[-MOST].start, end, len(inside) - MOST

    def view(self, wanted: Window) -> Line:
        """Return a part as plain data, with times in seconds from ``zero``.

        Returns:
            ``start`` and ``end``; ``lanes`` with the spans of each; ``updates`` as columns; ``marks``;
            ``taken``: when each update took its batch; what is ``missing``; how many are ``left_out``.
        """
        start, end, left_out = self.window(wanted)
        zero = self.begin

        def at(time: float) -> float:
            return round(time - zero, 3)

        inside = [update for update in self.updates if update.end > start and update.start < end]
        columns: Line = {
            "step": [update.step for update in inside],
            "start": [at(update.start) for update in inside],
            "taken": [at(update.taken) for update in inside],
            "end": [at(update.end) for update in inside],
            "generate": [None if u.generate is None else round(u.generate, 3) for u in inside],
        }
        for part in (*PARTS, "other"):
            columns[part] = [None if u.latency is None else round(u.latency[part], 4) for u in inside]
        return {
            "zero": round(zero, 3),
            "start": at(start),
            "end": at(end),
            "lanes": [
                {
                    "name": name,
                    "spans": [(at(b), at(e), kind, n) for b, e, kind, n in spans if e >= start and b <= end],
                }
                for name, spans in self.lanes.items()
            ],
            "updates": columns,
            "marks": [
                {**mark, "time": at(mark["time"])} for mark in self.marks if start <= mark["time"] <= end
            ],
            "taken": {step: at(time) for step, time in self.taken.items() if start <= time <= end},
            "missing": self.missing,
            "left_out": left_out,
        }


def _begun(status: Line, now: float, updates: Sequence[Update]) -> Iterator[Span]:
    """Yield what the learner of a run that goes on does now."""
    step = updates[-1].step + 1 if updates else 1
    for wait in status.get("waits", ()):
        kind, seconds = _WAITS.get((wait.get("who"), wait.get("what"))), finite(wait, "seconds")
        if kind is not None and seconds is not None:
            yield now - seconds, now, kind, step
