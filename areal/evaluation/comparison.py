"""Compares two evaluations on the problems that both have."""

from __future__ import annotations

import statistics
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from areal.errors import UserError
from areal.evaluation.estimators import Difference, difference
from areal.evaluation.report import markdown_table
from areal.evaluation.rescore import read_whole, response_files
from areal.evaluation.responses import Response
from areal.telemetry.tables import fitted

if TYPE_CHECKING:
    from rich.table import Table

SIGNIFICANT = 0.05
"""Significance level of p-values."""
_COLUMNS = ("benchmark", "problems", "A", "B", "B − A (95% interval)", "B better / worse", "p", "verdict")


@dataclass(frozen=True, slots=True)
class BenchmarkComparison:
    """One benchmark in two evaluations.

    Attributes:
        models: models of A and B.
        means: mean scores of A and B, on the problems that both have.
        scores: for each problem, the means of A and B.
        problems: the number of each problem in A and in B.
    """

    name: str
    models: tuple[str, str]
    means: tuple[float, float]
    scores: list[tuple[float, float]]
    problems: list[tuple[int, int]]
    found: Difference

    @property
    def verdict(self) -> str:
        """The conclusion from the p-value."""
        if self.found.p >= SIGNIFICANT:
            return "no significant difference"
        return "B is better" if self.found.mean > 0 else "A is better"

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        return {**asdict(self), "verdict": self.verdict}

    def row(self) -> tuple[str, ...]:
        """Return the cells of a table row."""
        (low, high), found = self.found.interval, self.found
        return (
            self.name,
            f"{len(self.scores):,}",
            f"{self.means[0]:.3f}",
            f"{self.means[1]:.3f}",
            f"{found.mean:+.3f} ({low:+.3f} to {high:+.3f})",
            f"{found.better} / {found.worse}",
            f"{found.p:.2g}",
            self.verdict,
        )


def compare(a: Path, b: Path) -> list[BenchmarkComparison]:
    """Compare each benchmark that two evaluations (folders, or files of responses) both have.

    Raises:
        UserError: one of them is not an evaluation or is not finished, or they have no problems in common.
    """
    ours, theirs = ({path.name: path for path in response_files(run)} for run in (a, b))
    pairs = [(ours[name], theirs[name]) for name in ours if name in theirs]
    if a.is_file() and b.is_file():
        pairs = [(a, b)]
    if not pairs:
        raise UserError(
            f"{a} and {b} have no benchmark in common ({', '.join(ours)}; {', '.join(theirs)}), so they "
            "cannot be compared"
        )
    return [compare_files(*pair) for pair in pairs]


def compare_files(a: Path, b: Path) -> BenchmarkComparison:
    """Compare two files of responses to the same problems; raises UserError as :func:`compare` does."""
    (header, responses), (other, others) = read_whole(a), read_whole(b)
    if (header.name, header.data) != (other.name, other.data):
        raise UserError(f"{a} and {b} have responses to different problems, so they cannot be compared")
    ours, theirs = _by_task(responses), _by_task(others)
    common = [task for task in ours if task in theirs]
    if not common:
        raise UserError(f"{a} and {b} have no problems in common, so they cannot be compared")
    first, second = [ours[task][1] for task in common], [theirs[task][1] for task in common]
    problems = [(ours[task][0], theirs[task][0]) for task in common]
    scores = [(statistics.fmean(x), statistics.fmean(y)) for x, y in zip(first, second, strict=True)]
    means = (statistics.fmean(x for x, _ in scores), statistics.fmean(y for _, y in scores))
    return BenchmarkComparison(
        header.name, (header.model, other.model), means, scores, problems, difference(first, second)
    )


def _by_task(responses: list[Response]) -> dict[str, tuple[int, list[float]]]:
    """Return the number and the scores of each problem, by its task."""
    found: dict[str, tuple[int, list[float]]] = {}
    for response in responses:
        found.setdefault(repr(response.task), (response.problem, []))[1].append(response.reward)
    return found


def tables(comparisons: list[BenchmarkComparison], width: int) -> list[Table]:
    """Return the comparisons as tables for a terminal of this width."""
    return fitted(_COLUMNS, [comparison.row() for comparison in comparisons], width)


def markdown(comparisons: list[BenchmarkComparison]) -> str:
    """Return the comparisons as a Markdown table."""
    return markdown_table(_COLUMNS, [comparison.row() for comparison in comparisons])
