"""The asynchronous loop: generation never waits for the learner, and the learner only for its next batch.

Three things go on at once. The event loop keeps episodes going (areal.rollout). The learner updates in a
process of its own. New weights are loaded into the engine between two of its steps, while the learner has
begun its next batch. Staleness ≤ η holds by construction (areal.rollout.admission) and is checked again at
the point of consumption.
"""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from areal.config import Config
from areal.errors import Interrupted, LearnerLost, UserError, WorkerLost
from areal.evaluation.report import Report
from areal.registry import env_label
from areal.rollout.admission import Admission
from areal.rollout.controller import EpisodeId, RolloutController
from areal.rollout.engine import Sampling
from areal.rollout.seeds import derive
from areal.rollout.tasks import TaskSource
from areal.runtime import checkpoint
from areal.runtime.accounting import StepAccount
from areal.runtime.build import start_rollout_worker, training_sampling
from areal.runtime.held_out import evaluate_held_out, evaluation_metrics
from areal.runtime.mismatch import MismatchWatch
from areal.runtime.plan import Plan, max_concurrent
from areal.runtime.processes import LearnerProcesses, Recipe
from areal.runtime.replay import describe_start
from areal.runtime.signals import abandoned_on_signal, on_signals
from areal.runtime.watch import Watch, cancel
from areal.telemetry.alarms import Alarm, Alarms
from areal.telemetry.progress import Progress
from areal.telemetry.run_directory import RunDirectory, read_metrics
from areal.telemetry.scores import best_of, scores_of
from areal.trajectory import Batch, Group
from areal.weights.interface import VLLM_BACKEND
from areal.weights.sender import together

log = logging.getLogger(__name__)

_EQUAL_BATCHES = 20
"""Batches of groups with equal rewards in a row, after which dynamic sampling gives up."""


class Trainer:
    """One training run; :meth:`run` does all of it.

    Args:
        plan: the checked configuration.
        directory: where everything is written.
        progress: where everything is shown.
        resume: a checkpoint folder to go on from.

    Attributes:
        before, after: held-out accuracy before the first update and after the last, if it was measured.
        alarms: what is wrong with the run.
        scores: held-out score after each update that was evaluated.
        begun: whether it got as far as to write to the run directory.
        hurried: whether it was told twice to stop.
    """

    def __init__(
        self, plan: Plan, directory: RunDirectory, progress: Progress, resume: Path | None = None
    ) -> None:
        self.plan = plan
        self.config: Config = plan.config
        self.directory = directory
        self.progress = progress
        self.before: Report | None = None
        self.after: Report | None = None
        self.begun = self.hurried = False
        self.alarms = Alarms()
        self.scores: dict[int, float] = {}
        self._resume = resume
        self._sound = True
        self._measured: set[int] = set()
        self._open = AsyncExitStack()
        self._stop = asyncio.Event()
        self._watch = Watch()
        self._mismatch = MismatchWatch(plan.config, plan.dtypes, plan.device)
        self._producing: asyncio.Future[None] | None = None
        self._loading: asyncio.Future[dict[str, float]] | None = None
        self._saving: asyncio.Future[Path] | None = None
        self._evaluations: list[asyncio.Future[Report | None]] = []

    async def run(self) -> None:
        """Train; leaves the final model, the metrics and a checkpoint in the run directory.

        Raises:
            Interrupted: Ctrl-C, SIGTERM or SIGHUP; a checkpoint is there to go on from.
        """
        self._main = asyncio.current_task()
        try:
            async with self._open:
                with abandoned_on_signal(self.progress.message):
                    await self._start()
                self._open.callback(on_signals(self._wind_up, self._hurry))
                if self.learner.version < self.config.steps:
                    await self._train()
                await self._finish()
        except (Exception, asyncio.CancelledError) as error:
            if self.hurried:  # whatever it is, it comes of that
                raise self._stopped_at_once() from error
            if isinstance(error, Interrupted) and self._stop.is_set():
                raise self._stopped_in_order() from error
            raise

    def _wind_up(self) -> None:
        self.progress.message("stopping: a checkpoint is written first; a second Ctrl-C stops at once")
        self._stop.set()

    def _hurry(self) -> None:
        self.hurried = True
        self._sound = False  # no checkpoint any more
        self.learner.kill()
        if self._main is not None:
            self._main.cancel()

    async def _start(self) -> None:
        for line in self.plan.summary:
            self.progress.message(line)
        self.progress.status("starting vLLM and the learner")
        config, plan = self.config, self.plan
        ranks = plan.placement.ranks
        gpus = tuple(rank.device.index for rank in ranks if rank.device is not None)
        recipe = Recipe(config, plan.model, plan.device, ranks[0].threads, self.directory.checkpoints, gpus)
        self.learner = LearnerProcesses(recipe)
        self._open.callback(self.learner.close)
        self._open.push_async_callback(self._watch.close)
        self._watch.add(self._learner_ended())
        self._watch.add(self._stopped())
        making = asyncio.ensure_future(self.learner.make())  # while the engine starts
        self._open.push_async_callback(cancel, making)
        self.rollout_worker = await start_rollout_worker(plan, VLLM_BACKEND)
        self._open.push_async_callback(self.rollout_worker.close)
        self.engine = self.rollout_worker.engine
        await making
        self.progress.message(f"learner: {self.learner.description}")
        state, groups = await self._restore()
        weights = await self.learner.hash_weights()
        await self.engine.connect(await self.learner.open_sender(plan.placement.backends))
        # Also where the engine has them already: a load that would not do shows before anything is trained.
        await self.learner.publish()
        await together(self.engine.load(self.learner.version), self.learner.send())
        self._build_rollouts(state, groups)
        if self._resume is not None:  # only now: a resumption that fails leaves the run as it was
            self.directory.go_on(config, self.learner.version)
            past = read_metrics(self.directory.path)
            self.progress.remember(past)
            self.alarms = Alarms(past)
            self.scores = scores_of(past)
            self.before = self._report(0)
        self.directory.log_start(
            describe_start(config, self.learner.version, weights, plan.device, ranks[0].threads)
        )
        self.begun = True

    async def _restore(self) -> tuple[dict[str, Any], list[Group]]:
        if self._resume is None:
            return {"next_group": 0, "in_flight": []}, []
        await self.learner.load(self._resume)
        return checkpoint.load_rollouts(self._resume)

    def _build_rollouts(self, state: dict[str, Any], groups: list[Group]) -> None:
        config, rollout = self.config, self.config.rollout
        self.admission: Admission[Group] = Admission(
            config.groups_per_batch, rollout.max_staleness, self.learner.version
        )
        checkpoint.recover(self.admission, state, groups)
        sampling = training_sampling(config)
        self.controller = RolloutController(
            self.admission,
            lambda task, episode_id: self.rollout_worker.run_episode(
                task, seeded(sampling, self.plan, episode_id)
            ),
            TaskSource(self.plan.env, config.seed).task,
            rollout.group_size,
            max_concurrent(config),
            rollout.max_retries,
            rollout.max_failures,
            max_equal=_EQUAL_BATCHES * config.groups_per_batch
            if config.learner.choices.dynamic_sampling
            else None,
        )

    async def _train(self) -> None:
        try:
            if self.learner.version == 0 and self.before is None:
                self.before = await self._watch.wait(self._evaluate(0, "before training"))
            self._producing = self._watch.add(self.controller.run())
            self._account = StepAccount(self.engine.busy_seconds, self.controller.finished_tokens)
            while self.learner.version < self.config.steps:
                await self._watch.check()  # where batches wait for the learner, no wait of ours would notice
                await self._step()
            for last in (self._loading, *self._evaluations):
                if last is not None:
                    await self._watch.wait(last)
        except BaseException as error:
            await self._keep_despite(error)
            raise
        await self._keep()

    async def _finish(self) -> None:
        """Leave the model, and then measure it: it is there whatever becomes of that."""
        await self.learner.export(self.directory.path)
        self.progress.message(f"model: {self.directory.model}")
        self.after = self._report(self.learner.version) or await self._watch.wait(
            self._evaluate(self.learner.version, "after training")
        )

    def _report(self, version: int) -> Report | None:
        """Return the report of an evaluation that is over, perhaps before the run was resumed."""
        found = self.directory.read_report(version)
        return None if found is None else Report.from_json(found)

    async def _keep(self) -> None:
        """End what goes on in the background, and write a last checkpoint."""
        producing = [] if self._producing is None else [self._producing]
        await self._watch.drop(*producing, *self._evaluations)
        if self._loading is not None:  # weights half-way into an engine that closes
            await asyncio.gather(self._loading, return_exceptions=True)  # what ends the run is known
        try:
            await self._saved()
        finally:
            if self._sound:  # an update that failed half-way is nothing to go on from
                await self._save()
                await self._saved()

    async def _keep_despite(self, error: BaseException) -> None:
        """Do so after an error, which is what to tell of, also if there is a second one."""
        try:
            await self._keep()
        except (UserError, WorkerLost) as lost:
            if not isinstance(error, UserError | WorkerLost):
                raise
            if str(lost) != str(error):
                raise type(error)(f"{error}; besides, {lost}") from error

    async def _step(self) -> None:
        """Wait for a batch, update on it, and send the new weights on their way."""
        groups = await self._watch.wait(self.controller.next_batch(self.learner.version))
        self._account.waited()
        batch = Batch(self.learner.version, groups)
        self._check_staleness(batch)
        self._sound = False
        metrics = await self.learner.update(batch)
        self._sound = True
        sync: dict[str, float] = {}
        try:
            sync = await self._publish()
        finally:  # an update that was made is recorded, also when the run is stopped just then
            metrics |= self._account.close(
                batch, metrics["time/train"], sync, self.engine.busy_seconds, self.controller.finished_tokens
            )
            metrics["rollout/retries"] = float(self.controller.retries)
            metrics["rollout/failures"] = float(self.controller.failures)
            metrics["rollout/punished"] = float(self.controller.punished)
            metrics["rollout/refused"] = float(self.rollout_worker.refused)
            if self.config.learner.choices.dynamic_sampling:
                metrics["rollout/equal_groups"] = float(self.controller.equal_groups)
            self._record(batch, metrics)
        sampled = sum(int(trajectory.loss_mask.sum()) for trajectory in batch.trajectories)
        if warning := self._mismatch.look(metrics, sampled):
            self.progress.message(warning)
        evaluated = self._is_due(self.config.evaluation.every)
        if evaluated or self._is_due(self.config.checkpoint.every):  # the best one can be had afterwards
            if self._saving is not None:
                await self._watch.wait(self._saving)
            await self._save()
        if evaluated:
            self._measured.add(self.learner.version)
            running = self._evaluate(self.learner.version, "during training")
            self._evaluations.append(self._watch.add(running))

    def _is_due(self, every: int) -> bool:
        version = self.learner.version
        return every > 0 and version % every == 0 and version < self.config.steps

    def _check_staleness(self, batch: Batch) -> None:
        worst = max(batch.staleness)
        if worst > self.config.rollout.max_staleness:
            raise AssertionError(
                f"staleness {worst} at version {batch.version} exceeds "
                f"rollout.max_staleness={self.config.rollout.max_staleness}: a bug in areal, please report it"
            )

    async def _publish(self) -> dict[str, float]:
        """Hand the learner's weights to the engine; return the metrics of the last hand-over that is over.

        The engine loads while the learner goes on: the memory is written again only after the load.
        """
        metrics: dict[str, float] = {}
        if self._loading is not None:
            metrics = await self._watch.wait(self._loading)
        await self.learner.publish()
        self._loading = self._watch.add(self._load(self.learner.version))
        if self.config.rollout.max_staleness == 0:
            metrics = await self._watch.wait(self._loading)
        return metrics

    async def _load(self, version: int) -> dict[str, float]:
        started = time.monotonic()
        metrics = await together(self.engine.load(version), self.learner.send())
        self.controller.advance(version)
        return {"time/sync": time.monotonic() - started, **metrics}

    def _record(self, batch: Batch, metrics: dict[str, float]) -> None:
        step = self.learner.version
        self._log({"step": step, **metrics})
        self.directory.log_rollouts(step, [group.to_json() for group in batch.groups])

    def _log(self, metrics: dict[str, Any]) -> None:
        self.directory.log_metrics(metrics)
        self.progress.update(metrics)
        self.warn(self.alarms.look(metrics))

    def warn(self, alarms: list[Alarm]) -> None:
        """Tell the user, and the log, what is wrong."""
        for alarm in alarms:
            self.progress.message(f"warning: {alarm.line}")
            log.warning("%s", alarm.line)

    async def _evaluate(self, version: int, when: str) -> Report | None:
        settings = self.config.evaluation
        if not settings.problems:
            return None
        self.progress.status(f"evaluating {when}")
        report = await evaluate_held_out(self.rollout_worker, self.plan, f"version {version}")
        metrics = {"step": version, **evaluation_metrics(report, env_label(self.config.env))}
        low, high = report.interval
        self.directory.write_report(version, report.to_json())
        self._log(metrics)
        self._measured.discard(version)
        self.scores |= scores_of([metrics])
        self.progress.message(
            f"held-out accuracy {when}: {report.accuracy:.3f} (95% interval {low:.3f} to {high:.3f})"
            + (f"; {failures}" if (failures := report.failure_summary()) else "")
        )
        return report

    async def _save(self) -> None:
        """Begin a checkpoint: the learner waits for a copy of it, and not for its way to the disk."""
        await self._saved()
        # One moment for all of it: the event loop does nothing else while this line runs.
        state, groups = checkpoint.snapshot(self.admission)
        await self.learner.stage(state, groups)
        best = best_of(self.scores)
        wanted = self._measured if best is None else self._measured | {best}
        self._saving = self._watch.add(self.learner.write(frozenset(wanted)))

    async def _saved(self) -> None:
        """Wait for the checkpoint that is being written, if any; raises what it failed of."""
        saving, self._saving = self._saving, None
        if saving is not None:
            await saving

    async def _learner_ended(self) -> None:
        """Wait for a process of the learner to end unasked.

        Raises:
            LearnerLost: one has.
        """
        ended: asyncio.Future[str] = asyncio.wrap_future(self.learner.ended)
        raise LearnerLost(await asyncio.shield(ended))

    async def _stopped(self) -> None:
        """Wait for a signal.

        Raises:
            Interrupted: there was one.
        """
        await self._stop.wait()
        raise Interrupted("stopped")

    def _stopped_in_order(self) -> Interrupted:
        """Say so at the end: an update that was in progress has been made meanwhile."""
        return Interrupted(
            f"stopped after {self.learner.version} of {self.config.steps} updates; go on with "
            f"`areal train --resume {self.directory.path}`"
        )

    def _stopped_at_once(self) -> Interrupted:
        kept = checkpoint.latest(self.directory.checkpoints)
        if kept is None:
            return Interrupted("stopped at once, before the first checkpoint")
        return Interrupted(
            f"stopped at once; the last checkpoint is of update {checkpoint.version_of(kept)}; go on with "
            f"`areal train --resume {self.directory.path}`"
        )


def seeded(sampling: Sampling, plan: Plan, episode_id: EpisodeId) -> Sampling:
    """Give an episode of a synchronous run on a CPU a seed of its own, so that the run can be had again.

    Where weights change while sequences are sampled, what is sampled depends on time, whatever the seed; on a
    GPU it depends on what is computed together. There the engine's own random state will do: it needs no
    generator for each request, which a GPU fills one by one.
    """
    if plan.config.rollout.max_staleness > 0 or plan.device == "cuda":
        return sampling
    return replace(sampling, seed=derive(plan.config.seed, *episode_id))
