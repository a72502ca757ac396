"""What a run writes down and shows: its metrics, the batches that it consumed, and warnings."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from areal.config import Config
from areal.runtime.accounting import StepAccount
from areal.telemetry.alarms import Alarm, Alarms
from areal.telemetry.run_directory import read_metrics

if TYPE_CHECKING:
    from areal.rollout.controller import RolloutController
    from areal.rollout.worker import RolloutWorker
    from areal.runtime.mismatch import MismatchWatch
    from areal.telemetry.progress import Progress
    from areal.telemetry.run_directory import RunDirectory
    from areal.trajectory import Batch

log = logging.getLogger(__name__)


class Records:
    """The run directory, the display and the alarms of a run: each gets every line of metrics."""

    def __init__(self, directory: RunDirectory, progress: Progress) -> None:
        self.directory = directory
        self.progress = progress
        self.alarms = Alarms()

    def go_on(self, config: Config, version: int) -> list[dict[str, Any]]:
        """Go on with a run after update ``version``; return the metrics of the run until then."""
        self.directory.go_on(config, version)
        past = read_metrics(self.directory.path)
        self.progress.remember(past)
        self.alarms = Alarms(past)
        return past

    def log(self, metrics: dict[str, Any]) -> None:
        """Write and show one line of metrics, and warn of what is wrong with the run now."""
        self.directory.log_metrics(metrics)
        self.progress.update(metrics)
        self.warn(self.alarms.look(metrics))

    def warn(self, alarms: list[Alarm]) -> None:
        """Show alarms to the user, and write them to the log."""
        for alarm in alarms:
            self.progress.message(f"warning: {alarm.line}")
            log.warning("%s", alarm.line)


class StepRecorder:
    """Records each update: where its time went, the batch that it consumed, and what came of it.

    Args:
        rollouts: for the counts of tokens and failures.
        mismatch: compares the log-probabilities of engine and learner.
    """

    def __init__(
        self, records: Records, rollouts: RolloutController, worker: RolloutWorker, mismatch: MismatchWatch
    ) -> None:
        self.records = records
        self._rollouts = rollouts
        self._worker = worker
        self._mismatch = mismatch

    def start(self) -> None:
        """Start the clock of the first step; each later one starts at the end of the one before it."""
        self._account = StepAccount(*self._generated())

    def batch_arrived(self) -> None:
        """The step has waited for its batch until now."""
        self._account.waited()

    def record(self, batch: Batch, metrics: dict[str, float], sync: dict[str, float]) -> None:
        """Record an update.

        Args:
            sync: of the last weight update that is over.
        """
        step = batch.version + 1
        account = self._account.close(batch, metrics["time/train"], sync, *self._generated())
        counts = {**self._rollouts.counts(), "rollout/refused": float(self._worker.refused)}
        self.records.log({"step": step, **metrics, **account, **counts})
        self.records.directory.log_rollouts(step, [group.to_json() for group in batch.groups])

    def check_mismatch(self, batch: Batch, metrics: dict[str, float]) -> None:
        """Check that the engine samples from the policy that is trained; raises UserError if it does not."""
        sampled = sum(int(trajectory.loss_mask.sum()) for trajectory in batch.trajectories)
        if warning := self._mismatch.look(metrics, sampled):
            self.records.progress.message(warning)

    def _generated(self) -> tuple[float, int]:
        """Busy seconds of the engine, and tokens of finished episodes, so far."""
        return self._worker.engine.busy_seconds, self._rollouts.finished_tokens
