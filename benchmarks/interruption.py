"""Measures the cost of new weights for generation in flight, with the modes recompute, keep and drain.

    python benchmarks/interruption.py [--repeats 3] [--seconds 9] [--cadence 3] [--concurrency 32]
    python benchmarks/interruption.py --device cuda --size 0.5b --concurrency 256 --median 200

Requests with long-tail lengths (log-normal, capped at seven and a half times the median) are always in
flight. The learner publishes new weights at a fixed cadence. The benchmark skips new weights that arrive
while the engine still drains for the previous ones. All three modes run on one engine, in turn, with the same
lengths. The benchmark reports:

- throughput: the tokens sampled between two changes of weights, divided by the time between these changes.
- weight age of a token: the version published when its sequence was finished, minus the version that sampled
  the token.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import random
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
from common import BLUE, GREEN, ORANGE, parser, picture, save
from inside_engine import set_interruption
from models import QWEN2, qwen2

from areal.config import STARTER, parse_config
from areal.learner.model import load_model
from areal.rollout.engine import Completion, Interruption, Sampling
from areal.runtime.build import start_rollout_worker
from areal.runtime.plan import engine_dtype, plan
from areal.weights.interface import VLLM_BACKEND
from areal.weights.sender import open_sender

SPREAD = 1.0
PROMPT = 32
COLORS = {"recompute": BLUE, "keep": GREEN, "drain": ORANGE}


def longest(median: int) -> int:
    """Return the number of tokens of the longest response."""
    return 15 * median // 2


def lengths(seed: int, median: int) -> Iterator[int]:
    """Yield log-normal response lengths in tokens, a few of which are many times the median."""
    rng = random.Random(seed)
    while True:
        yield min(longest(median), max(4, round(median * rng.lognormvariate(0, SPREAD))))


@dataclass(slots=True)
class Measured:
    """The measurements of one run of one mode, where ``ages[a]`` is the share of tokens of weight age a."""

    tokens_per_s: float
    age_mean: float
    age_max: int
    ages: list[float]
    interrupted: float
    load_seconds: float


class Workload:
    """A sequence of requests, during which the weights change."""

    def __init__(self, engine: Any, seed: int, median: int) -> None:
        self._engine = engine
        self._lengths = lengths(seed, median)
        self._prompts = itertools.count()
        self._stopped = False
        self.published = engine.version
        self.finished: list[tuple[Completion, int]] = []
        self.loads: list[tuple[int, float, float]] = []

    async def generate(self) -> None:
        """Send one request after another until stopped, and finish the one in flight."""
        while not self._stopped:
            number = next(self._prompts)
            prompt = [3, *((20 + number * k) % 90 + 5 for k in range(1, 30)), 4]
            completion = await self._engine.generate(prompt, Sampling(next(self._lengths), ignore_eos=True))
            self.finished.append((completion, self.published))

    async def publish(self, cadence: float, seconds: float) -> None:
        """Publish new weights every ``cadence`` seconds, and stop at the first change after ``seconds``."""
        started = time.monotonic()
        loading: asyncio.Task[None] | None = None
        for tick in itertools.count(1):
            await asyncio.sleep(max(0.0, started + tick * cadence - time.monotonic()))
            self.published += 1
            if loading is not None:
                if not loading.done():
                    continue
                loading.result()
                if self.loads[-1][1] - self.loads[0][1] >= seconds:
                    break
            loading = asyncio.create_task(self._load(self.published))
        self._stopped = True

    async def _load(self, version: int) -> None:
        began = time.monotonic()
        await self._engine.load(version)
        now = time.monotonic()
        self.loads.append((version, now, now - began))

    def measured(self) -> Measured:
        """Compute the measurements from the versions of the tokens, without estimates at the edges."""
        (first, begin, _), (last, end, _) = self.loads[0], self.loads[-1]
        versions = [np.array(c.versions) for c, _ in self.finished]
        inside = [(v >= first) & (v < last) for v in versions]
        ages = np.concatenate(
            [published - v[i] for v, i, (_, published) in zip(versions, inside, self.finished, strict=True)]
        )
        return Measured(
            tokens_per_s=len(ages) / (end - begin),
            age_mean=float(ages.mean()),
            age_max=int(ages.max()),
            ages=(np.bincount(ages) / len(ages)).tolist(),
            interrupted=statistics.fmean(len(set(c.versions)) > 1 for c, _ in self.finished),
            load_seconds=statistics.fmean(seconds for _, _, seconds in self.loads),
        )


async def measure(
    engine: Any, mode: Interruption, seed: int, seconds: float, arguments: argparse.Namespace
) -> Workload:
    [only] = engine.engines.values()
    await only.worker.call(set_interruption, mode)
    work = Workload(engine, seed, arguments.median)
    running = [asyncio.create_task(work.generate()) for _ in range(arguments.concurrency)]
    await work.publish(arguments.cadence, seconds)
    await asyncio.gather(*running)
    return work


async def measure_all(arguments: argparse.Namespace, path: str) -> dict[str, list[Measured]]:
    rollouts = {"max_concurrent": arguments.concurrency, "max_model_len": longest(arguments.median) + PROMPT}
    config = parse_config(
        {"rollout": rollouts, "model": path, "device": arguments.device, "engine": {"gpu": 0}}
    )
    checked = plan(config)
    worker = await start_rollout_worker(checked, VLLM_BACKEND)
    model = load_model(checked.model).to(checked.device)
    sender = open_sender(
        checked.placement.backends,
        model.named_parameters(),
        engine_dtype(config, checked.device),
        checked.device,
    )
    sender.write(model.named_parameters())
    await worker.engine.connect(sender.init_infos())
    found: dict[str, list[Measured]] = {mode: [] for mode in get_args(Interruption)}
    try:
        await measure(worker.engine, "recompute", 0, 0, arguments)  # vLLM compiles kernels in it
        for seed in range(arguments.repeats):
            for mode in get_args(Interruption):
                work = await measure(worker.engine, mode, seed, arguments.seconds, arguments)
                found[mode].append(work.measured())
                print(f"{mode:10} {found[mode][-1].tokens_per_s:7.0f} tokens/s", flush=True)
    finally:
        await worker.close()
        sender.close()
    return found


def summary(runs: dict[str, list[Measured]]) -> dict[str, Any]:
    """Return the means of each mode, and its throughput relative to that of drain in the same round."""
    drain = [run.tokens_per_s for run in runs["drain"]]
    found = {}
    for mode, rounds in runs.items():
        gains = [run.tokens_per_s / base for run, base in zip(rounds, drain, strict=True)]
        found[mode] = {
            "tokens_per_s": statistics.fmean(run.tokens_per_s for run in rounds),
            "tokens_per_s_runs": [run.tokens_per_s for run in rounds],
            "over_drain": statistics.fmean(gains),
            "over_drain_runs": gains,
            "weight_age_mean": statistics.fmean(run.age_mean for run in rounds),
            "weight_age_max": max(run.age_max for run in rounds),
            "weight_ages": mean_shares([run.ages for run in rounds]),
            "interrupted_sequences": statistics.fmean(run.interrupted for run in rounds),
            "load_seconds": statistics.fmean(run.load_seconds for run in rounds),
        }
    return found


def mean_shares(rows: list[list[float]]) -> list[float]:
    """Return the mean of distributions of unequal length."""
    return [statistics.fmean(column) for column in itertools.zip_longest(*rows, fillvalue=0.0)]


def draw(arguments: argparse.Namespace, results: dict[str, Any]) -> None:
    title = "Weight updates and requests in flight"
    with picture(arguments.output, "interruption", title, (10, 4.2)) as figure:
        left, right = figure.subplots(1, 2)
        for place, (mode, found) in enumerate(results.items()):
            left.bar(place, found["tokens_per_s"], color=COLORS[mode], alpha=0.75)
            runs = found["tokens_per_s_runs"]
            left.plot([place] * len(runs), runs, "k.", markersize=5)
            label = f"{found['over_drain']:.2f}×"
            left.annotate(
                label, (place, found["tokens_per_s"] / 2), ha="center", color="white", weight="bold"
            )
            shares = found["weight_ages"]
            at = np.arange(len(shares)) + 0.27 * (place - 1)
            right.bar(
                at, shares, 0.27, color=COLORS[mode], label=f"{mode} (mean {found['weight_age_mean']:.2f})"
            )
        left.set_xticks(range(len(results)), list(results))
        left.set_ylabel("generated tokens/s (×: relative to drain)")
        right.set_xticks(range(max(len(found["weight_ages"]) for found in results.values())))
        right.set_xlabel("age of the weights when the sequence is finished (updates)")
        right.set_ylabel("share of tokens")
        right.legend(frameon=False)


def main() -> None:
    made = parser(__doc__, "interruption")
    made.add_argument("--repeats", type=int, default=3, help="rounds of the three modes (default: 3)")
    made.add_argument(
        "--seconds", type=float, default=9, help="minimum seconds of one measurement (default: 9)"
    )
    made.add_argument("--cadence", type=float, default=3, help="seconds between new weights (default: 3)")
    made.add_argument("--concurrency", type=int, default=32, help="sequences in flight (default: 32)")
    made.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    made.add_argument(
        "--size",
        choices=list(QWEN2),
        help="shape of a model with random weights (default: the starter model)",
    )
    made.add_argument(
        "--median", type=int, default=80, help="median number of tokens of a response (default: 80)"
    )
    arguments = made.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = qwen2(Path(folder), arguments.size) if arguments.size else STARTER
        results = summary(asyncio.run(measure_all(arguments, path)))
    shown = {name: value for name, value in vars(arguments).items() if name != "output"}
    save(arguments.output, "interruption", {"settings": shown, "modes": results})
    draw(arguments, results)
    for mode, found in results.items():
        print(
            f"{mode:10} {found['tokens_per_s']:7.0f} tokens/s ({found['over_drain']:.2f}× drain), "
            f"weight age {found['weight_age_mean']:.2f} (max {found['weight_age_max']}), "
            f"load {found['load_seconds']:.2f} s"
        )


if __name__ == "__main__":
    main()
