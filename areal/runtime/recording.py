"""Records and shows a run: its metrics, the batches that it consumed, and warnings."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from areal.config import Config
from areal.rollout.engines import Engines
from areal.runtime.accounting import StepAccount
from areal.telemetry.alarms import MISMATCH, Alarm, Alarms
from areal.telemetry.run_directory import read_metrics
from areal.telemetry.trackers.interface import Consumed
from areal.telemetry.trackers.tracking import Trackers
from areal.viewer.rollouts import Decode, decoder_of

if TYPE_CHECKING:
    from areal.rollout.controller import RolloutController
    from areal.rollout.worker import EpisodeRunner
    from areal.runtime.journal import Journal
    from areal.runtime.mismatch import MismatchWatch
    from areal.telemetry.progress import Progress
    from areal.telemetry.run_directory import RunDirectory
    from areal.trajectory import Batch, TokenValues

log = logging.getLogger(__name__)


class Records:
    """The run directory, display, alarms and trackers of a run, each of which gets every line of metrics."""

    def __init__(self, directory: RunDirectory, progress: Progress) -> None:
        self.directory = directory
        self.progress = progress
        self.alarms = Alarms()
        self.trackers = Trackers(directory.path, progress.message, self.warn_of)

    def go_on(self, config: Config, version: int) -> list[dict[str, Any]]:
        """Resume a run after update ``version``; return the run's metrics until then."""
        self.directory.go_on(config, version)
        past = read_metrics(self.directory.path)
        self.progress.remember(past)
        self.alarms = Alarms(past)
        return past

    def log(self, metrics: dict[str, Any]) -> None:
        """Write and show one line of metrics, and warn of problems that it reveals."""
        self.directory.log_metrics(metrics)
        self.progress.update(metrics)
        self.trackers.log(metrics)
        self.warn(self.alarms.look(metrics))

    def warn(self, alarms: list[Alarm]) -> None:
        """Show alarms to the user, and write them to the log."""
        for alarm in alarms:
            self.warn_of(alarm.line)

    def warn_of(self, line: str) -> None:
        """Show a warning to the user, and write it to the log."""
        self.progress.message(f"warning: {line}")
        log.warning("%s", line)


@dataclass(eq=False)
class StepRecorder:
    """Records each update: its metrics, where its time went, and the batch that it consumed.

    Attributes:
        records: the run directory, the display and the alarms.
        rollouts: counts tokens and failures.
        worker: runs the episodes, and knows how long the engines were busy.
        mismatch: compares the log-probabilities of the engine and the learner.
        journal: writes the batches.
    """

    records: Records
    rollouts: RolloutController
    worker: EpisodeRunner
    mismatch: MismatchWatch
    journal: Journal

    def start(self) -> None:
        """Start the clock of the first step. Each later step starts when the one before it ends."""
        self._account = StepAccount(*self._generated())

    def batch_arrived(self) -> None:
        """Count the time of the step until now as waiting for its batch."""
        self._account.waited()

    async def record(
        self,
        batch: Batch,
        metrics: dict[str, float],
        values: Sequence[TokenValues],
        sync: dict[str, float],
    ) -> None:
        """Record an update. Its batch counts as consumed once this returns.

        Args:
            batch: the batch of the update.
            metrics: the learner's metrics.
            values: its values for the tokens of a few rollouts.
            sync: the metrics of the last finished weight update.
        """
        step = batch.version + 1
        account = self._account.close(batch, metrics["time/train"], sync, *self._generated())
        tokens = {"rollout/tokens": float(self.rollouts.finished_tokens)}
        counts = {**self.rollouts.counts(), **self.worker.counts(), **tokens}
        if isinstance(engines := self.worker.engine, Engines):
            counts["engine/count"] = float(len(engines.engines))
        now, held = round(time.time(), 3), {"time/held": self.rollouts.held_seconds}
        self.records.log({"step": step, "time": now, **metrics, **account, **held, **counts})
        await self.journal.consume(step, batch.groups, values)
        self.records.trackers.rollouts(Consumed(step, batch.groups, lambda ids: self._decode(ids)))

    async def close(self) -> None:
        """Wait until everything is written."""
        await self.journal.close()

    def check_mismatch(self, batch: Batch, metrics: dict[str, float]) -> None:
        """Check that the engine samples from the trained policy; raises UserError if it does not."""
        sampled = sum(int(trajectory.loss_mask.sum()) for trajectory in batch.trajectories)
        if warning := self.mismatch.look(metrics, sampled):
            self.records.progress.message(warning)
            said = Alarm(MISMATCH, batch.version + 1, warning.removeprefix("warning: "))
            self.records.alarms.note(said)

    @cached_property
    def _decode(self) -> Decode:
        """Converts tokens to text; it is loaded on the thread of the first tracker that needs it."""
        return decoder_of(self.records.directory)

    def _generated(self) -> tuple[float, int]:
        """Return the engine's busy seconds and the tokens of finished episodes so far."""
        return self.worker.busy_seconds, self.rollouts.finished_tokens
