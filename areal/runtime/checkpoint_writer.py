"""Lets the learner write checkpoints while training continues."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from areal.disk import one_line
from areal.errors import DiskFull, UserError, WorkerLost
from areal.runtime import checkpoint
from areal.runtime.learner_rank import LearnerRank
from areal.runtime.rollout_state import RolloutState, state_of
from areal.waiting import Watch

if TYPE_CHECKING:
    from areal.rollout.admission import Admission
    from areal.runtime.gathering import Gathering
    from areal.trajectory import Group
    from areal.workers.group import WorkerGroup


@dataclass(eq=False)
class CheckpointWriter:
    """Writes one checkpoint at a time. The learner waits for a copy of its state, but not for the disk.

    Attributes:
        learner: has the weights and writes the files.
        admission: the groups of the rollout side, finished and in flight.
        wanted: returns the versions of older checkpoints that must be kept.
        watch: the run's waits; a checkpoint that cannot be written ends any of them, unless the disk is full.
        notice: called with a line if the disk is full; the next checkpoint may have room again.
        keep: number of checkpoints to keep.
        gathering: copies checkpoints from hosts that do not share the run directory; None: all share it. It
            is replaced if the learner starts on other hosts.
        owed: the update whose checkpoint has begun and is not written; None: there is none.
    """

    learner: WorkerGroup[LearnerRank]
    admission: Admission[Group]
    wanted: Callable[[], frozenset[int]]
    watch: Watch
    notice: Callable[[str], None]
    keep: int
    gathering: Gathering | None = None
    owed: int | None = None

    def __post_init__(self) -> None:
        self._writing: asyncio.Future[None] | None = None
        self._state = RolloutState()

    async def begin(self, version: int) -> None:
        """Begin the checkpoint of an update, as soon as the last one is written."""
        if self._writing is not None:
            await self.watch.wait(self._writing, "the learner", "the previous checkpoint")
        self._take(version)
        await self.begin_again()

    async def begin_again(self) -> None:
        """Begin the owed checkpoint again. The learner must be at its version."""
        await self.learner.call(LearnerRank.stage, self._state)
        self._writing = self.watch.add(self._write())

    async def finish(self) -> None:
        """Wait until the current checkpoint is written, even if something else fails in the meantime."""
        writing, self._writing = self._writing, None
        if writing is not None:
            await writing

    async def settle(self) -> None:
        """Wait for the end of a checkpoint that a lost learner has begun, which has usually failed."""
        writing, self._writing = self._writing, None
        if writing is not None:
            await asyncio.wait([writing])
            await self.watch.drop(writing)
            with suppress(WorkerLost):
                writing.result()

    async def write_last(self, version: int) -> None:
        """Write the last checkpoint of a run.

        Raises:
            UserError: the disk cannot store it.
        """
        self._take(version)
        await self.learner.call(LearnerRank.stage, self._state)
        await self._write_staged()

    async def export(self, folder: Path) -> None:
        """Write the final model into the run directory.

        Raises:
            UserError: the disk cannot store it.
        """
        if self.gathering is None:
            await self.learner.call(LearnerRank.export, folder)
            return
        await asyncio.to_thread(self.gathering.clear)  # remains of a lost learner
        made = await asyncio.to_thread(self.gathering.make_export)
        await self.learner.call(LearnerRank.export, made)
        await asyncio.to_thread(self._settle_export, self.gathering, made)

    def _take(self, version: int) -> None:
        """Record the rollout side's state after an update, whose checkpoint is owed from now on."""
        self.owed, self._state = version, state_of(self.admission)

    async def _write(self) -> None:
        try:
            await self._write_staged()
        except DiskFull as full:
            self.owed = None
            self.notice(f"{full}; the run continues, and tries again at the next checkpoint")

    async def _write_staged(self) -> None:
        wanted, gathering = self.wanted(), self.gathering
        if gathering is not None:
            await asyncio.to_thread(gathering.clear)
        written = await self.learner.call(LearnerRank.write, wanted)
        if gathering is not None:
            await asyncio.to_thread(self._settle, gathering, written, wanted)
        self.owed = None

    def _settle(self, gathering: Gathering, partial: Path, wanted: frozenset[int]) -> None:
        with gathering.collected(partial, "a checkpoint"):
            if what := checkpoint.damage(partial):
                raise UserError(
                    f"a checkpoint was damaged in transfer from {', '.join(gathering.hosts)}: {what}"
                )
            checkpoint.settle(partial, self.keep, wanted)

    def _settle_export(self, gathering: Gathering, made: Path) -> None:
        with gathering.collected(made, "the model"):
            checkpoint.settle_export(made)


async def load_checkpoint(
    learner: WorkerGroup[LearnerRank], saved: Path, gathering: Gathering | None = None
) -> int:
    """Restore the learner from a checkpoint, and return the checkpoint's number of updates.

    Args:
        learner: the learner to restore.
        saved: the checkpoint.
        gathering: copies it to hosts that do not share the run directory; None: all share it.

    Raises:
        UserError: the checkpoint is gone.
    """
    with one_line(saved.parent):
        if gathering is None:
            return await learner.call(LearnerRank.load, saved)
        copy = await asyncio.to_thread(gathering.send, saved)
        try:
            return await learner.call(LearnerRank.load, saved, copy)
        finally:
            await asyncio.to_thread(gathering.drop, copy)
