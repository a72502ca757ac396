"""What an evaluation found, with how sure one can be of it.

Intervals treat problems as a sample from all the problems of the environment; several answers to one problem
are never counted as independent evidence.
"""

from __future__ import annotations

import math
import statistics
from collections import Counter
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table

_Z = 1.959963984540054  # the normal distribution's 97.5 % point


@dataclass(frozen=True)
class Report:
    """Scores of a model on an environment's held-out problems.

    Attributes:
        env: name of the environment.
        model: name of the model.
        scores: the reward of each answer, by problem and sample.
        finishes: how each answer ended.
        lengths: tokens of each answer.
        seconds: how long it took.
        settings: what else the figures depend on.
        parts: mean of each named part of the reward.

    Raises:
        ValueError: no problems, or the three tables differ in shape.
    """

    env: str
    model: str
    scores: list[list[float]]
    finishes: list[list[str]]
    lengths: list[list[int]]
    seconds: float
    settings: dict[str, Any] = field(default_factory=dict)
    parts: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.scores:
            raise ValueError("a report needs at least one problem; there are no scores")
        shape = [len(self.scores[0])] * len(self.scores)
        if not shape[0]:
            raise ValueError("a report needs at least one answer to each problem")
        for name in ("scores", "finishes", "lengths"):
            if [len(row) for row in getattr(self, name)] != shape:
                raise ValueError(f"{name} is not {len(shape)} problems with {shape[0]} answers each")

    @property
    def problems(self) -> int:
        """How many problems."""
        return len(self.scores)

    @property
    def samples(self) -> int:
        """How many answers to each problem."""
        return len(self.scores[0])

    @property
    def accuracy(self) -> float:
        """Mean score: avg@k with k answers to each problem."""
        return statistics.fmean(_flat(self.scores))

    @property
    def interval(self) -> tuple[float, float]:
        """95 % confidence interval of :attr:`accuracy`.

        Wilson's for one right-or-wrong answer to each problem, and where all problems came out alike, which a
        spread of zero would make certain; otherwise the normal one from the spread of the problems' means.
        One problem alone says nothing about the spread: its interval is then all that is possible.
        """
        scores = _flat(self.scores)
        binary = set(scores) <= {0.0, 1.0}
        if binary and (self.samples == 1 or self.accuracy in (0.0, 1.0)):
            return _wilson(self.accuracy, self.problems)
        half = math.inf
        if self.problems > 1:
            half = _Z * statistics.stdev(map(statistics.fmean, self.scores)) / math.sqrt(self.problems)
        low, high = self.accuracy - half, self.accuracy + half
        if min(scores) >= 0.0 and max(scores) <= 1.0:
            low, high = max(0.0, low), min(1.0, high)
        return low, high

    @property
    def mean_length(self) -> float:
        """Mean tokens of an answer."""
        return statistics.fmean(_flat(self.lengths))

    @property
    def finish_counts(self) -> dict[str, int]:
        """How many answers ended in which way, commonest first."""
        return dict(Counter(_flat(self.finishes)).most_common())

    @property
    def truncated(self) -> float:
        """Share of answers that a length limit ended."""
        return self.finish_counts.get("length", 0) / (self.problems * self.samples)

    @property
    def tokens_per_s(self) -> float:
        """Tokens generated in a second."""
        return sum(_flat(self.lengths)) / self.seconds if self.seconds > 0 else 0.0

    def table(self) -> Table:
        """The report for the terminal."""
        from rich.table import Table
        from rich.text import Text

        table = Table(show_header=False)
        table.add_column(style="bold")
        table.add_column(overflow="fold")
        for name, value in self._rows():
            table.add_row(name, Text(value))  # Text, because a name may hold what rich takes for markup
        return table

    def markdown(self) -> str:
        """The report as a Markdown table of one row."""
        names, values = zip(*self._rows(), strict=True)
        return "\n".join(
            "| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |"
            for row in (names, ["---"] * len(names), values)
        )

    def to_json(self) -> dict[str, Any]:
        """Plain data: all that was measured, and what follows from it."""
        low, high = (bound if math.isfinite(bound) else None for bound in self.interval)
        return {
            **asdict(self),
            "accuracy": self.accuracy,
            "interval": [low, high],
            "problems": self.problems,
            "samples": self.samples,
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Report:
        """Read what :meth:`to_json` wrote."""
        return cls(**{f.name: data[f.name] for f in fields(cls) if f.name in data})

    def _rows(self) -> list[tuple[str, str]]:
        low, high = self.interval
        rows = [
            ("environment", self.env),
            ("model", self.model),
            ("problems", f"{self.problems}"),
            ("samples", f"{self.samples}"),
            ("accuracy", f"{self.accuracy:.3f} (95% interval {low:.3f} to {high:.3f})"),
            ("mean length", f"{self.mean_length:.1f} tokens"),
            ("truncated", f"{self.truncated:.1%}"),
            ("finishes", ", ".join(f"{name} {count}" for name, count in self.finish_counts.items())),
            ("seconds", f"{self.seconds:.1f}"),
            ("tokens/s", f"{self.tokens_per_s:,.0f}"),
        ]
        if len(self.parts) > 1:
            rows.insert(
                5, ("parts of it", ", ".join(f"{name} {mean:.3f}" for name, mean in self.parts.items()))
            )
        if self.settings:
            rows.append(("settings", ", ".join(f"{name}={value}" for name, value in self.settings.items())))
        return rows


def _flat(rows: list[list[Any]]) -> list[Any]:
    return [item for row in rows for item in row]


def _wilson(share: float, n: int) -> tuple[float, float]:
    z2 = _Z * _Z
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = _Z / (1 + z2 / n) * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    # Rounding must not push a bound past the share itself at 0 and at 1.
    return max(0.0, min(centre - half, share)), min(1.0, max(centre + half, share))
