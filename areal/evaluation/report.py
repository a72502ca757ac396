"""The result of an evaluation, with its uncertainty."""

from __future__ import annotations

import json
import math
import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from areal.disk import one_line, write_whole
from areal.evaluation.estimators import mean_interval, pass_at_k
from areal.evaluation.responses import FAILED, Header, Response
from areal.rollout.engine import Sampling
from areal.thoughts import measured

if TYPE_CHECKING:
    from rich.table import Table


@dataclass(frozen=True)
class Report:
    """Scores of a model on the problems of a benchmark, or on the held-out problems of an environment.

    Attributes:
        scores: the reward of each response, by problem and sample.
        finishes: how each response ended.
        lengths: number of tokens of each response.
        seconds: duration of the evaluation; 0 if the responses were not all sampled in one run.
        settings: settings on which the scores depend.
        parts: mean of each named part of the reward.
        members: for a mixture, the numbers of the problems of each environment, from 0.
        source: source of the problems.
        of: total number of problems, if not all were used or could be judged.
        busy: share of ``seconds`` in which the engine generated; None for an endpoint.
        in_flight: mean number of concurrent responses.
        failure: the first failure of an agent or program.
        thoughts: length and ends of the thoughts; see :func:`areal.thoughts.measured`.

    Raises:
        ValueError: there are no problems, or the three tables have different shapes.
    """

    env: str
    model: str
    scores: list[list[float]]
    finishes: list[list[str]]
    lengths: list[list[int]]
    seconds: float
    settings: dict[str, Any] = field(default_factory=dict)
    parts: dict[str, float] = field(default_factory=dict)
    members: dict[str, list[int]] = field(default_factory=dict)
    benchmark: str = ""
    source: str = ""
    of: int | None = None
    busy: float | None = None
    in_flight: float | None = None
    failure: str = ""
    thoughts: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.scores:
            raise ValueError("a report needs at least one problem; there are no scores")
        shape = [len(self.scores[0])] * len(self.scores)
        if not shape[0]:
            raise ValueError("a report needs at least one response to each problem")
        for name in ("scores", "finishes", "lengths"):
            if [len(row) for row in getattr(self, name)] != shape:
                raise ValueError(f"{name} does not have {len(shape)} problems with {shape[0]} responses each")

    @property
    def problems(self) -> int:
        """Number of problems."""
        return len(self.scores)

    @property
    def samples(self) -> int:
        """Number of responses to each problem."""
        return len(self.scores[0])

    @property
    def accuracy(self) -> float:
        """Mean score: avg@k with k responses to each problem."""
        return statistics.fmean(_flat(self.scores))

    @property
    def measure(self) -> str:
        """What the mean score is: ``accuracy`` if each response is right or wrong, else ``mean reward``."""
        return "accuracy" if self._right_or_wrong else "mean reward"

    @property
    def _right_or_wrong(self) -> bool:
        return set(_flat(self.scores)) <= {0.0, 1.0}

    @property
    def interval(self) -> tuple[float, float]:
        """95 % confidence interval of :attr:`accuracy`, over problems; see :func:`mean_interval`."""
        return self._mean(range(self.problems))[1]

    @property
    def by_member(self) -> dict[str, tuple[float, tuple[float, float]]]:
        """For a mixture: accuracy and its interval on the problems of each environment."""
        return {name: self._mean(numbers) for name, numbers in self.members.items()}

    def _mean(self, problems: Iterable[int]) -> tuple[float, tuple[float, float]]:
        means = [statistics.fmean(self.scores[i]) for i in problems]
        return statistics.fmean(means), mean_interval(means, self._bounded)

    @property
    def passes(self) -> dict[int, tuple[float, tuple[float, float]]]:
        """pass@k and its interval for k = 1, 2, 4 … and all samples, if responses are correct or wrong."""
        if self.samples == 1 or not self._right_or_wrong:
            return {}
        sizes = sorted({self.samples, *(2**i for i in range(self.samples.bit_length()))})
        chances = {k: [pass_at_k(self.samples, round(sum(row)), k) for row in self.scores] for k in sizes}
        return {k: (statistics.fmean(row), mean_interval(row, True)) for k, row in chances.items()}

    @property
    def _bounded(self) -> bool:
        scores = _flat(self.scores)
        return min(scores) >= 0.0 and max(scores) <= 1.0

    @property
    def mean_length(self) -> float:
        """Mean number of tokens of a response."""
        return statistics.fmean(_flat(self.lengths))

    @property
    def finish_counts(self) -> dict[str, int]:
        """Number of responses for each way in which they ended, the most common first."""
        return dict(Counter(_flat(self.finishes)).most_common())

    @property
    def truncated(self) -> float:
        """Share of responses that a length limit ended."""
        return self.finish_counts.get("length", 0) / (self.problems * self.samples)

    @property
    def failed(self) -> int:
        """Number of responses that are wrong because the agent or its program failed."""
        return self.finish_counts.get(FAILED, 0)

    def failure_summary(self) -> str:
        """Return the number of failures, and the first of them; empty if there are none."""
        if not self.failed:
            return ""
        several = self.failed > 1
        summary = f"{self.failed} episode{'s' * several} failed, and count{'s' * (not several)} as wrong"
        return f"{summary}; the first: {self.failure}" if self.failure else summary

    @property
    def tokens_per_s(self) -> float:
        """Tokens generated per second."""
        return sum(_flat(self.lengths)) / self.seconds if self.seconds > 0 else 0.0

    def table(self) -> Table:
        """Return the report for the terminal."""
        from rich.table import Table
        from rich.text import Text

        table = Table(show_header=False)
        table.add_column(style="bold")
        table.add_column(overflow="fold")
        for name, value in self._rows():
            table.add_row(name, Text(value))  # Text, because rich might take parts of a name for markup
        return table

    def markdown(self) -> str:
        """Return the report as a Markdown table of one row."""
        names, values = zip(*self._rows(), strict=True)
        return markdown_table(names, [values])

    def to_json(self) -> dict[str, Any]:
        """Return plain data: all measurements, and the results that follow from them."""
        low, high = (bound if math.isfinite(bound) else None for bound in self.interval)
        return {
            **asdict(self),
            "accuracy": self.accuracy,
            "interval": [low, high],
            "passes": {k: [value, *interval] for k, (value, interval) in self.passes.items()},
            "problems": self.problems,
            "samples": self.samples,
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Report:
        """Read what :meth:`to_json` wrote."""
        return cls(**{f.name: data[f.name] for f in fields(cls) if f.name in data})

    def _rows(self) -> list[tuple[str, str]]:
        (low, high), asked = self.interval, f"{self.problems:,}"
        rows = [
            ("benchmark", self.benchmark),
            ("environment", self.env),
            ("model", self.model),
            ("problems", f"{asked} of {self.of:,}" if self.of not in (None, self.problems) else asked),
            ("samples", f"{self.samples}"),
            (self.measure, f"{self.accuracy:.3f} (95% interval {low:.3f} to {high:.3f})"),
            *(
                (f"pass@{k}", f"{value:.3f} (95% interval {low:.3f} to {high:.3f})")
                for k, (value, (low, high)) in self.passes.items()
                if k > 1
            ),
            ("by environment", _listed_members(self)),
            ("reward parts", _listed(self.parts, ".3f") if len(self.parts) > 1 else ""),
            ("mean length", f"{self.mean_length:.1f} tokens"),
            ("truncated", f"{self.truncated:.1%}"),
            ("finishes", _listed(self.finish_counts, "d")),
            ("thoughts", self._thoughts()),
            ("failed", self.failure_summary()),
            *self._speed(),
            ("source", self.source),
            ("settings", ", ".join(f"{name}={value}" for name, value in self.settings.items())),
        ]
        return [(name, value) for name, value in rows if value]

    def _thoughts(self) -> str:
        if not self.thoughts:
            return ""
        length, unended, cut = (self.thoughts[n] for n in ("thought", "thought_unended", "thought_cut"))
        return f"{length:.1f} tokens, {unended:.1%} without an end, {cut:.1%} ended by the budget"

    def _speed(self) -> list[tuple[str, str]]:
        if not self.seconds:
            return []
        return [
            ("seconds", f"{self.seconds:.1f}"),
            ("tokens/s", f"{self.tokens_per_s:,.0f}"),
            ("engine busy", "" if self.busy is None else f"{self.busy:.1%}"),
            ("in flight", "" if self.in_flight is None else f"{self.in_flight:.1f} responses on average"),
        ]


def _listed(values: dict[str, Any], form: str) -> str:
    return ", ".join(f"{name} {value:{form}}" for name, value in values.items())


def _listed_members(report: Report) -> str:
    return ", ".join(
        f"{name} {value:.3f} ({low:.3f} to {high:.3f}, {len(report.members[name]):,} problems)"
        for name, (value, (low, high)) in report.by_member.items()
    )


def _members(rows: list[list[Response]]) -> dict[str, list[int]]:
    names = sorted({response.env for row in rows for response in row} - {""})
    return {name: [i for i, row in enumerate(rows) if row[0].env == name] for name in names}


def _mean_parts(responses: list[Response]) -> dict[str, float]:
    names = dict.fromkeys(name for response in responses for name in response.parts)
    return {name: statistics.fmean(r.parts.get(name, 0.0) for r in responses) for name in names}


def report(responses: list[Response], samples: int, **known: Any) -> Report:
    """Create a report on all responses, by problem and sample; ``known`` has its other fields."""
    rows = [responses[i : i + samples] for i in range(0, len(responses), samples)]
    return Report(
        scores=[[r.reward for r in row] for row in rows],
        finishes=[[r.finish for r in row] for row in rows],
        failure=next((r.failure for r in responses if r.failure), ""),
        lengths=[[r.tokens for r in row] for row in rows],
        parts=_mean_parts(responses),
        members=_members(rows),
        thoughts=measured(thought for r in responses for thought in r.thoughts),
        **known,
    )


def conditions(
    sampling: dict[str, Any],
    env_options: dict[str, Any],
    agent: str,
    agent_options: dict[str, Any],
    chat: dict[str, Any],
) -> dict[str, Any]:
    """Return the settings on which an accuracy depends besides the model and the problems."""
    found = {**sampling, **env_options}
    if agent != "single-turn":
        found["agent"] = agent
    found |= {f"agent_options.{name}": value for name, value in agent_options.items()}
    opening = {f"chat.{name}": value for name, value in chat.items()}
    if examples := opening.pop("chat.examples", None):
        found["chat.examples"] = f"{len(examples)} messages"
    return found | opening


def sampling_settings(sampling: Sampling) -> dict[str, Any]:
    """Return the sampling settings in a report: temperature and length, and others that are not the
    default."""
    values = asdict(sampling)
    shown = {"temperature": values.pop("temperature"), "max_new_tokens": values.pop("max_tokens")}
    default = asdict(Sampling(sampling.max_tokens))
    return shown | {name: value for name, value in values.items() if value != default[name]}


def report_of(header: Header, responses: list[Response], **known: Any) -> Report:
    """Return the report on all responses of a file; ``known`` has its other fields."""
    given = {name: value for name, value in header.env_options.items() if name not in ("data", "test_data")}
    return report(
        responses,
        header.samples,
        env=header.env,
        model=header.model,
        settings=conditions(header.sampling, given, header.agent, header.agent_options, header.chat),
        benchmark=header.name if header.of is not None else "",
        source=header.source,
        of=header.of,
        **known,
    )


def write_reports(folder: Path, reports: list[Report]) -> None:
    """Write reports as ``report.json`` and ``report.md``."""
    with one_line(folder):
        write_whole(folder / "report.json", [json.dumps([report.to_json() for report in reports], indent=1)])
        write_whole(folder / "report.md", [markdown(reports)])


def markdown(reports: list[Report]) -> str:
    """Return reports as one Markdown table with the main results, and a table of each report."""
    measure = "accuracy" if all(r.measure == "accuracy" for r in reports) else "mean reward"
    names = ("benchmark", "problems", "samples", measure, "95% interval", "mean length", "truncated")
    rows = [
        (
            r.benchmark or r.env,
            f"{r.problems:,}",
            f"{r.samples}",
            f"{r.accuracy:.3f}",
            "{:.3f} to {:.3f}".format(*r.interval),
            f"{r.mean_length:.1f}",
            f"{r.truncated:.1%}",
        )
        for r in reports
    ]
    return "\n\n".join([markdown_table(names, rows), *(r.markdown() for r in reports)]) + "\n"


def markdown_table(names: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table."""
    return "\n".join(
        "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in row) + " |"
        for row in (names, ["---"] * len(names), *rows)
    )


def _flat(rows: list[list[Any]]) -> list[Any]:
    return [item for row in rows for item in row]
