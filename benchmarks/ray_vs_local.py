"""Compares the tokens/s and the startup time of Ray's placement with those of the local one, on one host.

    python benchmarks/ray_vs_local.py                     # on CPUs, the shape of the model that ships
    python benchmarks/ray_vs_local.py --device cuda --size 0.5b --mean-length 128 --steps 16 --warmup 16 \\
        rollout.batch_size=256
    python benchmarks/ray_vs_local.py --device cuda --model FOLDER --address auto

Both placements run the same work in turns. It is the work of the steady part of async_vs_sync.py, with drawn
response lengths and random rewards. The benchmark starts a Ray cluster of one host, with all CPU cores and
GPUs of this machine, and stops it at the end. --address uses an existing cluster instead. The startup time of
a run ends when the engines, the learner and the first weights are in place. It includes joining Ray and
reserving the host, but not the start of Ray itself.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from async_vs_sync import in_process, noise_config, steps_summary, work, write_model
from common import BLUE, ORANGE, interleaved, parser, picture, save
from models import QWEN2

import areal

WAYS = {"local": ["placement=local"], "ray": ["placement=ray"]}


def main() -> None:
    options = parser(__doc__, "ray_vs_local")
    options.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    shape = options.add_mutually_exclusive_group()
    shape.add_argument("--model", help="folder or hub id of a model (default: random weights of --size)")
    shape.add_argument(
        "--size", choices=list(QWEN2), help="shape of the model (default: that of the starter model)"
    )
    options.add_argument(
        "--mean-length", type=int, default=32, help="mean tokens per response (default: %(default)s)"
    )
    options.add_argument("--steps", type=int, default=20, help="measured updates (default: %(default)s)")
    options.add_argument("--warmup", type=int, default=10, help="warm-up updates (default: %(default)s)")
    options.add_argument(
        "--repeats", type=int, default=3, help="runs of each placement (default: %(default)s)"
    )
    options.add_argument("--address", help="address of a Ray cluster of this host (default: start one)")
    options.add_argument("overrides", nargs="*", metavar="key=value", help="settings of all runs")
    arguments = options.parse_args()
    results = measure(arguments)
    save(arguments.output, "ray_vs_local", results)
    draw(results, arguments.output)
    print(json.dumps(results, indent=2))
    print("\n".join(table(results)))


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Run both placements in turns."""
    steps = arguments.warmup + arguments.steps
    with tempfile.TemporaryDirectory() as name, one_host(arguments.address) as address:
        folder = Path(name)
        model = arguments.model or write_model(folder / "model", arguments.size)
        settings = work(model, arguments.device, steps, arguments.mean_length)
        calls = {
            way: functools.partial(
                in_process,
                way,
                run,
                [*settings, f"output={folder / way}", *arguments.overrides, *own, f"ray.address={address}"],
                arguments.steps,
            )
            for way, own in WAYS.items()
        }
        found = interleaved(calls, arguments.repeats)
    return {"medians": {way: medians(runs) for way, runs in found.items()}, "repeats": found}


@contextmanager
def one_host(address: str | None) -> Iterator[str]:
    """Start a Ray cluster of this host alone, unless an address is given, and return its address."""
    if address is not None:
        yield address
        return
    from ray.cluster_utils import Cluster

    has = {"num_cpus": len(os.sched_getaffinity(0)), "num_gpus": torch.cuda.device_count()}
    cluster = Cluster(initialize_head=True, head_node_args={**has, "include_dashboard": False})
    try:
        yield cluster.address
    finally:
        cluster.shutdown()


def run(settings: list[str], count: int) -> dict[str, float]:
    """Make a run, and measure its startup, its last ``count`` steps and its end."""
    begun = time.time()
    done = areal.train(config=noise_config(settings))
    ended = time.time()
    ready = (done.path / "starts.jsonl").stat().st_mtime
    steps = sum(row["time/step"] for row in done.metrics if "time/step" in row)
    return {
        **steps_summary(done.metrics, count),
        "start_seconds": ready - begun,
        "end_seconds": ended - ready - steps,
    }


def medians(runs: list[dict[str, float]]) -> dict[str, float]:
    """Return the median of each metric over the repeats."""
    return {name: statistics.median(found[name] for found in runs) for name in runs[0]}


def table(results: dict[str, Any]) -> list[str]:
    """Return one line per metric: both placements, their difference and their ratio."""
    local, ray = (results["medians"][way] for way in WAYS)
    lines = []
    for name, what in (
        ("tokens_per_s", "tokens/s"),
        ("seconds_per_step", "seconds per update"),
        ("start_seconds", "seconds to start"),
        ("end_seconds", "seconds to end"),
    ):
        lines.append(
            f"{what}: local {local[name]:,.2f}, Ray {ray[name]:,.2f}; difference "
            f"{ray[name] - local[name]:+,.2f}, ratio {ray[name] / local[name]:.3f}"
        )
    return lines


def draw(results: dict[str, Any], output: Path) -> None:
    with picture(output, "ray_vs_local", "Ray's placement against the local one", (8, 3)) as figure:
        for axes, (name, unit) in zip(
            figure.subplots(1, 2),
            (("tokens_per_s", "tokens/s"), ("start_seconds", "seconds to start")),
            strict=True,
        ):
            for at, way in enumerate(WAYS):
                values = [found[name] for found in results["repeats"][way]]
                axes.bar(at, statistics.median(values), color=(BLUE, ORANGE)[at], alpha=0.6)
                axes.plot([at] * len(values), values, "o", color=(BLUE, ORANGE)[at])
            axes.set_xticks(range(len(WAYS)), list(WAYS))
            axes.set_title(unit)


if __name__ == "__main__":
    main()
