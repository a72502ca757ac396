"""SwanLab: online, or with ``SWANLAB_MODE=offline`` in the run directory."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from areal.telemetry.trackers.interface import PROJECT, Consumed, Tracker, markdown


class Swanlab(Tracker):
    """See :class:`areal.telemetry.trackers.interface.Tracker`."""

    def __init__(self, directory: Path) -> None:
        self.link = str(directory / "swanlab")
        self._name = directory.name

    def start(self, config: dict[str, Any], run_id: str | None, version: int) -> str:
        """Begin or resume a run."""
        import swanlab

        self._run = swanlab.init(
            project=os.environ.get("SWANLAB_PROJ_NAME") or PROJECT,
            name=self._name,
            log_dir=self.link,
            id=run_id,
            resume="never" if run_id is None else "allow",
            config=config,
            reinit=True,  # an abandoned run of this process has not ended for SwanLab
            # Nobody can answer a prompt, and areal.telemetry.logs controls the output.
            settings=swanlab.Settings(
                interactive=False, terminal=swanlab.Settings.Terminal(proxy_type="none")
            ),
        )
        if self._run.mode == "online":
            self.link = self._run.url
        return self._run.id

    def log(self, step: int, metrics: dict[str, float]) -> None:
        """Log the metrics."""
        self._run.log(metrics, step=step)

    def rollouts(self, consumed: Consumed) -> None:
        """Log the episodes as text."""
        import swanlab

        self._run.log({"rollouts": swanlab.Text(markdown(consumed.sample()))}, step=consumed.step)

    def finish(self, succeeded: bool) -> None:
        """Wait for the upload."""
        if succeeded:
            self._run.finish()
        else:
            self._run.finish(state="crashed", error="the run was stopped, or failed")
