"""MLflow, at ``MLFLOW_TRACKING_URI`` or at MLflow's default location."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from areal.telemetry.trackers.interface import PROJECT, Consumed, Tracker

_PARAMETERS = 100
"""Maximum number of settings that the server accepts at once."""
_LONGEST = 6000
"""Maximum characters of a setting that the server accepts."""


class Mlflow(Tracker):
    """See :class:`areal.telemetry.trackers.interface.Tracker`."""

    def __init__(self, directory: Path) -> None:
        self.link = ""
        self._name = directory.name

    def start(self, config: dict[str, Any], run_id: str | None, version: int) -> str:
        """Begin or resume a run: its settings stay, and ``config.json`` contains the current ones."""
        from mlflow import MlflowClient
        from mlflow.entities import Param

        self._client = client = MlflowClient()
        if run_id is None:
            name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or PROJECT
            known = client.get_experiment_by_name(name)
            experiment = client.create_experiment(name) if known is None else known.experiment_id
            self._run_id = client.create_run(experiment, run_name=self._name).info.run_id
            settings = [Param(key, str(value)[:_LONGEST]) for key, value in _flat(config)]
            for begin in range(0, len(settings), _PARAMETERS):
                client.log_batch(self._run_id, params=settings[begin : begin + _PARAMETERS])
        else:
            self._run_id = run_id
            client.update_run(run_id, status="RUNNING")
            experiment = client.get_run(run_id).info.experiment_id
        client.log_dict(self._run_id, config, "config.json")
        place = client.tracking_uri
        of_run = f"/#/experiments/{experiment}/runs/{self._run_id}"
        self.link = place.rstrip("/") + of_run if place.startswith("http") else place
        return self._run_id

    def log(self, step: int, metrics: dict[str, float]) -> None:
        """Log the metrics; characters that MLflow does not allow, such as ``@``, become ``_``."""
        from mlflow.entities import Metric

        now = int(1000 * time.time())
        values = [
            Metric(re.sub(r"[^\w\-. /]", "_", name), value, now, step) for name, value in metrics.items()
        ]
        self._client.log_batch(self._run_id, metrics=values)

    def rollouts(self, consumed: Consumed) -> None:
        """Save the episodes as an artifact."""
        text = json.dumps(consumed.sample(), indent=2, ensure_ascii=False)
        self._client.log_text(self._run_id, text, f"rollouts/step-{consumed.step:06d}.json")

    def finish(self, succeeded: bool) -> None:
        """Mark the run as finished, or failed."""
        self._client.set_terminated(self._run_id, "FINISHED" if succeeded else "FAILED")


def _flat(config: dict[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in config.items():
        name = re.sub(r"[^\w\-. /]", "_", f"{above}{key}")
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{name}.")
        else:
            yield name, value
