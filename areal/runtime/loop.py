"""The asynchronous loop: generation never waits for the learner, and the learner only for its next batch.

Three things go on at once. The event loop keeps episodes going (areal.rollout). The learner makes updates in
processes of its own. New weights are loaded into the engine between two of its steps, while the learner has
begun its next batch. Staleness ≤ η holds by construction (areal.rollout.admission) and is checked again at
the point of consumption.

A step (:meth:`Trainer._step`) waits for four things, in this order:

1. *Its batch*: enough groups that may be taken now. Episodes that end unblock it; new ones begin as the
   version of the engine's weights rises.
2. *The update*: the learner's processes. Only a second Ctrl-C, which kills them, cuts it short.
3. *The load of the update before*, which the engine ends: the memory that it reads is then written anew. At
   η=0 the step waits for its own load, too.
4. *The checkpoint before*, where a new one is due: the disk.

Whatever fails in the background (generation, a load, a checkpoint, an evaluation, a process of the learner)
ends each of these waits but the second, and so does the user's wish to stop.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

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
    from areal.runtime.weight_sync import WeightSync
    from areal.waiting import Watch
    from areal.workers.group import WorkerGroup


class Trainer:
    """Trains a model with parts that somebody else has started (:mod:`areal.runtime.build`), and closes.

    Args:
        version: the number of updates that the learner has made.
        watch: what goes on in the background, of all parts.

    Attributes:
        version: the number of finished updates.
        hurried: whether the user asked twice to stop.
    """

    def __init__(
        self,
        config: Config,
        version: int,
        learner: WorkerGroup[LearnerRank],
        rollouts: RolloutController,
        sync: WeightSync,
        checkpoints: CheckpointWriter,
        held_out: HeldOutScores,
        recorder: StepRecorder,
        watch: Watch,
    ) -> None:
        self.config = config
        self.version = version
        self.learner = learner
        self.rollouts = rollouts
        self.sync = sync
        self.checkpoints = checkpoints
        self.held_out = held_out
        self.recorder = recorder
        self.records = recorder.records
        self.hurried = False
        self._watch = watch
        self._stop = asyncio.Event()
        self._main: asyncio.Task[None] | None = None
        self._updating = False

    def stop(self) -> None:
        """Stop in order: :meth:`run` ends the update that it makes, and writes a checkpoint."""
        self.records.progress.message(
            "stopping: a checkpoint is written first; a second Ctrl-C stops at once"
        )
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
            Interrupted: somebody called :meth:`stop` or :meth:`stop_at_once`. The message says how to go on.
        """
        self._main = asyncio.current_task()
        self._watch.add(self._learner_lost())
        self._watch.add(self._stopped())
        try:
            if self.version < self.config.steps:
                await self._train()
            # The model is there whatever becomes of its evaluation.
            await self.learner.call(LearnerRank.export, self.records.directory.path)
            self.records.progress.message(f"model: {self.records.directory.model}")
            await self.held_out.measure_after(self.version)
        except (Exception, asyncio.CancelledError) as error:
            if self.hurried:  # the error is a consequence of that, whatever it is
                raise Interrupted(f"stopped at once{self._way_on()}") from error
            if isinstance(error, Interrupted) and self._stop.is_set():
                done = f"stopped after {self.version} of {self.config.steps} updates"
                raise Interrupted(f"{done}; go on with {self._command}") from error
            raise
        finally:
            await self._watch.close()

    async def _train(self) -> None:
        generating: asyncio.Future[None] | None = None
        try:
            if self.version == 0:
                await self.held_out.measure_before()
            generating = self._watch.add(self.rollouts.run())
            self.recorder.start()
            while self.version < self.config.steps:
                await self._watch.check()  # where batches wait for the learner, no wait of ours would notice
                await self._step()
            await self.sync.finish()
            await self.held_out.finish()
        except BaseException as error:
            await self._close_after(error, generating)
            raise
        await self._close(generating)

    async def _step(self) -> None:
        """Wait for a batch, update on it, and send the new weights on their way."""
        groups = await self._watch.wait(self.rollouts.next_batch(self.version))
        self.recorder.batch_arrived()
        batch = Batch(self.version, groups)
        self._check_staleness(batch)
        self._updating = True
        metrics = await self.learner.call(LearnerRank.update, batch)
        self.version += 1
        self._updating = False
        sync: dict[str, float] = {}
        try:
            sync = await self.sync.publish(self.version)
        finally:  # an update that was made is recorded, also when the run is stopped just then
            self.recorder.record(batch, metrics, sync)
        self.recorder.check_mismatch(batch, metrics)
        evaluated = self._is_due(self.config.evaluation.every)
        if evaluated or self._is_due(self.config.checkpoint.every):  # the best model must be there afterwards
            await self.checkpoints.begin()
        if evaluated:
            self.held_out.begin(self.version)

    def _is_due(self, every: int) -> bool:
        version = self.version
        return every > 0 and version % every == 0 and version < self.config.steps

    def _check_staleness(self, batch: Batch) -> None:
        worst = max(batch.staleness)
        if worst > self.config.rollout.max_staleness:
            raise AssertionError(
                f"staleness {worst} at version {batch.version} exceeds "
                f"rollout.max_staleness={self.config.rollout.max_staleness}: a bug in areal, please report it"
            )

    async def _close(self, generating: asyncio.Future[None] | None) -> None:
        """End what goes on in the background, and write a last checkpoint."""
        if generating is not None:
            await self._watch.drop(generating)
        await self.held_out.drop()
        await self.sync.settle()
        try:
            await self.checkpoints.finish()
        finally:
            if not self._updating and not self.hurried:  # half an update is nothing to go on from
                await self.checkpoints.begin()
                await self.checkpoints.finish()

    async def _close_after(self, error: BaseException, generating: asyncio.Future[None] | None) -> None:
        """Do so after an error, which is the one to report; a second error is added to its line."""
        one_line = (UserError, WorkerLost)
        try:
            await self._close(generating)
        except one_line as second:
            if not isinstance(error, one_line):
                raise
            if str(second) != str(error):
                raise type(error)(f"{error}; besides, {second}") from error

    async def _learner_lost(self) -> None:
        """Wait for a process of the learner to end unasked; raises LearnerLost then."""
        raise LearnerLost(await asyncio.shield(self.learner.ended))

    async def _stopped(self) -> None:
        """Wait for the wish to stop; raises Interrupted then."""
        await self._stop.wait()
        raise Interrupted("stopped")

    @property
    def _command(self) -> str:
        return f"`areal train --resume {self.records.directory.path}`"

    def _way_on(self) -> str:
        kept = checkpoint.latest(self.records.directory.checkpoints)
        if kept is None:
            return ", before the first checkpoint"
        return f"; the last checkpoint is of update {checkpoint.version_of(kept)}; go on with {self._command}"
