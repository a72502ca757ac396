"""The results of training and evaluation."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from areal.config import Config

if TYPE_CHECKING:
    from areal.evaluation.report import Report


@dataclass(frozen=True, slots=True)
class Run:
    """The result of a training run.

    Attributes:
        path: the run directory.
        config: all settings.
        model: folder of the final model, in Hugging Face format.
        metrics: one dict for each line of ``metrics.jsonl``.
        before, after: held-out accuracy before and after training, if it was measured.
        warnings: the warnings of the run, one line each.
    """

    path: Path
    config: Config
    model: Path
    metrics: list[dict[str, Any]]
    before: Report | None
    after: Report | None
    warnings: list[str] = field(default_factory=list)

    @property
    def accuracy_before(self) -> float | None:
        """Held-out accuracy before training."""
        return self.before.accuracy if self.before else None

    @property
    def accuracy_after(self) -> float | None:
        """Held-out accuracy after training."""
        return self.after.accuracy if self.after else None


@dataclass(frozen=True, slots=True)
class Evaluation:
    """An evaluation whose responses were kept.

    Attributes:
        path: its folder, for ``areal eval rescore`` and ``areal eval compare``.
        reports: one report for each benchmark.
    """

    path: Path
    reports: list[Report]
