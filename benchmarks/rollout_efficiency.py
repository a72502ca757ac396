"""Measures the overhead of everything around vLLM: tokens/s of the rollout side over tokens/s of bare vLLM.

    python benchmarks/rollout_efficiency.py [--part engine|controller|all] [--repeats 3] [--seconds 8]
    python benchmarks/rollout_efficiency.py --part engine --device cuda --size 0.5b --sequences 256

The part *engine* keeps as many requests as one batch has in flight on one engine. All ways have the same
response lengths (log-normal). The model is the one that ships with areal, or one of a real shape with random
weights. The ways are:

- bare: vLLM's AsyncLLM alone, with the same prompts as token ids, and without log-probabilities, versions or
  text;
- rollout: controller, environment, agent, conversation, text, log-probabilities and versions;
- both again while the learner continuously updates on its own core (on the same batch, without effect);
- training: the rollout side as in a run. The learner updates on each batch when it arrives, and publishes its
  weights.

The part *controller* measures the controller alone at batch size 64, with trajectories that take no time or
10 ms. It also measures whole episodes on an engine that responds instantly.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import random
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, get_args

import inside_engine
import numpy as np
from common import BLUE, GRAY, ORANGE, parser, picture, save
from models import QWEN2, qwen2

from areal.config import STARTER, Config, parse_config
from areal.rollout.admission import Admission
from areal.rollout.controller import EpisodeId, RolloutController
from areal.rollout.engine import Completion, Interruption, Sampling
from areal.rollout.tasks import TaskSource
from areal.rollout.worker import RolloutWorker
from areal.runtime.build import start_rollout_worker
from areal.runtime.learner_rank import LearnerRank, LearnerSetup
from areal.runtime.plan import Plan, max_concurrent, plan
from areal.runtime.start import start_learner
from areal.trajectory import Batch, Episode, Group, Trajectory
from areal.weights.interface import VLLM_BACKEND
from areal.weights.sender import transfer
from areal.workers.group import WorkerGroup
from areal.workers.process import launch

GROUP = 8


@dataclass(frozen=True, slots=True)
class Work:
    """The work: ``sequences`` at once, with a median of ``median`` tokens and at most five times it."""

    sequences: int
    median: int

    @property
    def longest(self) -> int:
        """The number of tokens of the longest response."""
        return 5 * self.median

    def lengths(self, seed: int) -> Iterator[int]:
        """Yield random response lengths in tokens."""
        rng = random.Random(seed)
        while True:
            yield min(self.longest, max(4, round(self.median * rng.lognormvariate(0, 0.7))))


class WithLengths:
    """An engine whose response lengths are drawn in advance, so that all ways have the same work."""

    def __init__(self, engine: Any, work: Work, seed: int) -> None:
        self._engine = engine
        self._lengths = work.lengths(seed)

    @property
    def version(self) -> int:
        """The version of the engine."""
        return self._engine.version

    async def generate(self, ids: list[int], sampling: Sampling, *, images: object = ()) -> Completion:
        """Generate exactly the drawn number of tokens."""
        return await self._engine.generate(
            ids, replace(sampling, max_tokens=next(self._lengths), ignore_eos=True)
        )


class Ticker:
    """Counts finished work after a warm-up."""

    def __init__(self, warmup: float) -> None:
        self._begin = time.monotonic() + warmup
        self.count = 0

    def add(self, count: int) -> None:
        """Add finished work."""
        if time.monotonic() >= self._begin:
            self.count += count

    def rate(self) -> float:
        """Return the finished work per second."""
        return self.count / (time.monotonic() - self._begin)


async def bare(
    worker: RolloutWorker, work: Work, prompts: list[list[int]], seed: int, seconds: float
) -> float:
    """Return the tokens/s of vLLM alone, in the engine's own process."""
    several: Any = worker.engine
    [engine] = several.engines.values()
    lengths = list(itertools.islice(work.lengths(seed), 100_000))
    repeated = [prompt for prompt in prompts for _ in range(GROUP)]
    return await engine.worker.call(inside_engine.bare, repeated, lengths, work.sequences, seconds)


async def rollout(
    worker: RolloutWorker,
    work: Work,
    checked: Plan,
    seed: int,
    seconds: float,
    training: Training | None = None,
) -> float:
    """Return the tokens/s of the rollout side, whose batches are discarded or, if asked, trained on."""
    ticker = Ticker(seconds / 4)
    control = controller(
        replace(worker, engine=WithLengths(worker.engine, work, seed)),
        work,
        TaskSource(checked.env, seed),
        lambda episode: ticker.add(episode.sampled),
    )
    taking = consume(control) if training is None else training.learn(control, worker.engine)
    return await for_a_while(seconds, ticker, control.run(), taking)


def controller(
    worker: RolloutWorker, work: Work, tasks: TaskSource, finished: Callable[[Episode], None]
) -> RolloutController:
    sampling = Sampling(work.longest)

    async def run_episode(task: dict[str, Any], episode_id: EpisodeId) -> Episode:
        episode = await worker.run_episode(task, sampling)
        finished(episode)
        return episode

    admission: Admission[Group] = Admission(work.sequences // GROUP, float("inf"))
    return RolloutController(admission, run_episode, tasks.task, GROUP, work.sequences, 2, 8)


async def consume(control: RolloutController) -> None:
    """Take batch after batch, as a learner that takes no time would."""
    for version in itertools.count():
        await control.next_batch(version)
        control.advance(version + 1)


async def for_a_while(seconds: float, ticker: Ticker, *work: Coroutine[Any, Any, Any]) -> float:
    """Run endless work for a time, and return the tokens/s after the warm-up."""
    running = [asyncio.create_task(w) for w in work]
    done, _ = await asyncio.wait(running, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    rate = ticker.rate()
    for task in running:
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)
    for task in done:
        task.result()
        raise RuntimeError("the work ended, although it must be endless")
    return rate


class Training:
    """The learner of a run, which updates on one recorded batch or on the batches that arrive."""

    def __init__(self, checked: Plan, batch: Batch, learner: WorkerGroup[LearnerRank]) -> None:
        self._checked, self._batch, self._learner = checked, batch, learner
        self.updates, self.seconds = 0, 0.0

    async def prepare(self, engine: Any) -> None:
        """Connect the learner to the engine."""
        backends = self._checked.placement.backends
        await engine.connect(await self._learner.call(LearnerRank.open_sender, backends))

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Update repeatedly on the recorded batch while the context is active."""
        stop = asyncio.Event()
        task = asyncio.create_task(self._run(stop))
        started = time.monotonic()
        try:
            yield
        finally:
            stop.set()
            await task
            self.seconds += time.monotonic() - started

    async def _run(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            await self._learner.call(LearnerRank.update, self._batch)
            self.updates += 1

    async def learn(self, control: RolloutController, engine: Any) -> None:
        """Update on batch after batch, and send each version to the engine during the next update."""
        working: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        working.set_result(None)
        loading = working
        try:
            for version in itertools.count():
                groups = with_noise(await control.next_batch(version))
                update = self._learner.call(LearnerRank.update, Batch(version, groups))
                working = asyncio.ensure_future(update)
                await asyncio.shield(working)
                control.advance(version + 1)
                await asyncio.shield(loading)
                working = asyncio.ensure_future(self._learner.call(LearnerRank.publish))
                await asyncio.shield(working)
                loading = asyncio.ensure_future(
                    transfer(engine.load(engine.version + 1), self._learner.call(LearnerRank.send))
                )
        finally:
            await asyncio.wait([working, loading])


async def measure_engine(
    config: Config, work: Work, repeats: int, seconds: float
) -> tuple[dict[str, list[float]], float]:
    """Measure the five ways in turn, and return the tokens/s of each way and the updates/s of the learner."""
    checked = plan(config)
    worker = await start_rollout_worker(checked, VLLM_BACKEND)
    found: dict[str, list[float]] = {}

    async def way(name: str, rate: Awaitable[float]) -> None:
        found.setdefault(name, []).append(await rate)
        print(f"{name:18} {found[name][-1]:7.0f} tokens/s", flush=True)

    ranks = checked.placement.ranks
    setup = LearnerSetup(config, checked.model, checked.device, (ranks[0].threads,), config.output)
    learner = await start_learner(setup, [launch])
    try:
        batch = await record(worker, work, checked)
        prompts = [t.tokens[: t.turns[0]].tolist() for t in batch.trajectories[::GROUP]]
        training = Training(checked, batch, learner)
        await training.prepare(worker.engine)
        for seed in range(repeats):
            await way("bare", bare(worker, work, prompts, seed, seconds))
            await way("rollout", rollout(worker, work, checked, seed, seconds))
            async with training.running():
                await way("bare + learner", bare(worker, work, prompts, seed, seconds))
                await way("rollout + learner", rollout(worker, work, checked, seed, seconds))
            await way("training", rollout(worker, work, checked, seed, seconds, training))
    finally:
        await worker.close()
        await learner.close()
    return found, training.updates / training.seconds


async def record(worker: RolloutWorker, work: Work, checked: Plan) -> Batch:
    """Generate one batch and return it; this also serves as a warm-up."""
    control = controller(
        replace(worker, engine=WithLengths(worker.engine, work, 0)),
        work,
        TaskSource(checked.env, 0),
        lambda _: None,
    )
    running = asyncio.create_task(control.run())
    groups = await control.next_batch(0)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    return Batch(0, with_noise(groups))


def with_noise(groups: list[Group]) -> list[Group]:
    """Set random rewards, so that the learner has work for every group, and return the groups."""
    for group in groups:
        rewards = np.random.default_rng(group.id).integers(2, size=len(group.episodes))
        for episode, reward in zip(group.episodes, rewards, strict=True):
            episode.reward = float(reward)
    return groups


class Instant:
    """An engine that instantly returns the same response to every request."""

    version = 0

    async def generate(self, ids: list[int], sampling: Sampling, *, images: object = ()) -> Completion:
        """Return the response."""
        return Completion([20] * 40, [-0.5] * 40, [0] * 40, "eos")


async def measure_controller(config: Config, repeats: int, seconds: float) -> dict[str, list[float]]:
    """Return trajectories/s of the controller alone, at batch size 64, and of whole scripted episodes."""
    from areal.models import load_tokenizer
    from areal.rollout.rendering import Renderer
    from areal.runtime.rollouts import environments

    batch = 64
    checked = plan(config)
    renderer = Renderer(load_tokenizer(checked.model), (1,))
    instant: Any = Instant()
    worker = RolloutWorker(instant, renderer, checked.agent, environments(config), 512)
    mask = np.array([False, True])
    made = Trajectory(np.zeros(2, np.int32), mask, np.zeros(2, np.float32), mask.astype(np.int32) - 1)
    blank = Episode([made], 1.0)

    async def nothing(task: dict[str, Any], episode_id: EpisodeId) -> Episode:
        return blank

    async def ten_ms(task: dict[str, Any], episode_id: EpisodeId) -> Episode:
        await asyncio.sleep(0.01)
        return blank

    async def episode(task: dict[str, Any], episode_id: EpisodeId) -> Episode:
        return await worker.run_episode(task, Sampling(64))

    ways = {
        "no-op, 64 at once": (nothing, 64),
        "10 ms, 64 at once": (ten_ms, 64),
        "10 ms, 256 at once": (ten_ms, 256),
        "whole episodes, 64 at once": (episode, 64),
    }
    found: dict[str, list[float]] = {name: [] for name in ways}
    for seed in range(repeats):
        for name, (run_episode, concurrent) in ways.items():
            admission: Admission[Group] = Admission(batch // GROUP, 4)
            tasks = TaskSource(checked.env, seed)
            control = RolloutController(admission, run_episode, tasks.task, GROUP, concurrent, 2, 8)
            ticker = Ticker(seconds / 4)

            async def counted(control: RolloutController = control, ticker: Ticker = ticker) -> None:
                for version in itertools.count():
                    ticker.add(sum(len(g.episodes) for g in await control.next_batch(version)))
                    control.advance(version + 1)

            found[name].append(await for_a_while(seconds, ticker, control.run(), counted()))
    await worker.pool.close()
    return found


def summary(runs: dict[str, list[float]]) -> dict[str, Any]:
    return {name: {"mean": statistics.fmean(rates), "runs": rates} for name, rates in runs.items()}


def ratios(runs: dict[str, list[float]]) -> dict[str, Any]:
    """Return the ratio of each way to its baseline, per round."""
    pairs = {
        "rollout / bare": ("rollout", "bare"),
        "rollout / bare, learner running": ("rollout + learner", "bare + learner"),
        "training / bare, learner running": ("training", "bare + learner"),
        "training / bare": ("training", "bare"),
    }
    each = {
        name: [a / b for a, b in zip(runs[way], runs[base], strict=True)]
        for name, (way, base) in pairs.items()
    }
    return summary(each)


def draw(arguments: argparse.Namespace, runs: dict[str, list[float]]) -> None:
    colors = [GRAY, BLUE, GRAY, BLUE, ORANGE]
    with picture(arguments.output, "rollout_efficiency", "The rollout side against bare vLLM") as figure:
        axes = figure.subplots()
        for place, rates in enumerate(runs.values()):
            axes.bar(place, statistics.fmean(rates), color=colors[place], alpha=0.8)
            axes.plot([place] * len(rates), rates, "k.", markersize=5)
            base = runs["bare" if place < 2 else "bare + learner"]
            share = statistics.fmean(a / b for a, b in zip(rates, base, strict=True))
            middle = (place, statistics.fmean(rates) / 2)
            axes.annotate(f"{share:.2f}×", middle, ha="center", color="white", weight="bold")
        names = [name.replace(" + ", "\n+ ").replace("bare", "bare vLLM") for name in runs]
        axes.set_xticks(range(len(runs)), [name.replace("rollout", "rollout side") for name in names])
        axes.set_ylabel("tokens/s (×: relative to the gray bar on the left)")


def main() -> None:
    made = parser(__doc__, "rollout_efficiency")
    made.add_argument("--part", choices=["engine", "controller", "all"], default="all")
    made.add_argument("--repeats", type=int, default=3, help="number of rounds")
    made.add_argument(
        "--seconds", type=float, default=8, help="seconds per measurement, of which a quarter is warm-up"
    )
    made.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    made.add_argument(
        "--size",
        choices=list(QWEN2),
        help="shape of a model with random weights (default: the starter model)",
    )
    made.add_argument(
        "--sequences", type=int, default=128, help="sequences in flight, and per batch (default: 128)"
    )
    made.add_argument(
        "--interruption",
        choices=get_args(Interruption),
        default="recompute",
        help="the setting rollout.interruption (default: recompute)",
    )
    made.add_argument("--median", type=int, default=40, help="median tokens per response (default: 40)")
    arguments = made.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        measure(arguments, qwen2(Path(folder), arguments.size) if arguments.size else STARTER)


def measure(arguments: argparse.Namespace, model: str) -> None:
    work = Work(arguments.sequences, arguments.median)
    rollouts = {
        "batch_size": work.sequences,
        "group_size": GROUP,
        "max_model_len": work.longest + 312,
        "interruption": arguments.interruption,
    }
    config = parse_config(
        {
            "rollout": rollouts,
            "model": model,
            "device": arguments.device,
            "engine": {"count": 1},
            "learner": {"learning_rate": 1e-12},
        }
    )
    assert max_concurrent(config) == work.sequences
    results: dict[str, Any] = {
        **asdict(work),
        "group_size": GROUP,
        "seconds": arguments.seconds,
        "interruption": arguments.interruption,
    }
    if arguments.part != "controller":
        runs, updates = asyncio.run(measure_engine(config, work, arguments.repeats, arguments.seconds))
        results |= {"tokens_per_s": summary(runs), "ratios": ratios(runs), "learner_updates_per_s": updates}
        draw(arguments, runs)
    if arguments.part != "engine":
        alone = asyncio.run(measure_controller(config, arguments.repeats, arguments.seconds / 2))
        results["trajectories_per_s"] = summary(alone)
    save(arguments.output, "rollout_efficiency", results)
    for part in ("ratios", "trajectories_per_s"):
        for name, value in results.get(part, {}).items():
            print(f"{name:34} {value['mean']:10.2f}")


if __name__ == "__main__":
    main()
