"""Has the learner write checkpoints while training goes on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from areal.runtime import checkpoint
from areal.runtime.learner_rank import LearnerRank
from areal.waiting import Watch

if TYPE_CHECKING:
    from areal.rollout.admission import Admission
    from areal.trajectory import Group
    from areal.workers.group import WorkerGroup


class CheckpointWriter:
    """Writes one checkpoint at a time. The learner waits for a copy of its state, and not for the disk.

    Args:
        learner: it holds the weights and writes the files.
        admission: the groups of the rollout side, finished ones and those in flight.
        wanted: returns the versions of older checkpoints that must stay.
        watch: of the run; a checkpoint that cannot be written ends any of its waits.
    """

    def __init__(
        self,
        learner: WorkerGroup[LearnerRank],
        admission: Admission[Group],
        wanted: Callable[[], frozenset[int]],
        watch: Watch,
    ) -> None:
        self.admission = admission
        self._learner = learner
        self._wanted = wanted
        self._watch = watch
        self._writing: asyncio.Future[Path] | None = None

    async def begin(self) -> None:
        """Begin a checkpoint, as soon as the last one is written."""
        if self._writing is not None:
            await self._watch.wait(self._writing)
        # One moment for all of it: the event loop does nothing else while the next line runs.
        state, groups = checkpoint.snapshot(self.admission)
        await self._learner.call(LearnerRank.stage, state, groups)
        self._writing = self._watch.add(self._learner.call(LearnerRank.write, self._wanted()))

    async def finish(self) -> None:
        """Wait until the checkpoint that was begun is written, if there is one, also past other failures."""
        writing, self._writing = self._writing, None
        if writing is not None:
            await writing
