"""Measures how the rollout side scales with the number of engines, and the capacity of one event loop.

    python benchmarks/scaling.py [--engines 1,2,4,8,16] [--workers 0] [--seconds 10] [--mean 256]

Each engine has a fixed token rate and runs in its own process. It generates ``--sequences`` concurrent
responses with ``--rate`` tokens per second each. All other parts are those of a run: controller,
environments of math-v1, conversations, text, the router, and messages between processes. ``--workers N``
runs the episodes in N processes (``rollout.workers``). For each number of engines, the benchmark prints:

- tokens/s and responses/s, and their ratio to those of the first number of engines;
- ideal: the share of the engines' own rate that arrives;
- loop: the share of a core that the thread of the event loop uses, in the run's process and, on average, in
  the rollout workers, and the same for the whole processes, whose other threads run environments;
- full at: the responses/s at which a loop would use its core fully, if each response costs as much as here.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from common import BLUE, GRAY, ORANGE, parser, picture, save
from paced_engine import Pace, PacedEngine, loop_seconds

from areal import registry
from areal.config import Config, parse_config
from areal.rollout.admission import Admission
from areal.rollout.controller import EpisodeId, RolloutController
from areal.rollout.engine import Sampling
from areal.rollout.engines import Engines
from areal.rollout.tasks import TaskSource
from areal.rollout.worker import EpisodeRunner
from areal.runtime.plan import Plan, plan
from areal.runtime.rollout_process import RolloutProcess, RolloutSetup
from areal.runtime.rollout_workers import RolloutWorkers
from areal.runtime.rollouts import renderer_of, rollout_worker_of
from areal.runtime.worker_engine import WorkerEngine
from areal.trajectory import Episode, Group
from areal.waiting import cancel, wait_all
from areal.workers.process import launch

GROUP, LONGEST = 8, 4096


@dataclass(frozen=True, slots=True)
class Found:
    """The results for one number of engines; shares are shares of a CPU core."""

    engines: int
    tokens_per_s: float
    responses_per_s: float
    ideal: float
    loop: float
    process: float
    worker_loop: float
    worker_process: float

    @property
    def full_at(self) -> float:
        """The responses/s at which the busiest loop has no time left."""
        return self.responses_per_s / max(self.loop, self.worker_loop)


@asynccontextmanager
async def rollouts(checked: Plan, pace: Pace, engines: int, workers: int) -> AsyncIterator[EpisodeRunner]:
    """Start the rollout side of a run on paced engines, and close it at the end."""
    names = [f"engine {number}" for number in range(engines)]
    handles = await wait_all(*(launch(name, {}, PacedEngine, pace, n) for n, name in enumerate(names)))
    made = {handle.name: WorkerEngine(handle) for handle in handles}
    runner: EpisodeRunner
    if workers:
        setup = RolloutSetup(checked.config, checked.model, LONGEST, registry.registered())
        starts = [partial(launch, f"rollout worker {n}", {}, RolloutProcess, setup) for n in range(workers)]
        several = runner = RolloutWorkers(starts)
        await several.start()
        await several.connect(Engines(made), [await each.listen("127.0.0.1") for each in made.values()])
    else:
        renderer = renderer_of(checked.config, checked.model, checked.agent)
        runner = rollout_worker_of(checked.config, renderer, checked.agent, LONGEST, Engines(made))
    try:
        yield runner
    finally:
        await runner.close()


class Meter:
    """Counts finished tokens and responses, and the CPU time of this process and of the rollout workers."""

    def __init__(self, runner: EpisodeRunner) -> None:
        self._runner = runner
        self.tokens = self.responses = 0

    async def times(self) -> list[float]:
        """Return wall, loop and process seconds here, and the mean of the last two in the rollout workers."""
        here = [time.monotonic(), time.thread_time(), time.process_time()]
        if not isinstance(self._runner, RolloutWorkers):
            return [*here, 0.0, 0.0]
        there = await wait_all(*(handle.call(loop_seconds) for handle in self._runner.handles))
        return here + [sum(seconds) / len(there) for seconds in zip(*there, strict=True)]


async def measure(checked: Plan, pace: Pace, engines: int, workers: int, seconds: float) -> Found:
    """Measure one number of engines, from the moment when they are full."""
    async with rollouts(checked, pace, engines, workers) as runner:
        meter, in_flight = Meter(runner), pace.sequences * engines
        sampling = Sampling(LONGEST - 256)

        async def run_episode(task: dict[str, Any], _: EpisodeId) -> Episode:
            episode = await runner.run_episode(task, sampling)
            meter.tokens += episode.sampled
            meter.responses += len(episode.trajectories)
            return episode

        admission = Admission[Group](max(1, in_flight // GROUP), float("inf"))
        tasks = TaskSource(checked.env, 0)
        # One group more than there is room for, so that the engines are full.
        control = RolloutController(admission, run_episode, tasks.task, GROUP, in_flight + 2 * GROUP, 2, 8)
        running = [asyncio.create_task(control.run()), asyncio.create_task(consume(control))]
        try:
            await asyncio.wait(running, timeout=2 * pace.mean / pace.tokens_per_s)
            meter.tokens = meter.responses = 0
            before = await meter.times()
            await asyncio.wait(running, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            wall, *used = (now - then for now, then in zip(await meter.times(), before, strict=True))
        finally:
            await cancel(*running)
        tokens, responses = meter.tokens / wall, meter.responses / wall
    ideal = tokens / (in_flight * pace.tokens_per_s)
    return Found(engines, tokens, responses, ideal, *(each / wall for each in used))


async def consume(control: RolloutController) -> None:
    """Take batch after batch, as a learner that takes no time would."""
    for version in itertools.count():
        await control.next_batch(version)
        control.advance(version + 1)


def main() -> None:
    made = parser(__doc__, "scaling")
    made.add_argument("--engines", default="1,2,4,8,16", help="numbers of engines (default: %(default)s)")
    made.add_argument(
        "--workers", type=int, default=0, help="the setting rollout.workers (default: %(default)s)"
    )
    made.add_argument(
        "--seconds", type=float, default=10, help="seconds per measurement (default: %(default)s)"
    )
    made.add_argument(
        "--sequences", type=int, default=64, help="concurrent sequences per engine (default: %(default)s)"
    )
    made.add_argument("--rate", type=float, default=50, help="tokens/s per sequence (default: %(default)s)")
    made.add_argument("--mean", type=int, default=256, help="mean tokens per response (default: %(default)s)")
    arguments: argparse.Namespace = made.parse_args()
    pace = Pace(arguments.sequences, arguments.rate, arguments.mean)
    config: Config = parse_config({"env": "math-v1", "device": "cpu"})
    checked, rows = plan(config), list[Found]()
    for engines in map(int, arguments.engines.split(",")):
        found = asyncio.run(measure(checked, pace, engines, arguments.workers, arguments.seconds))
        rows.append(found)
        print(
            f"{engines:3} engines: {found.tokens_per_s:8,.0f} tokens/s, "
            f"{found.tokens_per_s / rows[0].tokens_per_s:5.2f} times the first; "
            f"{found.responses_per_s:6,.1f} responses/s; "
            f"{found.ideal:.2f} of the engines' rate; loop {found.loop:.2f} (process {found.process:.2f}), "
            f"workers {found.worker_loop:.2f} ({found.worker_process:.2f}); "
            f"full at {found.full_at:,.0f} responses/s",
            flush=True,
        )
    name = f"scaling_{arguments.workers}_{arguments.mean}"
    draw(arguments.output, name, rows)
    save(arguments.output, name, {"pace": asdict(pace), "rows": [asdict(found) for found in rows]})


def draw(output: Any, name: str, rows: list[Found]) -> None:
    engines = [found.engines for found in rows]
    with picture(output, name, "Tokens/s of the rollout side by the number of engines", (6, 3.5)) as figure:
        axes = figure.subplots()
        times = [found.tokens_per_s / rows[0].tokens_per_s for found in rows]
        axes.plot(engines, [count / engines[0] for count in engines], color=GRAY, label="ideal")
        axes.plot(engines, times, "o-", color=BLUE, label="tokens/s, times the first")
        axes.plot(
            engines, [10 * found.process for found in rows], ".-", color=ORANGE, label="tenths of a core"
        )
        axes.set_xlabel("engines")
        axes.legend()


if __name__ == "__main__":
    main()
