"""Compares the accuracy of a run of soak.py with that of undisturbed runs."""

from __future__ import annotations

import math
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from check_run import Verdict
from run_files import read_lines
from soak_run import AREAL, SETTINGS


def accuracies(path: Path) -> list[float]:
    """Return the held-out accuracies of a run, from before its first update to after its last one."""
    lines = read_lines(path / "metrics.jsonl")
    return [line[key] for line in lines for key in line if key.startswith("eval/") and key.endswith("avg@1")]


def undisturbed(folder: Path, updates: int, seeds: Sequence[int], problems: int, limit: float) -> list[Path]:
    """Make concurrent runs in which nothing dies, and return those that finished.

    Args:
        folder: the folder for their run directories.
        updates: the number of updates of each run.
        seeds: the seeds, one per run.
        problems: the number of problems for an accuracy measurement.
        limit: the maximum number of seconds.
    """
    runs = {seed: folder / f"undisturbed-{seed}" for seed in seeds}
    until, processes = time.monotonic() + limit, dict[int, subprocess.Popen[bytes]]()
    try:
        for seed, path in runs.items():
            shutil.rmtree(path, ignore_errors=True)
            own = [f"output={folder}", f"name={path.name}", f"steps={updates}", f"seed={seed}"]
            command = [*AREAL, "train", *SETTINGS, f"evaluation.problems={problems}", *own]
            with (folder / f"{path.name}.log").open("w") as log:
                processes[seed] = subprocess.Popen(command, stdout=log, stderr=log)
        for seed, process in processes.items():
            try:
                process.wait(max(0.0, until - time.monotonic()))
            except subprocess.TimeoutExpired:
                print(f"{runs[seed]} did not finish within {limit:.0f} s", file=sys.stderr)
    finally:
        for process in processes.values():
            process.kill()
            process.wait()
    return [runs[seed] for seed, process in processes.items() if process.returncode == 0]


def compared(run: Path, others: Sequence[Path], problems: int) -> Verdict:
    """Return whether the final accuracy of a run equals that of undisturbed runs with as many updates.

    The margin is three standard errors of the difference between one run and the mean of ``others``. Runs
    differ by their seeds (as far as so few runs show it), and each accuracy is measured on a limited number
    of problems. The verdict means little if the runs have learned no more than the margin.
    """
    promise = "the accuracy of an undisturbed run"
    if not others or len(accuracies(run)) < 2:
        return Verdict(promise, "nothing to compare", ["a run did not come to its end"])
    [before, *_, disturbed], ends = accuracies(run), [accuracies(path)[-1] for path in others]
    mean = statistics.mean(ends)
    sampled = mean * (1 - mean) / problems
    between = statistics.variance(ends) if len(ends) > 1 else sampled
    margin = 3 * math.sqrt(max(between, sampled) * (1 + 1 / len(ends)))
    text = f"{disturbed:.3f}; undisturbed {', '.join(f'{a:.3f}' for a in ends)}; margin {margin:.3f}"
    text += (
        f"; before training {before:.3f}{'' if abs(mean - before) > margin else ': TOO LITTLE WAS LEARNED'}"
    )
    broken = [] if abs(disturbed - mean) <= margin else [f"the difference is {abs(disturbed - mean):.3f}"]
    return Verdict(promise, text, broken)
