"""Measures how much a run slows down its learner, in a thread of the run's process and in its own process.

    python benchmarks/learner_process.py [--repeats 5]

Small Python tasks keep the run's event loop busy for a share of the time, as the handling of an engine's
output does. Meanwhile, the learner repeatedly updates the model that ships with areal on the same batch. No
engine runs, and each side has one core. The learner can therefore lose time only to Python's global
interpreter lock (GIL).
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
from common import BLUE, ORANGE, parser, picture, save

from areal.config import STARTER, Config, parse_config
from areal.models import resolve_model
from areal.runtime.learner import make_learner
from areal.runtime.learner_rank import LearnerRank, LearnerSetup
from areal.runtime.start import start_learner
from areal.trajectory import Batch, Episode, Group, Trajectory
from areal.workers.process import launch

BUSY = (0.0, 0.3, 0.6, 0.9)
"""Shares of the time for which the event loop is busy."""
CYCLE = 0.02
"""Seconds between two bursts of work, as between two steps of an engine."""

Update = Callable[[Batch], Awaitable[dict[str, float]]]


def dummy_batch(groups: int = 16, members: int = 8, prompt: int = 40) -> Batch:
    """Return a batch of random tokens, with responses of 8 to 87 tokens."""
    rng = np.random.default_rng(0)

    def episode() -> Episode:
        length = prompt + int(rng.integers(8, 88))
        mask = np.arange(length) >= prompt
        sampled = Trajectory(
            rng.integers(6, 380, length).astype(np.int32),
            mask,
            np.where(mask, -2.0, 0.0).astype(np.float32),
            mask.astype(np.int32) - 1,
        )
        return Episode([sampled], float(rng.integers(2)))

    return Batch(0, [Group(number, 0, [episode() for _ in range(members)]) for number in range(groups)])


async def work(share: float) -> None:
    """Keep the event loop busy for a share of each cycle."""
    while True:
        end = time.monotonic() + share * CYCLE
        while time.monotonic() < end:
            sum(number * number for number in range(200))
        await asyncio.sleep((1 - share) * CYCLE)


async def seconds(update: Update, batch: Batch, share: float) -> float:
    """Return the seconds of an update while the event loop is busy for a share of the time."""
    working = asyncio.create_task(work(share)) if share else None
    found = [(await update(batch))["time/train"] for _ in range(3)]
    if working is not None:
        working.cancel()
        await asyncio.wait([working])
    return statistics.median(found)


async def measure(config: Config, repeats: int, folder: Path) -> dict[str, dict[str, list[float]]]:
    """Measure the seconds of an update for each configuration and each share, in turn."""
    model, loop, batch = resolve_model(STARTER), asyncio.get_running_loop(), dummy_batch()
    learner, thread = make_learner(config, model, "cpu", 1), ThreadPoolExecutor(1)
    processes = await start_learner(LearnerSetup(config, model, "cpu", (1,), folder), [launch])
    ways: dict[str, Update] = {
        "a thread of the run's process": lambda b: loop.run_in_executor(thread, learner.update, b),
        "a process of its own": partial(processes.call, LearnerRank.update),
    }
    found: dict[str, dict[str, list[float]]] = {way: {str(share): [] for share in BUSY} for way in ways}
    try:
        for update in ways.values():
            await update(batch)
        for _ in range(repeats):
            for share in BUSY:
                for way, update in ways.items():
                    found[way][str(share)].append(await seconds(update, batch, share))
                    print(f"loop busy {share:.0%}, {way}: {found[way][str(share)][-1]:.2f} s", flush=True)
    finally:
        await processes.close()
    return found


def slowdown(runs: dict[str, list[float]]) -> dict[str, float]:
    """Return the median over the rounds of the duration relative to that beside an idle event loop."""
    idle = runs[str(BUSY[0])]
    return {
        share: statistics.median(a / b for a, b in zip(times, idle, strict=True))
        for share, times in runs.items()
    }


def draw(arguments: argparse.Namespace, found: dict[str, dict[str, float]]) -> None:
    title = "Duration of an update beside a busy event loop"
    with picture(arguments.output, "learner_process", title, (7, 3.5)) as figure:
        axes = figure.subplots()
        for color, (way, over) in zip((ORANGE, BLUE), found.items(), strict=True):
            axes.plot(
                [100 * float(share) for share in over], list(over.values()), "o-", color=color, label=way
            )
        axes.set_xlabel("share of the time for which the event loop is busy (%)")
        axes.set_ylabel("duration relative to\nan idle event loop")
        axes.set_ylim(bottom=0)
        axes.legend(title="the learner is", frameon=False)


def main() -> None:
    made = parser(__doc__, "learner_process")
    made.add_argument("--repeats", type=int, default=5, help="number of rounds (default: 5)")
    arguments = made.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        runs = asyncio.run(measure(parse_config({}), arguments.repeats, Path(folder)))
    over = {way: slowdown(times) for way, times in runs.items()}
    save(arguments.output, "learner_process", {"slowdown": over, "seconds": runs})
    draw(arguments, over)
    for way, shares in over.items():
        print(f"{way:30}", "  ".join(f"{float(s):.0%}: {value:.2f}×" for s, value in shares.items()))


if __name__ == "__main__":
    main()
