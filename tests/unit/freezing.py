"""Ranks of a learner that freeze; their processes import them from here."""

from __future__ import annotations

import os
import signal
import threading

from areal.runtime.learner_rank import LearnerRank
from areal.trajectory import Batch


class Stopped(LearnerRank):
    """Is stopped by a signal in its third update."""

    def update(self, batch: Batch) -> dict[str, float]:
        if batch.version == 2:
            os.kill(os.getpid(), signal.SIGSTOP)
        return super().update(batch)


def hang(rank: LearnerRank) -> None:
    """Never return, though the process is alive."""
    threading.Event().wait()
