"""Measures the gains from several GPUs of one host, with all parts in one command.

    python benchmarks/several_gpus.py [--parts weights,ranks,training,learning,splits]

- *weights*: benchmarks/weight_update.py with one GPU each for learner and engine, with 0.5B and 1.5B
  parameters;
- *ranks*: the learner on all GPUs against one GPU, with the losses of the same updates and the tokens/s;
- *training*: benchmarks/async_vs_sync.py, colocated against disaggregated, and both also synchronous;
- *learning*: held-out accuracy of the model that ships with areal on math-v1, colocated and disaggregated;
- *splits*: the same asynchronous steps with a quarter, a half and three quarters of the GPUs for the learner
  and the others for engines, and with all GPUs for both.

An engine takes up to a minute and a half to start. On two GPUs, the benchmark starts sixteen engines, so the
whole benchmark takes more than half an hour. It skips each part that already has a result, so that --parts
can divide the benchmark among several calls. If others share the GPUs of the host, leave NVLink multicast off
(NCCL_NVLS_ENABLE=0).
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing
from async_vs_sync import in_process, run_steps, work, write_model
from common import BLUE, GRAY, ORANGE, load, parser, picture, save, train_once
from learner import batch, trajectories
from models import qwen2

from areal.config import LearnerConfig
from areal.learner.learner import Learner

HERE = Path(__file__).parent
BUDGET = 16384
SEEDS = (0, 1, 2)
MEAN_LENGTH = 128
"""The mean length of the responses of *training* and *splits*, in tokens."""
WARMUP, STEPS = 16, 12
"""The numbers of their warm-up updates and of their measured updates."""


def benchmark(output: Path, name: str, *arguments: str) -> dict[str, Any]:
    """Run another benchmark in its own process, and return its results."""
    command = [sys.executable, str(HERE / f"{name}.py"), "--output", str(output), *arguments]
    with (output.parent / f"{output.name}.log").open("w") as log:
        subprocess.run(command, check=True, stdout=log, stderr=subprocess.STDOUT)
    found = load(output, "steady" if name == "async_vs_sync" else name)
    assert found is not None
    return found


def weights(output: Path) -> dict[str, Any]:
    """Measure the time from the pause to the first new token."""
    return {
        size: benchmark(
            output / f"weights-{size}",
            "weight_update",
            "--disaggregated",
            "--parameters",
            size,
            "--updates",
            "8",
        )
        for size in ("0.5b", "1.5b")
    }


def ranks(output: Path) -> dict[str, Any]:
    """Compare the same updates on one GPU and on all GPUs."""
    counts = (1, torch.cuda.device_count())
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        qwen2(folder / "model", "0.5b")
        for count in counts:
            multiprocessing.spawn(one_rank, (count, folder), nprocs=count)
        runs = {count: json.loads((folder / f"{count}.json").read_text()) for count in counts}
    one, many = (runs[count] for count in counts)
    speeds = {
        count: statistics.median(m["learner/tokens_per_s"] for m in runs[count][1:]) for count in counts
    }
    differences = {
        name: max(abs(a[name] - b[name]) for a, b in zip(one, many, strict=True))
        for name in ("loss", "policy/entropy", "grad_norm")
    }
    return {
        "tokens_per_s": speeds,
        "scaling": speeds[counts[1]] / speeds[1],
        "largest_difference": differences,
        "runs": runs,
    }


def one_rank(rank: int, count: int, folder: Path) -> None:
    """Run one of ``count`` ranks, which makes four updates, of which the first compiles."""
    torch.cuda.set_device(rank)
    store = f"file://{folder}/store-{count}"
    dist.init_process_group("cpu:gloo,cuda:nccl", init_method=store, rank=rank, world_size=count)
    settings = LearnerConfig(minibatches=1, learning_rate=1e-6, micro_batch_tokens=BUDGET)
    learner = Learner(str(folder / "model"), settings, "cuda", 1.0)
    rng = np.random.default_rng(0)
    batches = [batch(trajectories(rng, 96, 151_000, BUDGET // 2)) for _ in range(4)]
    metrics = [learner.update(members) for members in batches]
    if rank == 0:
        (folder / f"{count}.json").write_text(json.dumps(metrics))
    dist.destroy_process_group()


def training(output: Path) -> dict[str, Any]:
    """Compare steps of the real training loop."""
    where = output / "training"
    options = f"--size 0.5b --mean-length {MEAN_LENGTH} --steps {STEPS} --warmup {WARMUP} --repeats 1"
    way = ("--part", "steady", "--device", "cuda", "--side-by-side")
    return benchmark(where, "async_vs_sync", *way, *options.split(), "rollout.batch_size=256")


def learning(output: Path) -> dict[str, Any]:
    """Train the starter model colocated and disaggregated, with three seeds each, all concurrently."""
    settings = ["device=cuda", "steps=60", "engine.memory=0.08", "engine.eager=true", "checkpoint.every=0"]
    settings += ["learner.dtype=float32", "learner.minibatches=4", "evaluation.problems=512"]
    named = {
        f"{way}-seed-{seed}": [*settings, f"engine.gpu={gpu}", f"seed={seed}"]
        for gpu, way in enumerate(("colocated", "disaggregated"))
        for seed in SEEDS
    }

    def accuracies(metrics: list[dict[str, Any]]) -> dict[str, Any]:
        found = [row["eval/math-v1/avg@1"] for row in metrics if "eval/math-v1/avg@1" in row]
        return {"before": found[0], "after": found[-1]}

    with ThreadPoolExecutor(len(named)) as pool:
        runs = pool.map(lambda name: train_once(output / "learning", name, named[name], accuracies), named)
        return dict(zip(named, runs, strict=True))


def splits(output: Path) -> dict[str, Any]:
    """Compare divisions of the GPUs between learner and engines, which all make the same steps."""
    gpus = torch.cuda.device_count()
    found = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        settings = work(write_model(folder / "model", "0.5b"), "cuda", WARMUP + STEPS, MEAN_LENGTH)
        settings += [f"rollout.batch_size={128 * gpus}", f"output={folder}"]
        for learners, engines in ways_to_split(gpus):
            own = [f"learner.processes={learners}", f"engine.count={engines}"]
            way = f"{learners} + {engines}"
            found[way] = in_process(way, run_steps, [*settings, *own], STEPS)
    return found


def ways_to_split(gpus: int) -> list[tuple[int, int]]:
    """Return the numbers of learner processes and engines of each way; the last way shares every GPU."""
    split = [(learners, gpus - learners) for learners in range(1, gpus)]
    if gpus >= 4:
        split = [(learners, engines) for learners, engines in split if 4 * learners % gpus == 0]
    return [*split, (gpus, gpus)]


PARTS = {"weights": weights, "ranks": ranks, "training": training, "learning": learning, "splits": splits}


def table(found: dict[str, Any]) -> list[str]:
    """Return the results, one per line."""
    lines = []
    for size, updates in found.get("weights", {}).items():
        total, agreement = updates["summary"]["total"], updates["agreement"]
        lines.append(
            f"weights {size}: pause to first new token {total['median']:.3f} s (worst {total['worst']:.3f}); "
            f"log-probabilities off by {agreement['last']['mean']:.4f} (before: "
            f"{agreement['before']['mean']:.2f})"
        )
    if (of_ranks := found.get("ranks")) is not None:
        speeds = ", ".join(f"{count}: {speed:,.0f}" for count, speed in of_ranks["tokens_per_s"].items())
        off = ", ".join(f"{name} {value:.1e}" for name, value in of_ranks["largest_difference"].items())
        lines.append(f"ranks: tokens/s {speeds} ({of_ranks['scaling']:.2f} times); off by at most: {off}")
    for way, seconds in found.get("training", {}).get("seconds_per_step", {}).items():
        lines.append(f"training, {way}: {seconds:.2f} s per step")
    for way, row in found.get("splits", {}).items():
        lines.append(
            f"GPUs of learner + engines, {way}: {row['seconds_per_step']:.2f} s per step, "
            f"{row['tokens_per_s']:,.0f} tokens/s; learner busy {row['learner_busy']:.0%}, engines "
            f"{row['engine_busy']:.0%}"
        )
    for name, run in found.get("learning", {}).items():
        lines.append(f"learning, {name}: held-out accuracy from {run['before']:.3f} to {run['after']:.3f}")
    return lines


def draw(output: Path, found: dict[str, Any]) -> None:
    steps = found["training"]["seconds_per_step"]
    title = "Seconds per update for the same work (0.5B parameters)"
    with picture(output, "several_gpus", title, (8, 3)) as figure:
        axes = figure.subplots()
        colors = [ORANGE if "disaggregated" in way else BLUE if "asyn" in way else GRAY for way in steps]
        axes.bar_label(axes.barh(list(steps), list(steps.values()), color=colors), fmt="%.2f s", padding=4)
        axes.set_xlim(right=1.12 * max(steps.values()))
        axes.invert_yaxis()
        axes.set_xlabel("seconds per update")


def main() -> None:
    made = parser(__doc__, "several_gpus")
    made.add_argument("--parts", default=",".join(PARTS), help="parts to run (default: %(default)s)")
    arguments: argparse.Namespace = made.parse_args()
    if torch.cuda.device_count() < 2:
        sys.exit(f"several_gpus.py needs two GPUs, and torch finds {torch.cuda.device_count()}")
    arguments.output.mkdir(parents=True, exist_ok=True)
    found: dict[str, Any] = {}
    for part in arguments.parts.split(","):
        done = load(arguments.output, part)
        if done is None:
            done = PARTS[part](arguments.output)
            save(arguments.output, part, done)
        found[part] = done
        print("\n".join(table({part: done})), flush=True)
    save(arguments.output, "several_gpus", found)
    if "training" in found:
        draw(arguments.output, found)
    print("\n".join(["", *table(found)]))


if __name__ == "__main__":
    main()
