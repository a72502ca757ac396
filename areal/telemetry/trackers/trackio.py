"""Trackio: local, or on the Space or the server in its environment variables."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from areal.telemetry.trackers.interface import PROJECT, Consumed, Tracker


class Trackio(Tracker):
    """See :class:`areal.telemetry.trackers.interface.Tracker`."""

    def __init__(self, directory: Path) -> None:
        self.link = ""
        self._name = directory.name

    def start(self, config: dict[str, Any], run_id: str | None, version: int) -> str:
        """Begin a run, or resume the one with this name."""
        import trackio
        from trackio.utils import TRACKIO_DIR

        self._run = trackio.init(
            PROJECT,
            name=run_id or self._name,
            config=config,
            resume="never" if run_id is None else "allow",
            embed=False,
        )
        self.link = self._run.url or f"{TRACKIO_DIR} (`trackio show --project {PROJECT}` shows it)"
        return self._run.name

    def log(self, step: int, metrics: dict[str, float]) -> None:
        """Log the metrics."""
        self._run.log(metrics, step=step)

    def rollouts(self, consumed: Consumed) -> None:
        """Log the episodes as a table."""
        import trackio

        rows = consumed.sample()
        table = trackio.Table(columns=list(rows[0]), data=[list(row.values()) for row in rows])
        self._run.log({"rollouts": table}, step=consumed.step)

    def finish(self, succeeded: bool) -> None:
        """Wait until everything is written or sent."""
        self._run.finish()
