"""The timeline of a run: spans of the learner and of each engine, restarts, staleness, latencies.

All data come from ``metrics.jsonl`` and ``events.jsonl``. Missing data are omitted and reported; no time is
invented. A step is recorded when it ends, with its length and the seconds in which the learner waited for its
batch; a load is recorded when the engine samples again, with the length of its pause. Times are seconds since
the epoch.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

from areal.telemetry.scores import finite
from areal.viewer.falls import FallWatch, Lane, falls
from areal.viewer.tail import Line, Tail
from areal.viewer.updates import PARTS, Span, Update

Window = Literal["all"] | float | tuple[int, int]
"""The part to show: everything, the last seconds, or a range of updates."""
LEARNER = "learner"
_KEYS = {
    "step",
    "time",
    "time/step",
    "time/wait",
    "time/train",
    "time/generate",
    "throughput/tokens_per_s",
    "response/length_mean",
    "latency/episode",
    *(f"latency/{part}" for part in PARTS),
}
MOST = 3000
"""Number of last updates in one answer: a few hundred kilobytes, and more than a screen has pixels."""
_WAITS = {
    ("the learner", "a batch"): "wait",
    ("the run", "the learner's update"): "train",
    ("the learner", "the engines to load weights"): "load",
}
"""What a run says it is waiting for, and the corresponding activity of the learner."""
_MARKS = {"lost": "lost", "restarted": "started again", "resumed": "resumed", "left": "left"}
"""Marked events, and their descriptions."""


def tail_of_metrics() -> Tail:
    """Return a reader of ``metrics.jsonl`` that keeps the data of a timeline."""
    return Tail(_KEYS)


def updates_of(rows: Sequence[Line]) -> list[Update]:
    """Return the updates with recorded times, in order."""
    found = []
    for row in rows:
        step, end, length = finite(row, "step"), finite(row, "time"), finite(row, "time/step")
        wait, train = finite(row, "time/wait"), finite(row, "time/train")
        if step is None or end is None or length is None or wait is None or train is None:
            continue
        busy = finite(row, "time/generate")
        share = None if busy is None or length <= 0 else min(1.0, busy / length)
        start = end - length
        rate, tokens = finite(row, "throughput/tokens_per_s"), finite(row, "response/length_mean")
        times = start, start + wait, end, train
        found.append(Update(int(step), *times, share, rate, tokens, _latency(row)))
    return found


def _latency(row: Line) -> dict[str, float] | None:
    whole = finite(row, "latency/episode")
    verifier = finite(row, "latency/verifier") or 0.0  # runs of an older areal do not distinguish it
    parts = {part: finite(row, f"latency/{part}") for part in PARTS} | {"verifier": verifier}
    known = {part: seconds for part, seconds in parts.items() if seconds is not None}
    if whole is None or len(known) < len(PARTS):
        return None
    known["env"] = max(0.0, known["env"] - verifier)
    inside = sum(seconds for part, seconds in known.items() if part != "buffer")
    return {**known, "other": max(0.0, whole - inside)}  # concurrent calls may sum to more


def events_of(lines: Sequence[Line]) -> list[Line]:
    """Return the events that have a time, in the order in which they were written."""
    return [line for line in lines if finite(line, "time") is not None and isinstance(line.get("event"), str)]


def marks_of(events: Sequence[Line], version: int = 0) -> list[Line]:
    """Return where parts were lost, came back or left, and where the run was resumed.

    Each mark has its ``time``, ``what`` happened, the ``part``, a ``text`` with the cause, and the ``step``:
    the number of updates published by then; ``version`` of them were published before these events.
    """
    found = []
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


class LearnerLane:
    """The spans of the learner, built as its updates and events arrive.

    Kinds: ``wait`` for a batch, ``train``, ``load`` (wait until engines have loaded), ``publish``, and
    ``lost``, until it is back. If the times of its updates are unknown, each publication is a moment.
    """

    def __init__(self) -> None:
        self._spans: list[Span] = []
        self._moments: list[Span] = []
        self._published: dict[int, list[Line]] = {}
        self._loads: dict[int, list[float]] = {}
        self._lost: float | None = None

    def note(self, event: Line) -> None:
        """Add an event."""
        kind, now, version = event["event"], event["time"], finite(event, "version")
        if kind == "published":
            self._moments.append((now, now, "publish", int(version or 0)))
            if version is not None:
                self._published.setdefault(int(version), []).append(event)
        elif kind == "loaded" and version is not None:
            self._loads.setdefault(int(version), []).append(now)
        elif kind == "lost" and event.get("part") == LEARNER and self._lost is None:
            self._lost = now
        elif self._lost is not None and kind == "restarted" and event.get("part") == LEARNER:
            self._spans.append((self._lost, now, "lost", 0))
            self._lost = None
        elif kind == "resumed":  # it is unknown how long the run continued before
            self._lost = None

    def add(self, update: Update) -> None:
        """Add an update. Its events are known, because they are written before it is recorded."""
        step, spans = update.step, self._spans
        spans.append((update.start, update.taken, "wait", step))
        # The line of the update is written just after that, with a time in milliseconds.
        made = [
            (e["time"], seconds)
            for e in self._published.get(step, ())
            if update.start <= e["time"] <= update.end + 0.001
            and (seconds := finite(e, "seconds")) is not None
        ]
        if not made:  # the learner was lost before
            spans.append((update.taken, update.taken + update.train, "train", step))
            return
        ready, seconds = made[-1]
        trained = ready - seconds
        spans.append((trained - update.train, trained, "train", step))
        # The memory of the previous version is overwritten once no engine reads it.
        before = [time for time in self._loads.get(step - 1, ()) if trained < time < ready]
        if before:
            spans.append((trained, before[-1], "load", step - 1))
            trained = before[-1]
        spans.append((trained, ready, "publish", step))
        after = [time for time in self._loads.get(step, ()) if ready < time <= update.end]
        if after:  # for example with η=0
            spans.append((ready, after[-1], "load", step))

    def spans(self, end: float, updates: bool) -> list[Span]:
        """Return the spans so far; ``updates``: whether the times of some updates are known."""
        lost = [] if self._lost is None else [(self._lost, end, "lost", 0)]
        return self._spans + lost + ([] if updates else self._moments)


class EngineLanes:
    """The spans of each engine, built as events arrive.

    Kinds: ``up``: it has weights to sample with; ``load``: it was paused for a load (only a moment, if the
    length of the pause was not recorded); ``lost``, until it has loaded again.
    """

    def __init__(self) -> None:
        self._lanes: dict[str, list[Span]] = {}
        self._since: dict[str, tuple[float, str]] = {}
        self._recovering, self._last = False, 0.0

    def _close(self, name: str, at: float) -> None:
        if (state := self._since.pop(name, None)) is not None:
            self._lanes[name].append((state[0], max(state[0], at), state[1], 0))

    def note(self, event: Line, ends: Sequence[float]) -> None:
        """Add an event; ``ends`` are the ends of the updates."""
        kind, now = event["event"], event["time"]
        name = str(event.get("engine", event.get("part", "")))
        if kind == "restarted" and name == LEARNER:
            self._recovering = True
        elif kind == "published" and event.get("of_new_learner"):
            if not self._recovering:  # the run itself begins or resumes, so earlier engines have ended
                seen = bisect_left(ends, now) - 1
                for each in list(self._since):
                    self._close(each, max(self._last, ends[seen] if seen >= 0 else 0.0))
            self._recovering = False
        elif kind == "loaded":
            lane = self._lanes.setdefault(name, [])
            if self._since.get(name, (0.0, ""))[1] != "up":
                self._close(name, now)
                self._since[name] = now, "up"
            else:
                pause = finite(event, "pause") or 0.0
                lane.append((now - pause, now, "load", int(finite(event, "version") or 0)))
        elif kind in ("lost", "left") and name in self._lanes:
            self._close(name, now)
            if kind == "lost":
                self._since[name] = now, "lost"
        self._last = now

    def spans(self, end: float) -> dict[str, list[Span]]:
        """Return the spans of each engine so far, by name."""
        open_ones = {name: [(at, max(at, end), state, 0)] for name, (at, state) in self._since.items()}
        names = sorted(self._lanes, key=lambda name: (len(name), name))
        return {name: self._lanes[name] + open_ones.get(name, []) for name in names}


class Timeline:
    """The timeline of a run so far; new data are added as they arrive, and nothing is computed twice.

    Args:
        rows: lines of ``metrics.jsonl``.
        lines: lines of ``events.jsonl``.
    """

    def __init__(self, rows: Sequence[Line] = (), lines: Sequence[Line] = ()) -> None:
        self.updates: list[Update] = []
        self.marks: list[Line] = []
        self.taken: dict[int, float] = {}
        """When each batch was consumed, as precisely as it is known."""
        self._ends: list[float] = []
        self._falls = FallWatch()
        self._steps: set[int] = set()
        self._learner, self._engines = LearnerLane(), EngineLanes()
        self._version = 0
        self._begin, self._end = float("inf"), 0.0
        self._made = 0
        self._has_events = self._has_latency = self._unpaused = False
        self.add(rows, lines)

    def add(self, rows: Sequence[Line], lines: Sequence[Line]) -> None:
        """Add new lines of both files, including at least the events that were written before the rows."""
        updates, events = updates_of(rows), events_of(lines)
        self._ends += [update.end for update in updates]
        self.marks += marks_of(events, self._version)
        for event in events:
            self._learner.note(event)
            self._engines.note(event, self._ends)
            if event["event"] == "published":
                self._version = int(finite(event, "version") or 0)
                if self._version and self._version not in self._steps:
                    self.taken[self._version] = event["time"]
            self._unpaused |= event["event"] == "loaded" and "pause" not in event
        for update in updates:
            self._learner.add(update)
            self._steps.add(update.step)
            self._falls.add(len(self.updates), update)
            self.updates.append(update)
            self.taken[update.step] = update.taken
        times = [event["time"] for event in events]
        self._begin = min([self._begin, *times, *(update.start for update in updates)])
        self._end = max([self._end, *times, *(update.end for update in updates)])
        self._made += sum(finite(row, "time/step") is not None for row in rows)
        self._has_events |= bool(events)
        self._has_latency |= any("latency/episode" in row for row in rows)

    @property
    def begin(self) -> float:
        """When the run began; 0 if it is unknown."""
        return min(self._begin, self._end)

    def end(self, status: Line | None = None) -> float:
        """Return when the run ended or, for an active run, when its status was written."""
        now = None if status is None else finite(status, "time")
        return self._end if now is None else max(self._end, now)

    def lanes(self, status: Line | None = None) -> dict[str, list[Span]]:
        """Return the spans of the learner and of each engine; ``status`` is that of an active run."""
        end = self.end(status)
        lanes = {LEARNER: self._learner.spans(end, bool(self.updates)), **self._engines.spans(end)}
        now = None if status is None else finite(status, "time")
        if status is not None and now is not None:
            lanes[LEARNER] = [*lanes[LEARNER], *_begun(status, now, self.updates)]
        return lanes

    def missing(self) -> list[str]:
        """Return sentences on the data that the run did not record, for example in older versions."""
        found = []
        if not self._has_events and self._made:
            found.append("There is no events.jsonl: engines, loads of weights and restarts are not shown.")
        if self._made and not self.updates:
            found.append(
                "The times of updates were not recorded. For the learner, only the moments at which it "
                "published weights are shown."
            )
        elif len(self.updates) < self._made:
            found.append(f"The times of {self._made - len(self.updates)} updates were not recorded.")
        if self._unpaused:
            found.append(
                "The length of some pauses for loads was not recorded. Each of them is shown as a moment."
            )
        if self._made and not self._has_latency:
            found.append("How rollouts spent their time was not recorded.")
        return found

    def window(self, wanted: Window, status: Line | None = None) -> tuple[float, float, int]:
        """Return the start and end of the requested part, and the number of updates omitted before it."""
        begin, end = self.begin, self.end(status)
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

    def view(self, wanted: Window, status: Line | None = None) -> Line:
        """Return a part as plain data, with times in seconds from ``zero``.

        Args:
            wanted: the part.
            status: status of an active run; None: it is not running.

        Returns:
            ``start`` and ``end``; ``lanes`` with the spans of each; ``updates`` as columns; ``falls`` of
            tokens/s, with the indices of their updates in the columns; ``marks``; ``taken``: when each update
            took its batch; ``missing`` data; and the number of updates that are ``left_out``.
        """
        start, end, left_out = self.window(wanted, status)
        zero = self.begin

        def at(time: float) -> float:
            return round(time - zero, 3)

        places = [n for n, update in enumerate(self.updates) if self._shows(update, wanted, start, end)]
        inside = [self.updates[n] for n in places]
        columns: Line = {
            "step": [update.step for update in inside],
            "start": [at(update.start) for update in inside],
            "taken": [at(update.taken) for update in inside],
            "end": [at(update.end) for update in inside],
            "generate": [None if u.generate is None else round(u.generate, 3) for u in inside],
            "tokens_per_s": [None if u.tokens_per_s is None else round(u.tokens_per_s, 1) for u in inside],
            "length": [None if u.length is None else round(u.length, 1) for u in inside],
        }
        for part in (*PARTS, "other"):
            columns[part] = [None if u.latency is None else round(u.latency[part], 4) for u in inside]
        lanes = self.lanes(status)
        return {
            "zero": round(zero, 3),
            "start": at(start),
            "end": at(end),
            "lanes": [
                {
                    "name": name,
                    "spans": [
                        (at(b), at(e), kind, n)
                        for b, e, kind, n in sorted(
                            span for span in spans if span[1] >= start and span[0] <= end
                        )
                    ],
                }
                for name, spans in lanes.items()
            ],
            "updates": columns,
            "falls": self._fallen(places, lanes),
            "marks": [
                {**mark, "time": at(mark["time"])} for mark in self.marks if start <= mark["time"] <= end
            ],
            "taken": {step: at(time) for step, time in self.taken.items() if start <= time <= end},
            "missing": self.missing(),
            "left_out": left_out,
        }

    @staticmethod
    def _shows(update: Update, wanted: Window, start: float, end: float) -> bool:
        if isinstance(wanted, tuple) and not wanted[0] <= update.step <= wanted[1]:
            return False  # it is adjacent to one that is requested
        return update.end > start and update.start < end

    def _fallen(self, places: Sequence[int], lanes: Mapping[str, Sequence[Span]]) -> list[Line]:
        """Return the falls of tokens/s among some updates, with indices relative to these updates."""
        column = {place: i for i, place in enumerate(places)}
        low = {place: usual for place, usual in self._falls.low.items() if place in column}
        if not low:
            return []
        known = {name: Lane.of(spans) for name, spans in lanes.items()}
        return [
            {
                "places": [column[place] for place in fall.updates],
                "lowest": column[fall.lowest],
                "usual": round(fall.usual.rate, 1),
                "why": why or ["no other recorded value was unusual"],
            }
            for fall, why in falls(self.updates, low, known)
        ]


def _begun(status: Line, now: float, updates: Sequence[Update]) -> Iterator[Span]:
    """Yield the current activity of the learner of an active run."""
    step = updates[-1].step + 1 if updates else 1
    for wait in status.get("waits", ()):
        kind, seconds = _WAITS.get((wait.get("who"), wait.get("what"))), finite(wait, "seconds")
        if kind is not None and seconds is not None:
            yield now - seconds, now, kind, step
