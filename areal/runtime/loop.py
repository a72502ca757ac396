"""The asynchronous loop: generation never waits for the learner, and the learner only for its next batch.

Three activities run concurrently. The event loop keeps episodes going (areal.rollout). The learner makes
updates in its own processes. New weights are loaded into the engine between two of its steps, while the
learner begins its next batch. Staleness ≤ η holds by construction (areal.rollout.admission) and is checked
again at the point of consumption.

A step (:meth:`Trainer._step`) waits for four things, in this order:

1. *Its batch*: enough groups that may be taken now. Finished episodes unblock it; new ones begin as the
   version of the engine's weights rises.
2. *The update*: the learner's processes. Only a second Ctrl-C, which kills them, interrupts it.
3. *The load of the previous update*: the engine must finish it, because the memory that it reads is
   overwritten next. At η=0, the step also waits for its own load.
4. *The previous checkpoint*, if a new one is due: the disk.

Any background failure (generation, a load, a checkpoint, an evaluation) ends each of these waits except the
second, and so does a stop by the user.

A lost process of the learner ends none of them, as long as the budget of restarts lasts: everything that
waited for the learner waits until it is back (:mod:`areal.runtime.recovery`), and is then repeated. Earlier
work is not repeated: a batch in hand stays in hand, and a finished update is recorded.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from areal.config import Config
from areal.errors import Interrupted, LearnerLost, UserError, WorkerLost
from areal.runtime import checkpoint
from areal.runtime.learner_rank import LearnerRank
from areal.trajectory import Batch

if TYPE_CHECKING:
    from areal.rollout.controller import RolloutController
    from areal.runtime.checkpoint_writer import CheckpointWriter
    from areal.runtime.held_out_scores import HeldOutScores
    from areal.runtime.recording import StepRecorder
    from areal.runtime.recovery import LearnerRecovery
    from areal.runtime.weight_sync import WeightSync

T = TypeVar("T")


@dataclass(eq=False)
class Trainer:
    """Trains a model with parts that were started elsewhere (:mod:`areal.runtime.build`), and closes them.

    Attributes:
        config: the run's configuration.
        version: the number of updates that the learner has made.
        rollouts: keeps episodes going and provides batches.
        sync: brings the learner's weights to the engines.
        checkpoints: writes the run's checkpoints.
        held_out: measures held-out accuracy.
        recorder: records each update.
        recovery: restarts a lost learner.
        recovering: whether the learner is currently being restarted.
        hurried: whether the user has requested a stop twice.
    """

    config: Config
    version: int
    rollouts: RolloutController
    sync: WeightSync
    checkpoints: CheckpointWriter
    held_out: HeldOutScores
    recorder: StepRecorder
    recovery: LearnerRecovery
    recovering: bool = False
    hurried: bool = False

    def __post_init__(self) -> None:
        self.records, self.learner, self.watch = self.recorder.records, self.sync.learner, self.sync.watch
        self._stop = asyncio.Event()
        self._main: asyncio.Task[None] | None = None
        self._lost: asyncio.Future[None] | None = None
        self._batch: Batch | None = None  # the learner's next batch, once it is complete
        self._whole = True  # whether the learner is neither lost nor within an update

    def stop(self) -> None:
        """Stop gracefully: :meth:`run` finishes the current update and writes a checkpoint.

        While the learner is being restarted, no checkpoint is written, because the recorded batches suffice
        to resume.
        """
        first = (
            "the run does not wait for the learner"
            if self.recovering
            else "the run writes a checkpoint first"
        )
        self.records.progress.message(f"stopping: {first}; press Ctrl-C again to stop immediately")
        self._stop.set()

    def stop_at_once(self) -> None:
        """Stop without a checkpoint."""
        self.hurried = True
        self.learner.kill()
        if self._main is not None:
            self._main.cancel()

    async def run(self) -> None:
        """Train; leave the final model, the metrics and a checkpoint in the run directory.

        Raises:
            Interrupted: :meth:`stop` or :meth:`stop_at_once` was called. The message explains how to resume.
        """
        self._main = asyncio.current_task()
        self._lost = self.watch.add(self._learner_lost())
        self.watch.add(self._stopped())
        try:
            if self.version < self.config.steps:
                await self._train()
            # The model exists even if its evaluation or the learner fails.
            await self._surviving(self._export)
            await self.watch.drop(self._lost)
            self.records.progress.message(f"model: {self.records.directory.model}")
            await self.held_out.measure_after(self.version)
        except (Exception, asyncio.CancelledError) as error:  # it is raised, possibly with another message
            if self.hurried:  # any error is then a consequence of that
                raise Interrupted(self._way_on("stopped immediately")) from error
            if isinstance(error, Interrupted) and self._stop.is_set():
                raise Interrupted(self._way_on("stopped")) from error
            raise
        finally:
            await self.watch.close()
            with self.watch.waits.named("the end of the run", "the journal to be written"):
                await self.recorder.close()

    async def _train(self) -> None:
        generating: asyncio.Future[None] | None = None
        try:
            if self.version == 0:
                await self._surviving(self.held_out.measure_before)
            generating = self.watch.add(self.rollouts.run())
            self.recorder.start()
            await self._surviving(self._make_updates)
        except BaseException as error:
            await self._close_after(error, generating)
            raise
        await self._settle(generating)
        await self._surviving(self._save)

    async def _make_updates(self) -> None:
        """Make all remaining updates; wait for the loads and the evaluations of the last ones."""
        await self._begin_what_is_due()  # the run, or the learner, may have been lost before it was done
        while self.version < self.config.steps:
            await self.watch.check()  # if batches wait for the learner, no wait here would notice
            await self._step()
        await self.sync.finish()
        await self.held_out.finish()

    async def _step(self) -> None:
        """Wait for a batch, update on it, and begin to send the new weights."""
        if self._batch is None:
            batch_of = self.rollouts.next_batch(self.version)
            groups = await self.watch.wait(batch_of, "the learner", "a batch")
            self.recorder.batch_arrived()
            self._batch = Batch(self.version, groups)
            self._check_staleness(self._batch)
        self._whole = False
        with self.watch.waits.named("the run", "the learner's update"):
            metrics = await self.learner.call(LearnerRank.update, self._batch)
            values = await self.learner.call(LearnerRank.token_values)
        batch, self._batch = self._batch, None
        self.version += 1
        self._whole = True
        sync: dict[str, float] = {}
        try:
            sync = await self.sync.publish(self.version)
        finally:  # a finished update is recorded, even if the run is stopped at this moment
            with self.watch.waits.named("the run", "the batch to be written"):
                await self.recorder.record(batch, metrics, values, sync)
        self.recorder.check_mismatch(batch, metrics)
        await self._begin_what_is_due()

    async def _begin_what_is_due(self) -> None:
        """Begin the evaluation and the checkpoint that are due after this update."""
        evaluated = self._is_due(self.config.evaluation.every) and not self.held_out.has_begun(self.version)
        # An evaluated model may become the best one, which must exist afterwards.
        saved = evaluated or self._is_due(self.config.checkpoint.every)
        begun = {self.checkpoints.owed, *checkpoint.versions(self.records.directory.checkpoints)}
        if saved and self.version not in begun and self._batch is None:
            await self.checkpoints.begin(self.version)
        if evaluated:
            self.held_out.begin(self.version)

    def _is_due(self, every: int) -> bool:
        version = self.version
        return every > 0 and version % every == 0 and 0 < version < self.config.steps

    def _check_staleness(self, batch: Batch) -> None:
        worst = max(batch.staleness)
        if worst > self.config.rollout.max_staleness:
            raise AssertionError(
                f"staleness {worst} at version {batch.version} exceeds "
                f"rollout.max_staleness={self.config.rollout.max_staleness}; this is a bug in areal, please "
                "report it"
            )

    async def _surviving(self, work: Callable[[], Awaitable[T]]) -> T:
        """Do some work; if the learner is lost, restore it and repeat the work.

        Raises:
            LearnerLost: the learner was lost too often.
        """
        lost = False
        while True:
            try:
                if lost:
                    await self._recover()
                return await work()
            except LearnerLost as loss:
                self._whole, lost = False, True
                if self.hurried:  # we have killed it
                    raise
                await self._end_what_was_begun()
                self.recovery.accept(loss, self.version)

    async def _recover(self) -> None:
        """Bring the learner back to its previous state."""
        self.recovering = True
        try:
            back = self.recovery.bring_back(self.version)
            await self.watch.wait(back, "the run", "the learner to restart")
        finally:
            self.recovering = False
        self._lost = self.watch.add(self._learner_lost())
        self._whole = True

    async def _end_what_was_begun(self) -> None:
        """Wait for the load and the checkpoint that a lost learner has begun; they fail or finish."""
        if self._lost is not None:
            await self.watch.drop(self._lost)
        with self.watch.waits.named("the run", "the learner to finish its work"):
            await self.sync.settle()
            await self.checkpoints.settle()

    async def _export(self) -> None:
        with self.watch.waits.named("the run", "the learner to write the model"):
            await self.checkpoints.export(self.records.directory.path)

    async def _settle(self, generating: asyncio.Future[None] | None) -> None:
        """End all background work, except a checkpoint."""
        with self.watch.waits.named("the end of the run", "episodes and weight updates to end"):
            if generating is not None:
                await self.watch.drop(generating)
            await self.held_out.drop()
            await self.sync.settle()

    async def _save(self) -> None:
        """Write a last checkpoint after the previous one is written."""
        with self.watch.waits.named("the end of the run", "the checkpoint"):
            try:
                await self.checkpoints.finish()
            finally:
                # A run cannot resume from half an update, and no checkpoint would contain a batch in hand.
                if self._whole and self._batch is None and not self.hurried:
                    await self.checkpoints.write_last(self.version)

    async def _close_after(self, error: BaseException, generating: asyncio.Future[None] | None) -> None:
        """Do both after an error, which is the one to report; a second error is added to its message."""
        one_line = (UserError, WorkerLost)
        try:
            await self._settle(generating)
            await self._save()
        except one_line as second:
            if isinstance(error, Interrupted) and isinstance(second, LearnerLost):
                return  # the recorded batches suffice to resume
            if not isinstance(error, one_line):
                raise
            if str(second) != str(error):
                raise type(error)(f"{error}; in addition, {second}") from error

    async def _learner_lost(self) -> None:
        """Wait until a process of the learner ends unexpectedly; then raises LearnerLost."""
        raise LearnerLost(await asyncio.shield(self.learner.ended))

    async def _stopped(self) -> None:
        """Wait until the user stops the run; then raises Interrupted."""
        await self._stop.wait()
        raise Interrupted("stopped")

    def _way_on(self, stopped: str) -> str:
        done = f"{stopped} after {self.version} of {self.config.steps} updates"
        return f"{done}; resume with `areal train --resume {self.records.directory.path}`"
