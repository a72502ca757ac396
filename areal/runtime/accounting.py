"""Accounts for the time of each step, and its results."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

import numpy as np

from areal.thoughts import measured
from areal.trajectory import Batch, Episode

_PARTS = ("model", "env", "env_queue", "verifier")
"""Parts of an episode's seconds."""
_WINDOW = 10.0
"""Minimum seconds over which throughput is measured, because no episode may end within a short step."""


class StepAccount:
    """Splits a run's time into steps; each begins at the end of the previous one.

    Args:
        engine_busy: the engine's busy seconds so far.
        tokens: number of tokens generated so far.
        clock: returns the current time in seconds.
    """

    def __init__(self, engine_busy: float, tokens: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._counted = deque[tuple[float, int]]()
        self._begin(engine_busy, tokens)

    def _begin(self, engine_busy: float, tokens: int) -> None:
        self._started = self._clock()
        self._engine_busy = engine_busy
        self._wait, self._taken = 0.0, time.time()
        self._counted.append((self._started, tokens))

    def waited(self) -> None:
        """Record that the batch has arrived; the step so far was waiting for it."""
        self._wait, self._taken = self._clock() - self._started, time.time()

    def close(
        self, batch: Batch, train: float, sync: dict[str, float], engine_busy: float, tokens: int
    ) -> dict[str, float]:
        """End the step and return its metrics other than the learner's own.

        Args:
            train: the learner's busy seconds in the step.
            sync: metrics of the last weight update, if there was one.
        """
        now = self._clock()
        elapsed = now - self._started
        wait, taken = self._wait, self._taken
        generate = engine_busy - self._engine_busy
        while len(self._counted) > 1 and self._counted[1][0] <= now - _WINDOW:
            self._counted.popleft()
        since, before = self._counted[0]
        self._begin(engine_busy, tokens)
        return {
            **_of_batch(batch),
            **_latencies(batch.episodes, taken),
            "time/step": elapsed,
            "time/wait": wait,
            "time/sync": 0.0,
            **sync,
            "time/generate": generate,
            "overlap": (train + generate) / elapsed,
            "throughput/tokens_per_s": (tokens - before) / (now - since),
            "throughput/trajectories_per_s": len(batch.episodes) / elapsed,
        }


def _of_batch(batch: Batch) -> dict[str, float]:
    episodes = batch.episodes
    rewards = np.array([reward for e in episodes for reward in e.returns.values()])
    lengths = np.array([e.sampled for e in episodes])
    parts = sorted({name for e in episodes for name in e.reward_parts})
    thoughts = [thought for t in batch.trajectories for thought in t.thoughts]
    return {
        "reward/mean": float(rewards.mean()),
        "reward/std": float(rewards.std()),
        **{
            f"reward/{part}": float(np.mean([e.reward_parts.get(part, 0.0) for e in episodes]))
            for part in parts
        },
        **_of_members(episodes),
        **_of_players(episodes),
        "staleness/mean": float(np.mean(batch.staleness)),
        "staleness/max": float(max(batch.staleness)),
        "response/length_mean": float(lengths.mean()),
        "response/truncated": float(np.mean([e.finish == "length" for e in episodes])),
        "response/unfinished": float(np.mean([e.unfinished for e in episodes])),
        "response/failed": float(np.mean([bool(e.failure) for e in episodes])),
        "response/turns_mean": float(np.mean([sum(len(t.turns) for t in e.trajectories) for e in episodes])),
        "response/trajectories_mean": len(batch.trajectories) / len(episodes),
        **{f"response/{name}": value for name, value in measured(thoughts).items()},
    }


def _latencies(episodes: list[Episode], taken: float) -> dict[str, float]:
    """Return the episodes' mean seconds by part, and the mean time that they waited for their batch."""
    known = [e for e in episodes if e.seconds]
    if not known:
        return {}
    parts = {name: float(np.mean([e.seconds.get(name, 0.0) for e in known])) for name in _PARTS}
    parts["episode"] = float(np.mean([e.ended - e.started for e in known]))
    # Workers on other hosts have their own clocks.
    parts["buffer"] = float(np.mean([max(0.0, taken - e.ended) for e in known]))
    return {f"latency/{name}": round(seconds, 4) for name, seconds in parts.items()}


def _of_members(episodes: list[Episode]) -> dict[str, float]:
    """Return the share and the mean reward of each environment of a mixture in a batch."""
    metrics = {}
    for name in sorted({e.env for e in episodes} - {""}):
        rewards = [e.reward for e in episodes if e.env == name]
        metrics[f"env/{name}/reward"] = float(np.mean(rewards))
        metrics[f"env/{name}/share"] = len(rewards) / len(episodes)
    return metrics


def _of_players(episodes: list[Episode]) -> dict[str, float]:
    """Return the mean reward of each of several players, over the episodes in which it acted."""
    earned: dict[str, list[float]] = {}
    for episode in episodes:
        for name, reward in episode.returns.items():
            earned.setdefault(name, []).append(reward)
    return {f"player/{name}/reward": float(np.mean(x)) for name, x in sorted(earned.items()) if name}
