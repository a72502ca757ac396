"""Measures the overhead of durability and monitoring in a run: journal, status and heartbeats.

    python benchmarks/durability.py [--pairs 6] [--seconds 10] [--sequences 64] [--rate 210] [--mean 256]

The benchmark runs one rollout side, as in benchmarks/scaling.py: an engine of a fixed token rate in its own
process, and everything else as in a run. The rollout side works without a pause. The turns alternate between
a run without and a run with the following parts:

- the journal, to which each group is written when it is admitted and when it has finished, and which is
  forced to disk with each batch
- the status that ``areal status`` shows, once a second, and the detection of stalls

The run records batches in both cases, because replays need them. The table shows the tokens/s of both cases,
the CPU seconds of the run's process per million tokens, and the ratios. Each ratio is the median over pairs
of neighboring turns. A separate measurement covers the heartbeat, which each worker sends every second.

If the engine's rate is below the capacity of the event loop, tokens/s do not change at all, and the CPU
seconds are the cost. With ``--rate 100000``, the loop is saturated, and each CPU second costs tokens.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import Any

from common import parser, save
from paced_engine import Pace
from scaling import GROUP, LONGEST, rollouts

from areal.config import parse_config
from areal.rollout.admission import Admission
from areal.rollout.controller import EpisodeId, RolloutController
from areal.rollout.engine import Sampling
from areal.rollout.tasks import TaskSource
from areal.rollout.worker import EpisodeRunner
from areal.runtime.journal import Journal
from areal.runtime.monitor import Monitor
from areal.runtime.plan import Plan, plan
from areal.runtime.recording import Records
from areal.telemetry.progress import Progress
from areal.telemetry.run_directory import RunDirectory, json_line
from areal.trajectory import Episode, Group
from areal.waiting import cancel
from areal.workers.guard import beat


@dataclass(frozen=True, slots=True)
class Turn:
    """The measurements of one turn."""

    tokens_per_s: float
    cpu_s_per_million: float


class Run:
    """A rollout side and a consumer that takes no time, with a journal and a status that can be turned off.

    Args:
        records: the records of a run directory, to which batches and the journal are written.
    """

    def __init__(self, checked: Plan, runner: EpisodeRunner, records: Records, pace: Pace) -> None:
        self.tokens = 0
        self.admission = Admission[Group](pace.sequences // GROUP, float("inf"))
        self._runner, self._records, self._config = runner, records, checked.config
        tasks, in_flight = TaskSource(checked.env, 0), pace.sequences + 2 * GROUP
        self.rollouts = RolloutController(self.admission, self._episode, tasks.task, GROUP, in_flight, 2, 8)
        self._record: Callable[[int, list[Group]], Awaitable[Any]] = self._plainly
        self._version = 0

    async def _episode(self, task: dict[str, Any], _: EpisodeId) -> Episode:
        episode = await self._runner.run_episode(task, Sampling(LONGEST - 256))
        self.tokens += episode.sampled
        return episode

    async def _plainly(self, step: int, groups: list[Group]) -> None:
        lines = (json_line(group.to_json()) for group in groups)
        await asyncio.to_thread(self._records.directory.log_rollouts, step, lines)

    async def consume(self) -> None:
        """Consume batch after batch, like a learner that takes no time, and record each batch."""
        while True:
            groups = await self.rollouts.next_batch(self._version)
            self._version += 1
            await self._record(self._version, groups)
            self.rollouts.advance(self._version)

    @asynccontextmanager
    async def durable(self) -> AsyncIterator[None]:
        """Turn on the journal and the status of the run within the context."""
        monitor = Monitor(self._config, self._records)
        parts = SimpleNamespace(checkpoints=self, rollouts=self.rollouts, version=self._version)
        monitor.watch_over(parts, None)  # type: ignore[arg-type]
        journal = Journal(self._records.directory, self.admission)
        await journal.start()
        self._record = journal.consume
        try:
            async with monitor.watching():
                yield
        finally:
            self.admission.log, self._record = None, self._plainly
            await asyncio.sleep(0.2)  # a batch may be on its way to the journal
            await journal.close()

    async def turn(self, seconds: float) -> Turn:
        """Measure for the given number of seconds."""
        self.tokens, began, used = 0, time.monotonic(), time.process_time()
        await asyncio.sleep(seconds)
        cpu = time.process_time() - used
        return Turn(self.tokens / (time.monotonic() - began), 1e6 * cpu / max(1, self.tokens))


async def measure(checked: Plan, records: Records, pace: Pace, pairs: int, seconds: float) -> list[Turn]:
    """Measure turns without and with the journal and the status, alternately and beginning without."""
    found = []
    async with rollouts(checked, pace, 1, 0) as runner:
        run = Run(checked, runner, records, pace)
        going = [asyncio.create_task(run.rollouts.run()), asyncio.create_task(run.consume())]
        try:
            await asyncio.sleep(max(2.0, 2 * pace.mean / pace.tokens_per_s))
            for _ in range(pairs):
                found.append(await run.turn(seconds))
                async with run.durable():
                    found.append(await run.turn(seconds))
                for task in going:
                    if task.done():
                        task.result()
        finally:
            await cancel(*going)
    return found


def ms_of_beat(times: int = 200) -> float:
    """Return the CPU time of a heartbeat in milliseconds."""
    used = time.process_time()
    for _ in range(times):
        beat(None)
    return 1e3 * (time.process_time() - used) / times


def main() -> None:
    made = parser(__doc__, "durability")
    made.add_argument("--pairs", type=int, default=6, help="pairs of turns (default: %(default)s)")
    made.add_argument("--seconds", type=float, default=10, help="seconds per turn (default: %(default)s)")
    made.add_argument(
        "--sequences",
        type=int,
        default=64,
        help="sequences that the engine generates at once (default: %(default)s)",
    )
    made.add_argument(
        "--rate", type=float, default=210, help="tokens/s of each sequence (default: %(default)s)"
    )
    made.add_argument(
        "--mean", type=int, default=256, help="mean number of tokens of a response (default: %(default)s)"
    )
    arguments: argparse.Namespace = made.parse_args()
    pace = Pace(arguments.sequences, arguments.rate, arguments.mean)
    with (
        tempfile.TemporaryDirectory(dir=Path.cwd()) as folder,
        Progress(1, "", False, sys.stderr) as progress,
    ):
        config = parse_config({"env": "math-v1", "device": "cpu", "output": folder, "name": "run"})
        records = Records(RunDirectory.create(config), progress)
        work = partial(measure, plan(config), records, pace, arguments.pairs, arguments.seconds)
        turns = asyncio.run(work())
    without, with_all = turns[::2], turns[1::2]
    for name, each in (("without", without), ("with", with_all)):
        tokens, cpu = median(t.tokens_per_s for t in each), median(t.cpu_s_per_million for t in each)
        print(f"{name:<8}{tokens:9,.0f} tokens/s {cpu:7.2f} CPU s per million tokens")
    pairs = list(zip(without, with_all, strict=True))
    speed = [b.tokens_per_s / a.tokens_per_s for a, b in pairs]
    cpu = [b.cpu_s_per_million / a.cpu_s_per_million for a, b in pairs]
    for name, ratios in (("tokens/s", speed), ("CPU", cpu)):
        print(f"{name:<9}with / without: {median(ratios):.4f} (from {min(ratios):.4f} to {max(ratios):.4f})")
    print(f"A heartbeat takes {ms_of_beat():.2f} ms of CPU time.")
    results = {"pace": asdict(pace), "without": without, "with": with_all, "beat_ms": ms_of_beat()}
    name = f"durability_{arguments.rate:g}"
    save(arguments.output, name, {**results, "tokens_per_s_ratio": median(speed), "cpu_ratio": median(cpu)})


if __name__ == "__main__":
    main()
