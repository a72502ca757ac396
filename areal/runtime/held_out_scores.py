"""Held-out accuracy over the course of a run: before, during and after training."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from areal.evaluation.report import Report
from areal.runtime.held_out import evaluation_metrics
from areal.telemetry.scores import best_of, scores_of
from areal.waiting import Watch

if TYPE_CHECKING:
    from areal.runtime.recording import Records


@dataclass(eq=False)
class HeldOutScores:
    """Measures held-out accuracy before, during and after training, and records it.

    Attributes:
        measure: evaluates the engine's weights, given their name; None: nothing is measured.
        env: the environment's name in metrics.
        records: the run directory and the display.
        watch: the run's waits; an evaluation that fails ends any of them.
        before: the report from before the first update, if there is one.
        after: the report from after the last update, if there is one.
        scores: the score after each update that was evaluated.
    """

    measure: Callable[[str], Awaitable[Report]] | None
    env: str
    records: Records
    watch: Watch
    before: Report | None = None
    after: Report | None = None
    scores: dict[int, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._unfinished: set[int] = set()
        self._in_flight: list[asyncio.Future[Report | None]] = []

    def go_on(self, past: list[dict[str, Any]]) -> None:
        """Continue a run that has these metrics."""
        self.scores = scores_of(past)
        self.before = self._known(0)

    async def measure_before(self) -> None:
        """Measure the initial model, unless that was done before the run was resumed."""
        self.before = self.before or await self._wait(self._evaluate(0, "before training"))

    def begin(self, version: int) -> None:
        """Measure the weights of an update while training continues."""
        self._unfinished.add(version)
        self._in_flight.append(self.watch.add(self._evaluate(version, "during training")))

    def has_begun(self, version: int) -> bool:
        """Return whether the weights of an update have been measured, or are being measured."""
        return version in self.scores or version in self._unfinished

    async def finish(self) -> None:
        """Wait for all evaluations in progress."""
        for evaluation in self._in_flight:
            await self._wait(evaluation)

    async def _wait(self, evaluation: Awaitable[Report | None]) -> Report | None:
        return await self.watch.wait(evaluation, "the run", "the evaluation")

    async def drop(self) -> None:
        """Cancel the evaluations in progress."""
        await self.watch.drop(*self._in_flight)

    async def measure_after(self, version: int) -> None:
        """Measure the final model, unless that was done before the run was resumed."""
        self.after = self._known(version) or await self._wait(self._evaluate(version, "after training"))

    def wanted(self) -> frozenset[int]:
        """Return the versions whose checkpoints must be kept: the best one, and those that may become it."""
        best = best_of(self.scores)
        return frozenset(self._unfinished if best is None else self._unfinished | {best})

    def _known(self, version: int) -> Report | None:
        found = self.records.directory.read_report(version)
        return None if found is None else Report.from_json(found)

    async def _evaluate(self, version: int, when: str) -> Report | None:
        if self.measure is None:
            return None
        self.records.progress.status(f"evaluating {when}")
        report = await self.measure(f"version {version}")
        metrics = {"step": version, **evaluation_metrics(report, self.env)}
        self.records.directory.write_report(version, report.to_json())
        self.records.log(metrics)
        self._unfinished.discard(version)
        self.scores |= scores_of([metrics])
        low, high = report.interval
        failures = report.failure_summary()
        self.records.progress.message(
            f"held-out {report.measure} {when}: {report.accuracy:.3f} (95% interval {low:.3f} to {high:.3f})"
            + (f"; {failures}" if failures else "")
        )
        return report
