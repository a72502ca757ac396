"""Learners whose ranks die, freeze or fail; their processes import them from here."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

from areal.runtime.learner_rank import LearnerRank
from areal.runtime.rollout_state import RolloutState
from areal.trajectory import Batch

HANG = "hang"


def doom(run: Path, moment: str, how: str = "SIGKILL", rank: int = 0) -> None:
    """Let a rank of the run's learner get a signal at a moment, such as ``update 2``, or hang, once."""
    (run / f"doom {rank} {moment}").write_text(how)


class Mortal(LearnerRank):
    """Meets what :func:`doom` has ordered; the numbers are versions."""

    def make(self, port: int = 0) -> None:
        self._meet("make")
        super().make(port)

    def load(self, saved: Path, copy: Path | None = None) -> int:
        self._meet("load")
        return super().load(saved, copy)

    def update(self, batch: Batch) -> dict[str, float]:
        self._meet(f"update {batch.version}")
        metrics = super().update(batch)
        self._meet(f"updated {batch.version}")
        return metrics

    def publish(self) -> None:
        self._meet(f"publish {self._learner.version}")
        super().publish()

    async def send(self) -> str:
        self._meet(f"send {self._learner.version}")
        return await super().send()

    def stage(self, rollouts: RolloutState) -> None:
        self._meet(f"stage {self._learner.version}")
        super().stage(rollouts)

    async def write(self, wanted: frozenset[int] = frozenset()) -> Path:
        if self._order(f"write {self._staged.version}").exists():
            partial = self._setup.checkpoints / f".partial-step-{self._staged.version:06d}"
            partial.mkdir(parents=True)
            (partial / "state.json").write_text("{")
        self._meet(f"write {self._staged.version}")
        written = await super().write(wanted)
        self._meet(f"written {self._staged.version}")
        return written

    def export(self, folder: Path) -> None:
        self._meet("export")
        super().export(folder)

    def _order(self, moment: str) -> Path:
        return self._setup.checkpoints.parent / f"doom {self._rank} {moment}"

    def _meet(self, moment: str) -> None:
        if not (order := self._order(moment)).exists():
            return
        how = order.read_text()
        order.unlink()
        if how == HANG:
            threading.Event().wait()
        os.kill(os.getpid(), signal.Signals[how])


class Faulty(LearnerRank):
    """Its rank 1 fails alone in the second update."""

    def update(self, batch: Batch) -> dict[str, float]:
        if self._rank == 1 and batch.version == 1:
            raise FloatingPointError("a bug")
        return super().update(batch)
