"""Learners whose disk is slow, or fails; they are made in processes of their own."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from areal.learner.learner import Learner
from areal.runtime.checkpoint import Checkpoints, Staged
from areal.runtime.processes import Recipe

MOVED = "moved"
"""In the run's folder, a file for which the slow disk waits."""


class SlowDisk(Recipe):
    """The checkpoint of update 2 is not written before the learner has gone on."""

    def make(self) -> tuple[Learner, Checkpoints]:
        learner, checkpoints = Recipe.make(self)
        write, moved = checkpoints.write, self.checkpoints.parent / MOVED

        def slow(staged: Staged, *others: Any) -> Path:
            deadline = time.monotonic() + 60
            while staged.version == 2 and not moved.exists():
                assert time.monotonic() < deadline, "the learner waited for the disk"
                time.sleep(0.01)
            return write(staged, *others)

        checkpoints.write = slow  # type: ignore[method-assign]
        return learner, checkpoints


class FailsOnce(Recipe):
    """The first checkpoint cannot be written."""

    def make(self) -> tuple[Learner, Checkpoints]:
        learner, checkpoints = Recipe.make(self)
        write, failed = checkpoints.write, list[int]()

        def fail_once(staged: Staged, *others: Any) -> Path:
            if not failed:
                failed.append(staged.version)
                raise PermissionError("somebody took the folder away")
            return write(staged, *others)

        checkpoints.write = fail_once  # type: ignore[method-assign]
        return learner, checkpoints
