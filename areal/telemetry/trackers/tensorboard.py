"""TensorBoard: event files in the run directory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from areal.telemetry.trackers.interface import Consumed, Tracker, markdown


class TensorBoard(Tracker):
    """Writes ``RUN/tensorboard``; see :class:`areal.telemetry.trackers.interface.Tracker`."""

    def __init__(self, directory: Path) -> None:
        self.link = str(directory / "tensorboard")
        self._name = directory.name

    def start(self, config: dict[str, Any], run_id: str | None, version: int) -> str:
        """Begin an event file; TensorBoard then ignores data of earlier files after ``version``."""
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(self.link, purge_step=None if run_id is None else version + 1)
        indented = json.dumps(config, indent=2, ensure_ascii=False).replace("\n", "\n    ")
        self._writer.add_text("config", f"    {indented}", version)
        return self._name

    def log(self, step: int, metrics: dict[str, float]) -> None:
        """Write each metric as a scalar."""
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def rollouts(self, consumed: Consumed) -> None:
        """Write the episodes as text."""
        self._writer.add_text("rollouts", markdown(consumed.sample()), consumed.step)

    def finish(self, succeeded: bool) -> None:
        """Close the file."""
        self._writer.close()
