"""Weights & Biases: online, or with ``WANDB_MODE=offline`` in the run directory."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from areal.telemetry.trackers.interface import PROJECT, Consumed, Tracker


class Wandb(Tracker):
    """See :class:`areal.telemetry.trackers.interface.Tracker`."""

    def __init__(self, directory: Path) -> None:
        self.link = ""
        self._directory = directory

    def start(self, config: dict[str, Any], run_id: str | None, version: int) -> str:
        """Begin or resume a run; ``step`` is the axis of all its charts."""
        import wandb

        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT") or PROJECT,
            name=self._directory.name,
            id=run_id,
            resume=None if run_id is None else "allow",
            dir=self._directory,
            config=config,
            allow_val_change=True,  # a resumed run may have other settings
            reinit="create_new",  # an abandoned run of this process has not ended for W&B
            # areal.telemetry.logs controls the output.
            settings=wandb.Settings(console="off", silent=True),
        )
        # W&B's own steps never decrease, but those of repeated updates and of long evaluations do.
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")
        self.link = self._run.url or str(self._directory / "wandb")
        return self._run.id

    def log(self, step: int, metrics: dict[str, float]) -> None:
        """Log the metrics as a row."""
        self._run.log({**metrics, "step": step})

    def rollouts(self, consumed: Consumed) -> None:
        """Log the episodes as a table."""
        import wandb

        rows = consumed.sample()
        table = wandb.Table(columns=list(rows[0]), data=[list(row.values()) for row in rows])
        self._run.log({"rollouts": table, "step": consumed.step})

    def finish(self, succeeded: bool) -> None:
        """Wait for the upload."""
        self._run.finish(exit_code=0 if succeeded else 1)
