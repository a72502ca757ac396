"""Measures the cost and the benefit of staleness: held-out accuracy and throughput for each η and objective.

    python benchmarks/staleness.py                                  # everything: 42 runs
    python benchmarks/staleness.py --eta 0,4,inf --seeds 0          # a part
    python benchmarks/staleness.py --jobs 6 --device cuda           # several runs at a time on one GPU
    python benchmarks/staleness.py --draw                           # only the table and the picture again

The benchmark is the ablation of arXiv 2505.24298, table 2 and figure 5c, on the model that ships with areal
and math-v1. It compares the naive objective (PPO's clipping around the policy that sampled) with the
decoupled one (eq. 5). At η=0, no sample is stale, so both objectives measure the noise there.

Each run is `areal train` in its own process and leaves one JSON file, so a stopped sweep continues where it
was. The same command repeats a failed run, which never counts. Settings given as key.sub=value apply to every
run. η is an upper bound. The table also shows the measured staleness of the consumed samples. No training
problem occurs twice, so the mean reward over a run shows how fast the run learned, even if runs end at the
same accuracy.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import statistics
import subprocess
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from common import BLUE, ORANGE, parser, picture, save, shares, train_once

ETAS = ("0", "1", "2", "4", "8", "16", "inf")
OBJECTIVES = {"naive": ORANGE, "decoupled": BLUE}
BATCH = 64
SETTINGS = (
    f"rollout.batch_size={BATCH}",
    # Hot enough that a policy and its ancestor 8 updates ago are far apart.
    "learner.learning_rate=1e-4",
    "evaluation.problems=512",
    # Log-probabilities of engine and learner agree: what differs is staleness alone, also on a GPU.
    "engine.dtype=float32",
    "checkpoint.every=0",
)


@dataclass(frozen=True, slots=True)
class Point:
    """One run of the sweep."""

    eta: str
    objective: str
    seed: int

    @property
    def name(self) -> str:
        return f"eta-{self.eta}-{self.objective}-seed-{self.seed}"

    def settings(self) -> list[str]:
        # Enough in flight that what is consumed is really as old as the gate allows, up to 16 updates.
        batches = min(float(self.eta) + 1, 17)
        return [
            f"rollout.max_staleness={self.eta}",
            f"rollout.max_concurrent={int(batches) * BATCH}",
            f"learner.decoupled={self.objective == 'decoupled'}",
            f"seed={self.seed}",
        ]


def main() -> None:
    options = parser(__doc__, "staleness")
    options.add_argument("--eta", default=",".join(ETAS), help="values of η (default: %(default)s)")
    options.add_argument(
        "--objective", default=",".join(OBJECTIVES), help="objectives (default: %(default)s)"
    )
    options.add_argument("--seeds", default="0,1,2", help="seeds (default: %(default)s)")
    options.add_argument("--steps", type=int, default=120, help="updates per run (default: %(default)s)")
    options.add_argument("--jobs", type=int, default=1, help="concurrent runs (default: %(default)s)")
    options.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    options.add_argument(
        "--draw", action="store_true", help="only make the table and the picture, without runs"
    )
    options.add_argument("overrides", nargs="*", metavar="key=value", help="settings of all runs")
    arguments = options.parse_args()
    failed = [] if arguments.draw else sweep(arguments)
    rows = summary(arguments.output / "runs")
    if not rows:
        sys.exit("there is no finished run")
    save(arguments.output, "staleness", {"rows": rows})
    print(table(rows))
    draw(rows, arguments.output)
    if failed:
        sys.exit(f"{len(failed)} runs failed. The same command repeats them: {', '.join(failed)}")


def sweep(arguments: argparse.Namespace) -> list[str]:
    """Make the missing runs, and return the names of those that failed."""
    points = [
        Point(eta, objective, int(seed))
        # Seed after seed: a sweep that is stopped early has every η.
        for seed, eta, objective in itertools.product(
            arguments.seeds.split(","), arguments.eta.split(","), arguments.objective.split(",")
        )
    ]
    common = [
        *SETTINGS,
        f"steps={arguments.steps}",
        *shares(arguments.jobs, arguments.device),
    ]

    def attempt(point: Point) -> str | None:
        try:
            run(arguments.output, point, [*common, *point.settings(), *arguments.overrides])
        except subprocess.CalledProcessError as error:
            print(f"{point.name} failed: {error.stderr.strip().splitlines()[-1:]}", flush=True)
            return point.name
        return None

    with ThreadPoolExecutor(arguments.jobs) as threads:
        return [name for name in threads.map(attempt, points) if name is not None]


def run(output: Path, point: Point, settings: list[str]) -> None:
    def of_point(metrics: list[dict[str, Any]]) -> dict[str, Any]:
        return {**asdict(point), **outcome(metrics)}

    result = train_once(output, point.name, settings, of_point)
    print(
        f"{point.name}: accuracy {result['accuracy']:.3f}, staleness {result['staleness_mean']:.1f}, "
        f"{result['tokens_per_s']:.0f} tokens/s",
        flush=True,
    )


def outcome(metrics: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the metrics of a run, with the speeds and the staleness of its second half."""
    accuracies = [row["eval/math-v1/avg@1"] for row in metrics if "eval/math-v1/avg@1" in row]
    steps = [row for row in metrics if "time/step" in row]
    half = steps[len(steps) // 2 :]
    seconds = sum(row["time/step"] for row in half)
    return {
        "accuracy_before": accuracies[0],
        "accuracy": accuracies[-1],
        "reward_last_10": statistics.fmean(row["reward/mean"] for row in steps[-10:]),
        "tokens_per_s": sum(BATCH * row["response/length_mean"] for row in half) / seconds,
        "seconds_per_step": seconds / len(half),
        "staleness_mean": statistics.fmean(row["staleness/mean"] for row in half),
        "staleness_max": max(row["staleness/max"] for row in steps),
        "clip_ratio": statistics.fmean(row["policy/clip_ratio"] for row in half),
        "rewards": [row["reward/mean"] for row in steps],
    }


def summary(folder: Path) -> list[dict[str, Any]]:
    """Return one row, over all seeds, for each η and objective with a finished run."""
    runs = [json.loads(path.read_text())["results"] for path in sorted(folder.glob("eta-*.json"))]
    rows = []
    for eta, objective in itertools.product(sorted({r["eta"] for r in runs}, key=float), OBJECTIVES):
        of_point = [r for r in runs if (r["eta"], r["objective"]) == (eta, objective)]
        if of_point:
            rows.append(
                {
                    "eta": eta,
                    "objective": objective,
                    "seeds": len(of_point),
                    "accuracies": [r["accuracy"] for r in of_point],
                    "accuracy_before": statistics.fmean(r["accuracy_before"] for r in of_point),
                    "reward_means": [statistics.fmean(r["rewards"]) for r in of_point],
                    **{
                        name: statistics.fmean(r[name] for r in of_point)
                        for name in ("accuracy", "tokens_per_s", "seconds_per_step", "staleness_mean")
                    },
                }
            )
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """Return the rows as a Markdown table, in the form of table 2 of the paper."""
    lines = [
        "| η | accuracy: naive | decoupled | mean reward: naive | decoupled | staleness had | tokens/s |",
        "|---|---|---|---|---|---|---|",
    ]
    for eta, same in itertools.groupby(rows, key=lambda row: row["eta"]):
        both = {row["objective"]: row for row in same}
        cells = [
            _mean_and_range(both[objective][key]) if objective in both else ""
            for key in ("accuracies", "reward_means")
            for objective in OBJECTIVES
        ]
        staleness, speed = (
            statistics.fmean(row[name] for row in both.values())
            for name in ("staleness_mean", "tokens_per_s")
        )
        lines.append(f"| {_eta(eta)} | {' | '.join(cells)} | {staleness:.1f} | {speed:,.0f} |")
    return "\n".join(lines)


def _mean_and_range(values: list[float]) -> str:
    return f"{statistics.fmean(values):.3f} ({min(values):.3f} to {max(values):.3f})"


def _eta(eta: str) -> str:
    return "∞" if math.isinf(float(eta)) else eta


def draw(rows: list[dict[str, Any]], output: Path) -> None:
    """Draw the accuracy, the learning speed and the throughput of both objectives over η."""
    etas = list(dict.fromkeys(row["eta"] for row in rows))
    with picture(output, "staleness", "What staleness costs and what it gains", (13, 4)) as figure:
        left, middle, right = figure.subplots(1, 3)
        for objective, color in OBJECTIVES.items():
            own = [row for row in rows if row["objective"] == objective]
            places = [etas.index(row["eta"]) for row in own]
            for axes, key in ((left, "accuracies"), (middle, "reward_means")):
                means = [statistics.fmean(row[key]) for row in own]
                axes.plot(places, means, "-", color=color, label=objective)
                for place, row in zip(places, own, strict=True):
                    axes.plot([place] * row["seeds"], row[key], "o", color=color, alpha=0.4, ms=4)
            right.plot(places, [row["tokens_per_s"] for row in own], "o-", color=color, ms=4)
        before = statistics.fmean(row["accuracy_before"] for row in rows)
        left.axhline(before, color="gray", linewidth=1, linestyle=":")
        left.annotate("before training", (0, before), xytext=(0, 3), textcoords="offset points", color="gray")
        left.set_ylabel("held-out accuracy after training")
        left.legend(frameon=False)
        middle.set_ylabel("mean reward over all updates")
        right.set_ylabel("trained tokens/s")
        right.set_ylim(bottom=0)
        labels = [f"{_eta(eta)}\n({_mean_staleness(rows, eta):.1f})" for eta in etas]
        for axes in (left, middle, right):
            axes.set_xticks(range(len(etas)), labels)
            axes.set_xlabel("η (mean staleness of the samples in updates)")


def _mean_staleness(rows: Iterable[dict[str, Any]], eta: str) -> float:
    return statistics.fmean(row["staleness_mean"] for row in rows if row["eta"] == eta)


if __name__ == "__main__":
    main()
