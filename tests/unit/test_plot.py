"""The learning curve: a PNG from any metrics, with what was measured in it."""

from __future__ import annotations

import subprocess
import sys

import pytest
from matplotlib.figure import Figure

from areal.telemetry.plot import learning_curve, plot_curve

EVALUATION = {
    "step": 0,
    "eval/math-v1/avg@1": 0.2,
    "eval/math-v1/avg@1/low": 0.1,
    "eval/math-v1/avg@1/high": 0.4,
}
UPDATE = {"step": 1, "reward/mean": 0.5, "staleness/mean": 1.5, "staleness/max": 4.0, "overlap": 1.7}


def drawn(metrics, path) -> Figure:
    """Draw for real, and return the figure as well."""
    plot_curve(metrics, path, "title")
    assert path.read_bytes().startswith(b"\x89PNG\r\n")
    return learning_curve(metrics, "title")


def labels(figure) -> set[str]:
    return {text.get_text() for axes in figure.axes if axes.legend_ for text in axes.legend_.get_texts()}


@pytest.mark.parametrize(
    "metrics",
    [
        [],
        [EVALUATION],
        [UPDATE],
        [{"step": 1}],
        [{}],
        [{"step": 1, "reward/mean": None, "overlap": float("nan"), "staleness/max": "many"}],
        [{"step": 1, "staleness/mean": 0.0, "staleness/max": 0.0}],
        [{"step": 3, "eval/ns/e-v1/avg@4": 0.5}],
        [{"step": 3, "eval/e/avg@4": None, "eval/e/avg@4/low": None}],
        [{"step": 3, "eval/e/avg@4": 0.5, "eval/e/avg@4/low": None, "eval/e/avg@4/high": 0.4}],
    ],
)
def test_draws_whatever_there_is(metrics, tmp_path):
    drawn(metrics, tmp_path / "curve.png")


def test_whole_run(tmp_path):
    last = {"step": 40, "eval/math-v1/avg@1": 0.6}
    metrics = [
        EVALUATION,
        *({**UPDATE, "step": step, "reward/mean": step / 40} for step in range(1, 41)),
        last,
    ]
    figure = drawn(metrics, tmp_path / "curve.png")
    upper, lower, right = figure.axes
    assert labels(figure) == {
        "reward",
        "reward, mean of 3 steps",
        "held-out score, 95% interval (math-v1, avg@1)",
        "staleness, mean",
        "staleness, max",
        "overlap (right)",
    }
    assert (lower.get_xlabel(), lower.get_ylabel(), right.get_ylabel()) == ("step", "staleness", "overlap")
    assert figure.get_suptitle() == "title"

    raw, smooth = upper.lines[:2]
    assert list(raw.get_ydata()) == [step / 40 for step in range(1, 41)]
    assert smooth.get_ydata()[10] == pytest.approx((10 + 11 + 12) / 3 / 40)
    assert smooth.get_ydata()[0] == pytest.approx(1.5 / 40)

    [bars] = upper.containers
    points, _, [ends] = bars
    assert list(points.get_xdata()) == [0, 40]
    assert list(points.get_ydata()) == [0.2, 0.6]
    low_high = [[y for _, y in segment] for segment in ends.get_segments()]
    assert low_high == [pytest.approx([0.1, 0.4]), pytest.approx([0.6, 0.6])]


def test_each_evaluation_has_its_own_points(tmp_path):
    metrics = [{"step": 1, "eval/a/avg@1": 0.1, "eval/b/avg@8": 0.2}]
    assert len(drawn(metrics, tmp_path / "curve.png").axes[0].containers) == 2


def test_needs_no_screen_and_imports_matplotlib_late(tmp_path):
    code = (
        "import sys; from pathlib import Path; from areal.telemetry.plot import plot_curve\n"
        "assert 'matplotlib' not in sys.modules\n"
        f"plot_curve([], Path({str(tmp_path / 'c.png')!r}), 't')\n"
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={"MPLCONFIGDIR": str(tmp_path)})
