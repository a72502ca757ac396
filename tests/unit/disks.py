"""Learners whose disk is slow, or fails; they are made in processes of their own."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from areal.errors import DiskFull
from areal.runtime.learner_rank import LearnerRank

MOVED = "moved"
"""In the run's folder, a file for which the slow disk waits."""


class SlowDisk(LearnerRank):
    """The checkpoint of update 2 is not written before the learner has gone on."""

    async def write(self, wanted: frozenset[int] = frozenset()) -> Path:
        moved = self._setup.checkpoints.parent / MOVED
        deadline = time.monotonic() + 60
        while self._staged.version == 2 and not moved.exists():
            assert time.monotonic() < deadline, "the learner waited for the disk"
            await asyncio.sleep(0.01)
        return await super().write(wanted)


class FullOnce(LearnerRank):
    """The checkpoint of update 2 finds the disk full; the next ones find room."""

    async def write(self, wanted: frozenset[int] = frozenset()) -> Path:
        if self._staged.version == 2:
            raise DiskFull("no space left for a checkpoint in checkpoints; free some space")
        return await super().write(wanted)


class AlwaysFull(LearnerRank):
    """No checkpoint can be written."""

    async def write(self, wanted: frozenset[int] = frozenset()) -> Path:
        raise DiskFull("no space left for a checkpoint in checkpoints; free some space")


class FailsOnce(LearnerRank):
    """The first checkpoint cannot be written."""

    failed = False

    async def write(self, wanted: frozenset[int] = frozenset()) -> Path:
        if not self.failed:
            self.failed = True
            raise PermissionError("somebody took the folder away")
        return await super().write(wanted)
