"""Restores the learner after one of its processes is lost, while engines and episodes continue.

All ranks are restarted, on their devices, or on others if a host is gone. They load the last complete
checkpoint, or begin with the model of the run, and repeat the updates since then from their recorded batches
(:mod:`areal.runtime.redo`). The engines connect again and load the version that they had, or the one that
they were about to load. On a GPU, the sums of a repeated update differ in their last digits; with this load,
engines sample exactly what is trained.

The learner is then after the same update as before. Admission, buffer and episodes in flight are not
affected: their versions keep their meaning, no group is trained twice, and staleness ≤ η holds.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from areal.errors import LearnerLost, UserError
from areal.runtime import checkpoint
from areal.runtime.checkpoint_writer import CheckpointWriter, load_checkpoint
from areal.runtime.learner_rank import LearnerRank
from areal.runtime.redo import redo
from areal.runtime.replay import TOLERANCE
from areal.runtime.start import make_anew

if TYPE_CHECKING:
    from areal.runtime.recording import Records
    from areal.runtime.restarts import Restarts
    from areal.runtime.weight_sync import WeightSync

PART = "learner"


@dataclass(eq=False)
class LearnerRecovery:
    """Restarts the learner of a run.

    Attributes:
        sync: connects the engines and loads their weights. Its learner stays the same object when the ranks
            are restarted.
        checkpoints: begins the owed checkpoint again, at its update, and knows how to copy one.
        records: the run directory and the display.
        restarts: counts restarts, within the budget.
    """

    sync: WeightSync
    checkpoints: CheckpointWriter
    records: Records
    restarts: Restarts

    def accept(self, loss: LearnerLost, version: int) -> None:
        """Record a loss, and tell the user what is done about it.

        Args:
            version: the last finished update.

        Raises:
            LearnerLost: the budget of restarts is exhausted; the message explains the first loss.
            Exception: an error of one rank, which is not a loss, ended the learner.
        """
        if self.sync.learner.error is not None:
            raise self.sync.learner.error
        self.records.directory.log_event("lost", part=PART, cause=str(loss))
        self.restarts.allow("the learner", loss)
        self.records.warn_of(f"{loss}; the learner restarts and continues after update {version}")

    async def bring_back(self, version: int) -> None:
        """Restart the learner, restore its state, and let the engines load its weights.

        Args:
            version: the last finished update, whose batch is recorded.

        Raises:
            LearnerLost: the learner was lost again.
            UserError: a recorded batch is damaged, or the model has changed.
        """
        begun = time.monotonic()
        async with self.sync.between_loads():  # engines that join or leave wait
            await self.sync.engine.connect([])  # else engines keep memory of the lost learner
            await make_anew(self.sync.learner)
            loaded = await self._load()
            owed = self.checkpoints.owed
            if owed is not None and loaded < owed:
                await self._redo(loaded, owed)
                await self.checkpoints.begin_again()
            await self._redo(loaded if owed is None else max(loaded, owed), version)
            again, seconds = version - loaded, time.monotonic() - begun
            # Before the loads, because on a GPU this version has different bits from now on.
            self.records.directory.log_event(
                "restarted", part=PART, seconds=seconds, version=version, redone=again
            )
            await self.sync.start(version)
        self.records.progress.message(
            f"the learner is back at update {version} after {time.monotonic() - begun:.0f} s; it repeated "
            f"{again} update{'s' * (again != 1)} from recorded batches"
        )

    async def _redo(self, loaded: int, version: int) -> None:
        """Repeat the updates after ``loaded``, up to ``version``."""
        show = self.records.progress.status
        redone = await redo(self.sync.learner, self.records.directory, loaded + 1, version, show)
        if redone.version < version:
            raise UserError(f"cannot restore the learner to update {version}: {redone.damage}")
        if redone.difference > TOLERANCE:
            self.records.warn_of(f"repeated updates have different losses, by up to {redone.difference:.1e}")

    async def _load(self) -> int:
        """Load the newest checkpoint that is not damaged, if there is one; return its number of updates."""
        directory = self.records.directory
        for saved in reversed(checkpoint.versions(directory.checkpoints).values()):
            if not (what := await asyncio.to_thread(checkpoint.damage, saved)):
                return await load_checkpoint(self.sync.learner, saved, self.checkpoints.gathering)
            update = checkpoint.version_of(saved)
            self.records.warn_of(
                f"the checkpoint of update {update} is damaged ({what}); the learner uses the previous one"
            )
            checkpoint.set_aside(saved)
        if await self.sync.learner.call(LearnerRank.hash_weights) != directory.starts()[0]["weights"]:
            raise UserError(
                "cannot restore the learner: there is no checkpoint yet, and the weights of the initial "
                "model have changed since the run began"
            )
        return 0
