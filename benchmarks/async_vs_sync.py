"""Compares asynchronous with synchronous training on the same work and machine, and with a lower bound.

    python benchmarks/async_vs_sync.py                    # both parts
    python benchmarks/async_vs_sync.py --part steady      # step times and their bound
    python benchmarks/async_vs_sync.py --part learning    # wall clock to a target accuracy
    python benchmarks/async_vs_sync.py --part steady --device cuda --size 0.5b --mean-length 128 \\
        --steps 16 --warmup 16 --repeats 1 rollout.batch_size=256

The benchmark compares three ways to use the machine:

- *asynchronous* (η=8): half of the cores generate while the other half learns.
- *synchronous* (η=0): the cores are divided in the same way, but one half is idle while the other works.
- *synchronous in turn* (η=0, only on a machine without a GPU): all cores generate, then all cores learn. This
  is the best that a synchronous loop can do there.

*steady*: The model has random weights. The lengths of the responses are drawn as if each token had the same
probability of ending a response. The mean is 32 tokens (--mean-length), and the longest response of a batch
is five times as long. Rewards are noise, so the learner trains on every group, and the work of a step never
changes. This part also measures η=4. A sequence that takes longer than η updates delays the learner, and the
longest sequences here take about five updates.

The lower bound is max(T_generate, T_train), which no loop can beat. The benchmark measures generation and
training alone, on the same work. Each is pinned to the half of the cores that it has in the asynchronous run.
The engine's front end counts as generation. On a GPU, each has a whole GPU. T_train then comes from the
synchronous run, in which the engine waits during training. If there is a second GPU, the asynchronous and the
synchronous configurations also run with the learner and the engine on separate GPUs. With --side-by-side, the
configurations that have one GPU run at the same time. Each has its own GPU and its share of the cores.

On a GPU, --warmup should be at least 2η. While the learner compiles, the engine generates η batches, and the
learner then consumes these batches faster than new ones arrive. The metric generated_over_learned is a ratio
of tokens. It is 1 if the measured updates consume only what is generated during these updates.

*learning*: This part trains the model that ships with areal on math-v1. No training problem occurs twice, so
the reward of a batch is the accuracy on new problems. The clock starts at the first step.
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import json
import math
import multiprocessing
import os
import queue
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from common import BLUE, GRAY, GREEN, ORANGE, PURPLE, SKY, interleaved, parser, picture, save, train_once
from models import QWEN2, qwen2
from throughput import WARMUP, DrawnLength, Noise, random_model

import areal
from areal.api import check
from areal.config import Config, load_config
from areal.trajectory import Batch, Group

Measure = Callable[[list[str], int], dict[str, float]]
"""Measures a run, given its settings and the number of its last steps that count."""
Call = Callable[..., dict[str, float]]
"""A measurement with all required arguments bound. It optionally accepts a GPU."""

COLORS = {
    "synchronous": ORANGE,
    "synchronous in turn": GREEN,
    "asynchronous, η=4": SKY,
    "asynchronous": BLUE,
    "synchronous, disaggregated": GRAY,
    "asynchronous, disaggregated": PURPLE,
}
DISAGGREGATED = ", disaggregated"
SYNCHRONOUS = "rollout.max_staleness=0"
FEW = 4
"""Number of updates after which a synchronous run is warmed up."""
PROMPT = 64
"""Upper bound on the number of tokens of a prompt in a steady run."""
SMOOTH = 10
"""Number of steps over which the reward is averaged before the comparison with the target."""


def main() -> None:
    options = parser(__doc__, "async_vs_sync")
    options.add_argument("--part", choices=["steady", "learning", "all"], default="all")
    options.add_argument(
        "--steps", type=int, default=40, help="measured updates of a steady run (default: %(default)s)"
    )
    options.add_argument(
        "--warmup", type=int, default=WARMUP, help="updates before the measured ones (default: %(default)s)"
    )
    options.add_argument(
        "--repeats", type=int, default=2, help="steady runs of each configuration (default: %(default)s)"
    )
    options.add_argument(
        "--seeds", default="0,1,2", help="seeds of each configuration's learning runs (default: %(default)s)"
    )
    options.add_argument("--target", type=float, default=0.8, help="accuracy to reach (default: %(default)s)")
    options.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    options.add_argument(
        "--size",
        choices=list(QWEN2),
        help="shape of the model in the steady runs (default: that of the starter model)",
    )
    options.add_argument(
        "--mean-length",
        type=int,
        default=32,
        help="mean number of tokens of a response in the steady runs (default: %(default)s)",
    )
    options.add_argument(
        "--side-by-side", action="store_true", help="execute steady runs concurrently, each on its own GPU"
    )
    options.add_argument("overrides", nargs="*", metavar="key=value", help="settings for every run")
    arguments = options.parse_args()
    if arguments.side_by_side and arguments.device != "cuda":
        options.error("--side-by-side gives each configuration its own GPU: add --device cuda")
    if arguments.part in ("steady", "all"):
        results = steady(arguments)
        save(arguments.output, "steady", results)
        print(json.dumps(results, indent=2))
        draw_steady(results, arguments.output)
    if arguments.part in ("learning", "all"):
        results = learning(arguments)
        save(arguments.output, "learning", results)
        print(json.dumps(results["summary"], indent=2))
        draw_learning(results, arguments.target, arguments.output)


def ways(device: str) -> dict[str, list[str]]:
    """Return the settings of each configuration."""
    cores = len(os.sched_getaffinity(0))
    half = _threads(max(1, cores // 2))
    found = {
        "asynchronous": ["rollout.max_staleness=8", *half],
        "synchronous": [SYNCHRONOUS, *half],
    }
    if device == "cpu":
        return {**found, "synchronous in turn": [SYNCHRONOUS, *_threads(cores)]}
    colocated = {way: [*settings, "engine.gpu=0"] for way, settings in found.items()}
    if torch.cuda.device_count() < 2:
        return colocated
    return {**colocated, **{f"{way}{DISAGGREGATED}": [*own, "engine.gpu=1"] for way, own in found.items()}}


def _threads(count: int) -> list[str]:
    return [f"engine.threads={count}", f"learner.threads={count}"]


# steady


def steady(arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure the step time of each configuration, and of generation and training alone, in turn."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        steps = arguments.warmup + arguments.steps
        model = write_model(folder / "model", arguments.size)
        settings = work(model, arguments.device, steps, arguments.mean_length) + arguments.overrides
        measures: dict[str, tuple[Measure, list[str]]] = {}
        every = ways(arguments.device)
        tight = {}
        if arguments.device == "cpu":
            tight["asynchronous, η=4"] = [*every["asynchronous"], "rollout.max_staleness=4"]
        for number, (way, own) in enumerate({**tight, **every}.items()):
            run = [*settings, *own, f"output={folder / f'way-{number}'}"]
            if SYNCHRONOUS in own:  # which has nothing in stock
                run.append(f"steps={min(arguments.warmup, FEW) + arguments.steps}")
            measures[way] = run_steps, run
        _, run = measures["asynchronous"]
        measures["generate"] = generate_alone, run
        if arguments.device == "cpu":
            # What is learned from alone is what the asynchronous run recorded.
            measures["train"] = train_alone, run
        calls = {
            name: functools.partial(in_process, name, measure, run, arguments.steps)
            for name, (measure, run) in measures.items()
        }
        found: dict[str, list[dict[str, float]]] = {}
        if arguments.side_by_side:
            alone = {name: call for name, call in calls.items() if DISAGGREGATED not in name}
            found = side_by_side(alone, arguments.repeats)
            save(arguments.output, "steady", steady_results(found))
        rest = {name: call for name, call in calls.items() if name not in found}
        return steady_results(found | interleaved(rest, arguments.repeats))


def work(model: str, device: str, steps: int, mean_length: int) -> list[str]:
    """Return the settings that all steady runs share."""
    return [
        f"model={model}",
        f"device={device}",
        f"steps={steps}",
        "env=noise-v0",
        "agent=drawn-length",
        f"agent_options.mean={mean_length}",
        f"rollout.max_new_tokens={8 * mean_length}",
        f"rollout.max_model_len={8 * mean_length + PROMPT}",
        "evaluation.problems=0",
        "learner.learning_rate=1e-6",
        "checkpoint.every=0",
    ]


def steady_results(found: dict[str, list[dict[str, float]]]) -> dict[str, Any]:
    """Return the medians over the repeats, the bound, and a comparison of the configurations."""
    seconds = {
        name: statistics.median(result["seconds_per_step"] for result in results)
        for name, results in found.items()
    }
    alone = {"generate": seconds.pop("generate")}
    if "train" in seconds:
        alone["train"] = seconds.pop("train")
    else:
        alone["train"] = statistics.median(result["train_seconds"] for result in found["synchronous"])
    bound = max(alone.values())
    return {
        "seconds_per_step": seconds,
        "alone": alone,
        "bound": bound,
        "over_bound": {way: value / bound for way, value in seconds.items()},
        "asynchronous_speed_up": {way: value / seconds["asynchronous"] for way, value in seconds.items()},
        "repeats": found,
    }


def write_model(folder: Path, size: str | None) -> str:
    """Write a model with random weights and return its path.

    The model has the shape of the starter model, or the larger shape that ``size`` names.
    """
    if size is not None:
        return qwen2(folder, size)
    random_model(folder)
    return str(folder)


def in_process(
    name: str, measure: Measure, settings: list[str], steps: int, gpu: int | None = None
) -> dict[str, float]:
    """Run a measurement in its own process, which may pin itself and leaves no threads behind."""
    context = multiprocessing.get_context("spawn")
    if gpu is not None:
        measure = functools.partial(on_gpu, gpu, torch.cuda.device_count(), measure)
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        result = pool.submit(measure, settings, steps).result()
    print(name, {key: round(value, 3) for key, value in result.items()}, flush=True)
    return result


def side_by_side(calls: dict[str, Call], repeats: int) -> dict[str, list[dict[str, float]]]:
    """Run as many measurements at a time as there are GPUs, each with one of the GPUs."""
    count = torch.cuda.device_count()
    free: queue.SimpleQueue[int] = queue.SimpleQueue()
    for gpu in range(count):
        free.put(gpu)

    def call(measure: Call) -> dict[str, float]:
        gpu = free.get()
        try:
            return measure(gpu=gpu)
        finally:
            free.put(gpu)

    with ThreadPoolExecutor(count) as pool:
        running = {name: [pool.submit(call, calls[name]) for _ in range(repeats)] for name in calls}
    return {name: [future.result() for future in futures] for name, futures in running.items()}


def on_gpu(gpu: int, gpus: int, measure: Measure, settings: list[str], steps: int) -> dict[str, float]:
    """Run a measurement with only one GPU and its share of the cores."""
    os.environ["CUDA_VISIBLE_DEVICES"] = str(gpu)
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[gpu::gpus])
    return measure(settings, steps)


def run_steps(settings: list[str], count: int) -> dict[str, float]:
    """Run the real training loop and measure its last ``count`` steps."""
    return steps_summary(areal.train(config=noise_config(settings)).metrics, count)


def steps_summary(metrics: list[dict[str, Any]], count: int) -> dict[str, float]:
    """Return a summary of the last ``count`` steps of a run, computed from its metrics."""
    before, *steps = [row for row in metrics if "time/step" in row][-count - 1 :]

    def mean(name: str) -> float:
        return statistics.fmean(row[name] for row in steps)

    generated = steps[-1]["rollout/tokens"] - before["rollout/tokens"]
    learned = sum(
        row["response/length_mean"] * row["throughput/trajectories_per_s"] * row["time/step"] for row in steps
    )
    return {
        "seconds_per_step": mean("time/step"),
        "seconds_per_step_median": statistics.median(row["time/step"] for row in steps),
        "generate_seconds": mean("time/generate"),
        "train_seconds": mean("time/train"),
        "tokens_per_s": generated / sum(row["time/step"] for row in steps),
        "generated_over_learned": generated / learned,
        "learner_busy": mean("time/train") / mean("time/step"),
        "engine_busy": mean("time/generate") / mean("time/step"),
        "staleness_mean": mean("staleness/mean"),
        "length_mean": mean("response/length_mean"),
    }


def generate_alone(settings: list[str], count: int) -> dict[str, float]:
    """Measure generation alone, with as many batches as a run generates but without a learner."""
    config = noise_config(settings)
    pin(config, first=True)
    times = asyncio.run(_batch_times(config))
    return {"seconds_per_step": (times[-1] - times[-1 - count]) / count}


async def _batch_times(config: Config) -> list[float]:
    from areal.rollout.admission import Admission
    from areal.rollout.controller import RolloutController
    from areal.rollout.engine import Sampling
    from areal.rollout.tasks import TaskSource
    from areal.runtime.build import start_rollout_worker
    from areal.runtime.plan import max_concurrent

    plan, rollout = check(config), config.rollout
    worker = await start_rollout_worker(plan, None)
    sampling = Sampling(rollout.max_new_tokens, rollout.temperature)
    controller = RolloutController(
        Admission[Group](config.groups_per_batch, math.inf),
        lambda task, episode_id: worker.run_episode(task, sampling),
        TaskSource(plan.env, config.seed).task,
        rollout.group_size,
        max_concurrent(config),
        rollout.max_retries,
        rollout.max_failures,
    )
    producing = asyncio.create_task(controller.run())
    times = []
    for version in range(config.steps):
        await controller.next_batch(version)
        times.append(time.monotonic())
    producing.cancel()
    await asyncio.wait([producing])
    await worker.close()
    return times


def train_alone(settings: list[str], count: int) -> dict[str, float]:
    """Measure training alone, on the batches that the asynchronous run recorded."""
    from areal.learner.learner import Learner

    config = noise_config(settings)
    pin(config, first=False)
    plan = check(config)
    threads = plan.placement.ranks[0].threads
    learner = Learner(plan.model, config.learner, plan.device, config.rollout.temperature, threads)
    recorded = sorted(max(config.output.iterdir(), key=os.path.getmtime).glob("rollouts/step-*.jsonl"))
    lengths: list[int] = []
    seconds = []
    for version, path in enumerate(recorded):
        groups = [Group.from_json(json.loads(line)) for line in path.read_text().splitlines()]
        batch = Batch(version, groups)
        lengths += [episode.sampled for episode in batch.episodes]
        seconds.append(learner.update(batch)["time/train"])
    percentiles = statistics.quantiles(lengths, n=100)
    return {
        "seconds_per_step": statistics.fmean(seconds[-count:]),
        "length_mean": statistics.fmean(lengths),
        "length_p50": percentiles[49],
        "length_p99": percentiles[98],
        "length_max": max(lengths),
    }


def noise_config(settings: list[str]) -> Config:
    areal.register_env("noise-v0", Noise)
    areal.register_agent("drawn-length", DrawnLength)
    return load_config(overrides=["recipe=none", *settings])


def pin(config: Config, first: bool) -> None:
    """Pin the process to the half of the cores that the engine (``first``) or the learner has.

    On a GPU, the function does nothing.
    """
    if config.device == "cpu":
        cores = sorted(os.sched_getaffinity(0))
        threads = config.engine.threads or 1
        os.sched_setaffinity(0, cores[:threads] if first else cores[threads:])


def draw_steady(results: dict[str, Any], output: Path) -> None:
    """Draw the step times as bars and the bound as a line."""
    steps, bound = results["seconds_per_step"], results["bound"]
    with picture(output, "steady", "Seconds per update for the same work", (8, 3)) as figure:
        axes = figure.subplots()
        bars = {way: steps[way] for way in COLORS if way in steps}
        bars["generation alone"] = results["alone"]["generate"]
        bars["training alone"] = results["alone"]["train"]
        names = [f"{name}, η=8" if name == "asynchronous" else name for name in bars]
        drawn = axes.barh(names, list(bars.values()), color=[COLORS.get(name, GRAY) for name in bars])
        over_line = {"facecolor": "white", "edgecolor": "none", "pad": 1}
        axes.bar_label(drawn, fmt="%.2f s", padding=4, bbox=over_line)
        axes.axvline(bound, color="black", linewidth=1, linestyle="--")
        axes.annotate("lower bound", (bound, -0.45), xytext=(3, 0), textcoords="offset points", va="bottom")
        axes.set_xlim(right=1.12 * max(bars.values()))
        axes.invert_yaxis()
        axes.set_xlabel("seconds per update")


# learning


def learning(arguments: argparse.Namespace) -> dict[str, Any]:
    """Train each configuration with each seed and return the times to the target and the final results."""
    settings = ["evaluation.problems=512", "checkpoint.every=0", f"device={arguments.device}"]
    runs: dict[str, list[dict[str, Any]]] = {way: [] for way in ways(arguments.device)}
    for seed in arguments.seeds.split(","):
        for way, own in ways(arguments.device).items():
            name = f"{way.replace(' ', '-')}-seed-{seed}"
            every = [*settings, *own, f"seed={seed}", *arguments.overrides]
            runs[way].append(train_once(arguments.output, name, every, curve))
    summary = {way: of_way(found, arguments.target) for way, found in runs.items()}
    return {"target": arguments.target, "summary": summary, "runs": runs}


def curve(metrics: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the reward of a run over time and its final held-out accuracy."""
    steps = [row for row in metrics if "time/step" in row]
    seconds, clock = [], 0.0
    for row in steps:
        clock += row["time/step"]
        seconds.append(clock)
    accuracies = [row["eval/math-v1/avg@1"] for row in metrics if "eval/math-v1/avg@1" in row]
    return {
        "seconds": seconds,
        "rewards": smooth([row["reward/mean"] for row in steps]),
        "accuracy_before": accuracies[0],
        "accuracy": accuracies[-1],
        "seconds_per_step": clock / len(steps),
    }


def smooth(values: list[float]) -> list[float]:
    """Return the trailing mean of each value, over it and up to ``SMOOTH - 1`` values before it."""
    return [statistics.fmean(values[max(0, i - SMOOTH + 1) : i + 1]) for i in range(len(values))]


def of_way(runs: list[dict[str, Any]], target: float) -> dict[str, Any]:
    """Return a summary of the runs of one configuration.

    The time to the target is None for a run that never reaches it.
    """
    reached = [
        next((s for s, r in zip(run["seconds"], run["rewards"], strict=True) if r >= target), None)
        for run in runs
    ]
    accuracies = [run["accuracy"] for run in runs]
    return {
        "seconds_to_target": reached,
        "seconds_to_target_mean": None if None in reached else statistics.fmean(filter(None, reached)),
        "accuracy": accuracies,
        "accuracy_mean": statistics.fmean(accuracies),
        "seconds_per_step": statistics.fmean(run["seconds_per_step"] for run in runs),
    }


def draw_learning(results: dict[str, Any], target: float, output: Path) -> None:
    """Draw the reward over time, with one line per run."""
    with picture(output, "learning", "Reward over time, for the same updates") as figure:
        axes = figure.subplots()
        for way, runs in results["runs"].items():
            for number, run in enumerate(runs):
                label = way if number == 0 else None
                axes.plot(run["seconds"], run["rewards"], color=COLORS[way], alpha=0.8, label=label)
        axes.axhline(target, color="gray", linewidth=1, linestyle=":")
        axes.set_xlabel("seconds")
        axes.set_ylabel(f"reward on new problems (mean of {SMOOTH} updates)")
        axes.legend(frameon=False)


if __name__ == "__main__":
    main()
