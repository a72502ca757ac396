"""The learning curve: a plot that shows whether the run learned, and how asynchronous it was."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from areal.telemetry.scores import SCORE, finite

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colors, which are distinguishable with every kind of color vision.
_BLUE, _ORANGE, _GREEN, _PURPLE, _GRAY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#666666"
_EVALUATION_COLORS = (_ORANGE, _GREEN, _PURPLE)


def plot_curve(metrics: list[dict[str, Any]], path: Path, title: str) -> None:
    """Write :func:`learning_curve` to a PNG file."""
    partial = path.with_name(f".{path.name}.partial")
    learning_curve(metrics, title).savefig(partial, format="png")
    partial.replace(path)


def learning_curve(metrics: list[dict[str, Any]], title: str) -> Figure:
    """Draw reward and held-out score, and below them staleness and overlap; a line may lack any value."""
    # Figure instead of pyplot: no window system, no global state, and it works on any thread.
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(9, 6), dpi=150, layout="constrained")
    figure.suptitle(title)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1.2])
    upper.set_ylabel("reward, held-out score")
    _draw_reward(upper, metrics)
    _draw_evaluations(upper, metrics)
    _legend_above(upper)

    lower.set_xlabel("step")
    lower.set_ylabel("staleness")
    steps, worst = _draw(lower, metrics, "staleness/max", _GRAY, "staleness, max", linewidth=0.8)
    lower.fill_between(steps, worst, color=_GRAY, alpha=0.12, linewidth=0)
    _draw(lower, metrics, "staleness/mean", _PURPLE, "staleness, mean")
    lower.set_ylim(0, np.max(worst, initial=1.0) * 1.08)
    lower.yaxis.set_major_locator(MaxNLocator(nbins=4, integer=True, min_n_ticks=2))
    lower.xaxis.set_major_locator(MaxNLocator(integer=True))
    right = lower.twinx()
    right.set_ylabel("overlap")
    _draw(right, metrics, "overlap", _GREEN, "overlap (right)", linewidth=1)
    right.set_ylim(bottom=0)
    _legend_above(lower, right)

    for axes in (upper, lower, right):
        axes.spines["top"].set_visible(False)
    for axes in (upper, lower):
        axes.grid(alpha=0.25, linewidth=0.6)
    upper.spines["right"].set_visible(False)
    return figure


def _series(metrics: list[dict[str, Any]], key: str) -> tuple[np.ndarray, np.ndarray]:
    """Return steps and values of the lines with a finite value."""
    points = [
        (line["step"], value)
        for line in metrics
        if "step" in line and (value := finite(line, key)) is not None
    ]
    steps, values = np.array(points, dtype=float).reshape(-1, 2).T
    return steps, values


def _draw(
    axes: Axes, metrics: list[dict[str, Any]], key: str, color: str, label: str, **style: Any
) -> tuple[np.ndarray, np.ndarray]:
    steps, values = _series(metrics, key)
    if len(steps):
        # A single point is not a line.
        marker = "o" if len(steps) == 1 else None
        axes.plot(
            steps, values, **{"color": color, "linewidth": 1.3, "marker": marker, "label": label, **style}
        )
    return steps, values


def _draw_reward(axes: Axes, metrics: list[dict[str, Any]]) -> None:
    steps, values = _draw(axes, metrics, "reward/mean", _BLUE, "reward", linewidth=0.8, alpha=0.4)
    if len(steps) >= 5:
        half = max(1, len(steps) // 30)
        axes.plot(
            steps,
            _smooth(values, half),
            color=_BLUE,
            linewidth=2,
            label=f"reward, mean of {2 * half + 1} steps",
        )


def _smooth(values: np.ndarray, half: int) -> np.ndarray:
    """Return the mean of each value and ``half`` values on either side; fewer at the ends."""
    return np.array([values[max(0, i - half) : i + half + 1].mean() for i in range(len(values))])


def _draw_evaluations(axes: Axes, metrics: list[dict[str, Any]]) -> None:
    keys = sorted({key for line in metrics for key in line if SCORE.fullmatch(key)})
    for number, key in enumerate(keys):
        lines = [line for line in metrics if len(_series([line], key)[0])]
        if not lines:
            continue
        steps, values = _series(lines, key)
        low, high = (np.array([_bound(line, key, side) for line in lines]) for side in ("low", "high"))
        errors = np.maximum(0.0, [values - low, high - values])
        match = SCORE.fullmatch(key)
        assert match is not None
        axes.errorbar(
            steps,
            values,
            errors,
            color=_EVALUATION_COLORS[number % len(_EVALUATION_COLORS)],
            marker="o",
            markersize=6,
            linestyle="none",  # there are no measurements between the points
            capsize=4,
            label=f"held-out score, 95% interval ({match['env']}, avg@{match['samples']})",
        )


def _bound(line: dict[str, Any], key: str, side: str) -> float:
    """Return one end of the error bar; without a bound the bar has no length."""
    value = finite(line, f"{key}/{side}")
    return line[key] if value is None else value


def _legend_above(*panels: Axes) -> None:
    """Draw one legend above the panels, where it covers nothing."""
    found = [axes.get_legend_handles_labels() for axes in panels]
    handles = [handle for handles, _ in found for handle in handles]
    labels = [label for _, labels in found for label in labels]
    if handles:
        panels[0].legend(
            handles, labels, fontsize=8, frameon=False, ncols=3, loc="lower left", bbox_to_anchor=(0, 1)
        )


def main(run: str, title: str) -> None:
    """Draw the curve of an active run, with low priority."""
    from areal.telemetry.run_directory import RunDirectory, read_metrics

    os.nice(19)
    directory = RunDirectory(Path(run))
    plot_curve(read_metrics(directory.path), directory.curve, title)


if __name__ == "__main__":
    main(*sys.argv[1:])
