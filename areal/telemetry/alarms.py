"""Detects problems of a run from its metrics: rules over the lines of ``metrics.jsonl``, and nothing else.

>>> lines = [{"step": n, "reward/mean": 0.0, "reward/std": 0.0, "advantage/zero": 1.0} for n in range(1, 6)]
>>> [alarm.name for alarm in alarms(lines)]
['nothing learned']
"""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from areal.telemetry.scores import finite

Lines = Sequence[dict[str, Any]]

MISMATCH = "log-probability mismatch"
"""The name of the rule that a run checks itself more closely, because it knows its precision."""

PATIENCE = 5
"""Number of consecutive updates that must show a problem."""
_MEMORY = 1000
"""Number of lines that are examined, so that the cost does not grow with the run."""
_LONG = 20
"""Number of consecutive updates that must show a problem that is unlikely rather than wrong."""
_CUT = 0.95
"""Share of truncated responses above which all count as truncated."""
_THINKING = 0.5
"""Share of responses with an unfinished thought above which most count as unfinished."""
_FAILED = 0.5
"""Share of episodes with failed programs above which most count as failed."""
_NO_ENTROPY = 0.005
"""Entropy, in nats, of a coin that lands on one side 1,999 times in 2,000."""
_COLLAPSED = 0.5
"""Share of its best mean to which the reward has fallen."""
_FEW = 32
"""Number of held-out problems; with fewer, the 95% interval can be 0.35 wide or wider."""
_PROBLEMS = re.compile(r"eval/.+/problems")
_WHOLE = ("reward/mean", "reward/std")
_EQUAL = 1e-9
"""Maximum standard deviation of equal rewards, because their mean is rounded."""
_MISMATCH = 0.1
"""Mean difference in nats, usual in 16 bits, between the log-probabilities of the engine and the learner."""
_HELD = 0.1
"""Share of the time in which the learner waits for groups that are near their bound."""
_IDLE = 0.3
"""Share of the time in which the learner waits and no engine generates."""
_MOST = 0.5
"""Share of an episode's time that counts as most of it."""
_WAITS = 0.1
"""Share of the time above which the learner's waiting matters."""


@dataclass(frozen=True, slots=True)
class Alarm:
    """A problem of a run.

    Attributes:
        name: short name of the rule.
        step: the update at which it was detected.
        line: the reason, and what to do.
    """

    name: str
    step: int
    line: str


def alarms(lines: Lines, over: bool = False) -> list[Alarm]:
    """Return the problems at the last of the given lines.

    Args:
        lines: lines of ``metrics.jsonl``, in order; any of them may lack any value.
        over: whether the run is over; problems in all of a few updates then count, too.
    """
    updates = [line for line in lines if finite(line, "reward/mean") is not None]
    least = max(1, min(PATIENCE, len(updates))) if over else PATIENCE
    step = int(finite(lines[-1], "step") or 0) if lines else 0
    recent = updates[-least:] if len(updates) >= least else []
    found = [(name, rule(recent)) for name, rule in _RULES.items()] if recent else []
    if len(updates) >= _LONG:
        found += [(name, rule(updates[-_LONG:])) for name, rule in _SLOW.items()]
    found.append(("reward collapsed", _collapsed(updates)))
    found += [(f"constant {part}", line) for part, line in _constant_parts(updates)]
    found.append(("few held-out problems", _few_problems(lines[-1:])))
    return [Alarm(name, step, line) for name, line in found if line]


class Alarms:
    """Reports each problem of a run once."""

    def __init__(self, lines: Lines = ()) -> None:
        self._lines = list(lines[-_MEMORY:])
        self.seen: dict[str, Alarm] = {}

    def look(self, line: dict[str, Any]) -> list[Alarm]:
        """Add the next line of ``metrics.jsonl`` and return new problems."""
        self._lines = [*self._lines[1 - _MEMORY :], line]
        return self._new(alarms(self._lines))

    def end(self) -> list[Alarm]:
        """Return the unreported problems at the end of the run."""
        return self._new(alarms(self._lines, over=True))

    def _new(self, found: list[Alarm]) -> list[Alarm]:
        new = [alarm for alarm in found if alarm.name not in self.seen]
        self.seen |= {alarm.name: alarm for alarm in new}
        return new

    def note(self, alarm: Alarm) -> None:
        """Record a problem that was detected and reported elsewhere."""
        self.seen.setdefault(alarm.name, alarm)

    @property
    def summary(self) -> str:
        """All reported problems, in brief; empty if there were none."""
        return "; ".join(f"{alarm.name} (update {alarm.step})" for alarm in self.seen.values())


def _nothing_learned(recent: Lines) -> str:
    """All advantages are 0, all rewards are equal, or the gradient is 0."""
    when = _when(recent)
    if _all(recent, "response/failed", lambda x: x == 1):  # another rule reports this
        return ""
    if _all(recent, "reward/std", lambda x: x < _EQUAL):
        if _all(recent, "reward/mean", lambda x: x == 0):
            return (
                f"no response earned a reward in {when}, so nothing was learned; read some responses "
                "(`areal show RUN`): a right answer that is scored 0 is not in the form that the verifier "
                "reads; otherwise use easier problems, a reward with parts, a larger rollout.max_new_tokens, "
                "or a model that sometimes succeeds"
            )
        return (
            f"every response earned the same reward in {when} ({recent[-1]['reward/mean']:.3f}), so nothing "
            "was learned; use harder problems, or a reward that distinguishes between responses"
        )
    if _all(recent, "advantage/zero", lambda x: x == 1):
        return (
            f"in {when}, all responses to each problem earned the same reward, so nothing was learned; "
            "increase rollout.group_size, or use problems that are sometimes solved"
        )
    if _all(recent, "grad_norm", lambda x: x == 0) or _all(recent, "learner/tokens_per_s", lambda x: x == 0):
        return (
            f"the gradient was 0 in {when}, so nothing was learned: every token was clipped or masked; "
            "increase learner.clip or learner.behav_clip, or decrease rollout.max_staleness"
        )
    return ""


def _programs_failed(recent: Lines) -> str:
    if not _all(recent, "response/failed", lambda x: x > _FAILED):
        return ""
    share = statistics.fmean(line["response/failed"] for line in recent)
    return (
        f"the program or agent failed in {share:.0%} of the episodes of {_when(recent)}, and failed episodes "
        "get the reward 0; areal.log has the errors and where they were raised; fix them, unless the "
        "responses of the model cause them"
    )


def _cut_off(recent: Lines) -> str:
    if not _all(recent, "response/truncated", lambda x: x >= _CUT):
        return ""
    length = finite(recent[-1], "response/length_mean")
    mean = "" if length is None else f" (of {length:,.0f} tokens on average)"
    every = _all(recent, "response/truncated", lambda x: x == 1)
    more = ""
    if _all(recent, "response/thought_unended", lambda x: x > _THINKING):
        more = ", or set rollout.thinking_budget, because most were still thinking"
    elif every:
        more = (
            "; if responses never end by themselves, `areal models check` shows the token at which the "
            "model stops"
        )
    share = "all" if every else "nearly all"
    return (
        f"{share} responses were truncated at the length limit in {_when(recent)}{mean}; increase "
        f"rollout.max_new_tokens or rollout.max_model_len, or ask for shorter responses{more}"
    )


def _entropy_gone(recent: Lines) -> str:
    if not _all(recent, "policy/entropy", lambda x: x < _NO_ENTROPY):
        return ""
    if _all(recent, "reward/std", lambda x: x < _EQUAL):  # then there is nothing left to explore
        return ""
    return (
        f"the policy has almost no entropy ({recent[-1]['policy/entropy']:.2g} nats) in {_when(recent)}; "
        "lower learner.learning_rate, or set learner.entropy or learner.kl, and restart from the initial "
        "model or an earlier checkpoint"
    )


def _unfinished(recent: Lines) -> str:
    if not _all(recent, "response/unfinished", lambda x: x == 1):
        return ""
    return (
        f"no environment ended an episode in {_when(recent)}, because the agent stopped first; for episodes "
        "of several turns, use --agent multi-turn, or allow more turns (agent_options.max_turns)"
    )


def _mismatch(recent: Lines) -> str:
    if not _all(recent, "mismatch/logprob", lambda x: x > _MISMATCH):
        return ""
    return (
        "the log-probabilities of the engine and the learner differ (by "
        f"{recent[-1]['mismatch/logprob']:.2g} on average) in {_when(recent)}; set engine.dtype=float32 and "
        "learner.dtype=float32 if memory allows, and do not use rollout.interruption=keep; if the difference "
        "remains, please report it with the model's name"
    )


def _staleness_at_bound(recent: Lines) -> str:
    """Enough groups were finished, but the learner waited for older ones that are near their bound."""
    held = _share(recent, "time/held")
    if held is None or held <= _HELD:
        return ""
    return (
        f"the learner spent {held:.0%} of the time of {_when(recent)} waiting for its oldest groups, which "
        "would have been too stale one update later, while others were finished; increase "
        "rollout.max_staleness, or decrease rollout.max_new_tokens or rollout.env_time_limit, which limit "
        "the slowest episodes"
    )


def _engines_idle(recent: Lines) -> str:
    """The learner waits longer than the engines generate; in the difference, both were idle."""
    wait, busy = _share(recent, "time/wait"), _share(recent, "time/generate")
    if wait is None or busy is None or wait - busy <= _IDLE:
        return ""
    return (
        f"the learner waited for {wait:.0%} of the time of {_when(recent)}, and the engines generated for "
        f"only {busy:.0%}; increase rollout.max_concurrent or rollout.max_staleness to have more episodes "
        "in flight, or find out what the episodes wait for (latency/… in the metrics)"
    )


def _environment_slow(recent: Lines) -> str:
    wait, whole = _share(recent, "time/wait"), _mean(recent, "latency/episode")
    calls, queue = _mean(recent, "latency/env"), _mean(recent, "latency/env_queue")
    if wait is None or whole is None or calls is None or queue is None:
        return ""
    if wait <= _WAITS or calls + queue <= _MOST * whole:
        return ""
    what = "increase rollout.env_workers" if queue > calls else "make reset, step or the verifier faster"
    return (
        f"episodes spent {(calls + queue) / whole:.0%} of their time in the environment in {_when(recent)} "
        f"({calls:.3g} s in calls, {queue:.3g} s waiting for a worker), and the learner waits for them; "
        f"{what}, or increase rollout.max_concurrent, so that other episodes run meanwhile"
    )


def _collapsed(updates: Lines) -> str:
    """The mean reward of a window has fallen far below the best one's; one bad batch does not count."""
    rewards = [line["reward/mean"] for line in updates]
    if len(rewards) < 2 * PATIENCE:
        return ""
    sums = [0.0, *accumulate(rewards)]
    windows = [(after - before) / PATIENCE for before, after in zip(sums, sums[PATIENCE:], strict=False)]
    best, now = max(windows), windows[-1]
    if min(rewards) < 0 or best <= 0.05 or now > _COLLAPSED * best:
        return ""
    return (
        f"the reward has fallen from {best:.3f} to {now:.3f}; lower learner.learning_rate or "
        "rollout.max_staleness, and restart from the initial model or an earlier checkpoint"
    )


def _constant_parts(updates: Lines) -> Iterator[tuple[str, str]]:
    """Yield each part of the reward, if there are several, with a constant mean, and the message for it."""
    recent = updates[-_LONG:] if len(updates) >= _LONG else []
    names = {key for line in recent for key in line if key.startswith("reward/")} - {*_WHOLE}
    if len(names) < 2 or _all(recent, "reward/std", lambda x: x < _EQUAL):
        return
    for name in sorted(names):
        means = {finite(line, name) for line in recent}
        if len(means) == 1 and (mean := means.pop()) is not None:
            part = name.removeprefix("reward/")
            yield (
                part,
                f"the part '{part}' of the reward was {mean:.3f} on average in each of the last {_LONG} "
                "updates, so it teaches nothing; check whether this is intended",
            )


def _few_problems(lines: Lines) -> str:
    found = [finite(line, key) for line in lines for key in line if _PROBLEMS.fullmatch(key)]
    counts = [count for count in found if count is not None]
    if not counts or counts[-1] >= _FEW:
        return ""
    n = int(counts[-1])
    width = 1.96 * math.sqrt(0.25 / n)
    return (
        f"the held-out score is measured on {n} problem{'s' * (n > 1)}, so its error is about "
        f"±{min(width, 0.5):.2f}; add test problems, or increase evaluation.problems"
    )


_RULES: dict[str, Callable[[Lines], str]] = {
    "programs failed": _programs_failed,
    "nothing learned": _nothing_learned,
    "responses truncated": _cut_off,
    "entropy collapsed": _entropy_gone,
    "no episode ended": _unfinished,
    MISMATCH: _mismatch,
}
_SLOW: dict[str, Callable[[Lines], str]] = {
    "staleness at its limit": _staleness_at_bound,
    "idle engines": _engines_idle,
    "slow environment": _environment_slow,
}
"""Rules on lost time: shares over many updates, because single ones say little."""


def _when(recent: Lines) -> str:
    return f"the last {len(recent)} updates" if len(recent) > 1 else "the only update"


def _mean(lines: Lines, key: str) -> float | None:
    values = [finite(line, key) for line in lines]
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if len(known) == len(values) else None


def _share(lines: Lines, key: str) -> float | None:
    """Return the mean share of something in the steps; None: it is not known for all."""
    pairs = [(finite(line, key), finite(line, "time/step")) for line in lines]
    known = [part / step for part, step in pairs if part is not None and step]
    return statistics.fmean(known) if len(known) == len(pairs) else None


def _all(lines: Lines, key: str, condition: Callable[[float], bool]) -> bool:
    values = [finite(line, key) for line in lines]
    return all(value is not None and condition(value) for value in values)
