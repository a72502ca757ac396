"""Finds where a run's generated tokens/s fell, and why.

The usual rate is the median of the last updates that were not far below it. A fall therefore lasts as long as
the rate stays low, until enough updates define a new usual rate.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from math import inf
from statistics import median

from areal.viewer.updates import Span, Update

USUAL = 50
"""Number of updates whose median is usual; the same number of low ones in a row becomes usual."""
FEWEST = 5
"""Minimum number of updates that define a usual rate."""
FELL = 0.8
"""Share of the usual rate below which an update belongs to a fall."""
WINDOW = 10.0
"""Minimum seconds over which tokens/s are measured (areal.runtime.accounting)."""
_APART = 2
"""Maximum distance between two updates of a fall."""
_SMALL = 0.1
"""Share of the first cause's seconds; a cause that took less explains nothing."""
_MORE = 1.5
"""Factor above the usual value that counts as unusual."""
_LEAST = 0.05
"""Seconds, and a tenth of a rollout, below which a difference explains nothing."""
_LATENCIES = {
    "env": "rollouts took up to {} in their environment, usually {}",
    "verifier": "rollouts took up to {} in their verifier, usually {}",
    "env_queue": "rollouts waited up to {} for one of rollout.env_workers, usually {}",
    "model": "rollouts took up to {} in the model, usually {}",
}


def _median(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return median(known) if known else None


@dataclass(frozen=True, slots=True)
class Usual:
    """The usual values.

    Attributes:
        rate: tokens/s.
        latency: seconds of a rollout by part, as far as they are known.
        length: number of tokens of a response; None: unknown.
        work: seconds of the learner's work for an update.
        since, until: the time of these updates.
    """

    rate: float
    latency: dict[str, float]
    length: float | None
    work: float
    since: float
    until: float


@dataclass(frozen=True, slots=True)
class Fall:
    """Consecutive updates with far fewer tokens/s than usual.

    Attributes:
        updates: indices of these updates.
        lowest: index of the lowest one.
        usual: the usual values before.
    """

    updates: tuple[int, ...]
    lowest: int
    usual: Usual


@dataclass(slots=True)
class FallWatch:
    """Detects falls as updates arrive.

    Attributes:
        low: for each update that was far below the usual rate, by index, the usual values at that time.
    """

    low: dict[int, Usual] = field(default_factory=dict)
    _before: deque[Update] = field(default_factory=lambda: deque(maxlen=USUAL))
    _in_a_row: list[Update] = field(default_factory=list)
    _usual: Usual | None = None

    def add(self, place: int, update: Update) -> None:
        """Add the next update with its index."""
        if update.tokens_per_s is None:
            return
        if len(self._before) < FEWEST or update.tokens_per_s >= FELL * _rate(self._before):
            self._before.append(update)
            self._in_a_row.clear()
            self._usual = None
            return
        self._usual = self._usual or _usual_of(self._before)
        self.low[place] = self._usual
        self._in_a_row.append(update)
        if len(self._in_a_row) == USUAL:
            self._before.extend(self._in_a_row)
            self._in_a_row.clear()
            self._usual = None


def _rate(updates: Iterable[Update]) -> float:
    return median(update.tokens_per_s or 0.0 for update in updates)


def _usual_of(updates: Sequence[Update]) -> Usual:
    known = [update.latency for update in updates if update.latency is not None]
    return Usual(
        rate=_rate(updates),
        latency={part: median(each[part] for each in known) for part in (known[0] if known else ())},
        length=_median(update.length for update in updates),
        work=median(update.end - update.taken for update in updates),
        since=updates[0].start,
        until=updates[-1].end,
    )


Cause = tuple[str, float, str]
"""Its kind, the approximate seconds beyond the usual, and its description."""


class Seconds:
    """Spans of one kind, which do not overlap and are in order."""

    def __init__(self, spans: Sequence[Span], kind: str) -> None:
        self._spans = sorted((begin, end) for begin, end, each, _ in spans if each == kind)
        self._ends = [end for _, end in self._spans]

    def within(self, since: float, until: float) -> float:
        """Return the seconds of the spans between two times."""
        found = 0.0
        for begin, end in self._spans[bisect_right(self._ends, since) :]:
            if begin >= until:
                break
            found += min(end, until) - max(begin, since)
        return found


@dataclass(frozen=True, slots=True)
class Lane:
    """The spans of the learner or an engine.

    Attributes:
        lost: spans in which it was lost.
        load: spans in which it was paused for new weights, or waited for engines to load them.
    """

    lost: Seconds
    load: Seconds

    @classmethod
    def of(cls, spans: Sequence[Span]) -> Lane:
        """Return a lane from all its spans."""
        return cls(Seconds(spans, "lost"), Seconds(spans, "load"))


def falls(
    updates: Sequence[Update], low: Mapping[int, Usual], lanes: Mapping[str, Lane]
) -> Iterator[tuple[Fall, list[str]]]:
    """Yield each fall with its unusual causes, the one with the most time first.

    Args:
        updates: updates of the run.
        low: all or some updates that are far below the usual rate (:attr:`FallWatch.low`), in order.
        lanes: lane of the learner, followed by those of the engines.
    """
    places, part = list(low), list[int]()
    kinds = {place: _kind(causes(updates, (place,), low[place], lanes)) for place in places}
    for place, after in pairwise([*places, -1]):
        part.append(place)
        if place < after <= place + _APART and kinds[after] == kinds[place]:
            continue
        lowest = min(part, key=lambda each: (updates[each].tokens_per_s or 0.0) / low[each].rate)
        found = causes(updates, part, low[lowest], lanes)
        yield Fall(tuple(part), lowest, low[lowest]), [words for _, _, words in found]
        part = []


def _kind(found: Sequence[Cause]) -> str:
    kinds = [kind for kind, _, _ in found]
    if kinds and kinds[0] in ("model", "learner") and "machine" in kinds:
        return "machine"
    return kinds[0] if kinds else ""


def causes(
    updates: Sequence[Update], places: Sequence[int], usual: Usual, lanes: Mapping[str, Lane]
) -> list[Cause]:
    """Return the unusual causes while the tokens/s of some updates were measured."""
    first, last = places[0], places[-1]
    since, until = min(updates[first].start, updates[first].end - WINDOW), updates[last].end
    while first > 0 and updates[first - 1].end > since:
        first -= 1
    now = updates[first : last + 1]
    found = [*_lost(lanes, since, until), *_paused(lanes, (since, until), (usual.since, usual.until))]
    found += [*_slower(now, usual), *_longer(now, usual)]
    found.sort(key=lambda cause: -cause[1])
    most = max((seconds for _, seconds, _ in found if seconds < inf), default=0.0)
    found = [cause for cause in found if cause[1] >= _SMALL * most]
    kinds = {kind for kind, _, _ in found}
    if {"model", "learner"} <= kinds and "length" not in kinds:
        words = (
            "model and learner took longer for the same number of tokens: other programs may have used the "
            "machine"
        )
        found.append(("machine", 0.0, words))
    return found


def _lost(lanes: Mapping[str, Lane], since: float, until: float) -> Iterator[Cause]:
    for name, lane in lanes.items():
        if (seconds := lane.lost.within(since, until)) > 0:
            yield f"lost {name}", inf, f"{name} was lost for {duration(seconds)}"


def _paused(
    lanes: Mapping[str, Lane], now: tuple[float, float], before: tuple[float, float]
) -> Iterator[Cause]:
    engines = list(lanes.values())[1:]

    def share(since: float, until: float) -> float:
        return sum(lane.load.within(since, until) for lane in engines) / len(engines) / (until - since)

    if engines and before[1] > before[0]:
        share_now, usually = share(*now), share(*before)
        if share_now > usually + 0.1:
            words = (
                f"engines were paused for new weights for {share_now:.0%} of the time, usually {usually:.0%}"
            )
            yield "paused", (share_now - usually) * (now[1] - now[0]), words


def _slower(now: Sequence[Update], usual: Usual) -> Iterator[Cause]:
    """Yield what took longer than usual: parts of rollouts, and the learner's work."""
    least = max(_LEAST, 0.1 * sum(usual.latency.get(part, 0.0) for part in _LATENCIES))
    more = dict[str, tuple[float, str]]()
    for part, words in _LATENCIES.items():
        seconds = max((u.latency[part] for u in now if u.latency is not None), default=0.0)
        before = usual.latency.get(part)
        if before is not None and seconds >= max(_MORE * before, before + least):
            more[part] = seconds - before, words.format(duration(seconds), duration(before))
    for part, (seconds, words) in more.items():
        if part in ("env", "verifier") and "env_queue" in more:  # calls queue because earlier ones take long
            seconds += more["env_queue"][0]
        yield part, seconds, words
    work = max(update.end - update.taken for update in now)
    if work > max(_MORE * usual.work, usual.work + _LEAST):
        words = f"the learner took up to {duration(work)} for an update, usually {duration(usual.work)}"
        yield "learner", work - usual.work, words


def _longer(now: Sequence[Update], usual: Usual) -> Iterator[Cause]:
    usually = usual.length
    lengths = [update.length for update in now if update.length]
    if not lengths or not usually:
        return
    times, length = max((max(each / usually, usually / each), each) for each in lengths)
    if times > 1.3:
        seconds = usual.latency.get("model", 0.0) * times + _LEAST
        yield "length", seconds, f"responses had {length:,.0f} tokens, usually {usually:,.0f}"


def duration(seconds: float) -> str:
    """Return a duration in a readable form."""
    if seconds >= 120:
        return f"{seconds // 60:.0f} min {seconds % 60:.0f} s"
    return f"{seconds:.3g} s" if seconds >= 1 else f"{seconds * 1000:.0f} ms"
