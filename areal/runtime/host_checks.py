"""What each host of a run has to have before anything heavy starts: areal, the model, the run directory."""

from __future__ import annotations

import importlib
import time
from pathlib import Path

from areal.errors import UserError
from areal.runtime.plan import Plan

_DELAY = 15.0
"""Seconds after which all hosts of a shared folder see a new file."""


def check_hosts(plan: Plan, run_directory: Path) -> None:
    """Check that the hosts of a cluster have what this one has.

    Args:
        plan: of the run.
        run_directory: has a configuration in it; all ranks of the learner write checkpoints there.

    Raises:
        UserError: a host has not; the message says which one and what.
    """
    if plan.cluster is None:
        return
    own, ranks = _version(), {rank.host for rank in plan.placement.ranks}
    for host in sorted(ranks | {engine.host for engine in plan.placement.engines}):
        if (version := plan.cluster.run(host, _version)) != own:
            raise UserError(f"host {host} has areal {version}, this one has {own}: install the same on all")
        wanted = [run_directory / "config.yaml"] if host in ranks else []
        if (folder := Path(plan.model)).is_dir():  # else it is a name on the hub
            wanted.append(folder)
        for path in wanted:
            if not plan.cluster.run(host, _appears, str(path.absolute())):
                raise UserError(
                    f"host {host} does not have {path.absolute()}: put it on a folder that all hosts share, "
                    "under the same name (output=FOLDER for runs)"
                )


def _version() -> str:
    return importlib.import_module("areal").__version__  # which imports us, by its functions


def _appears(path: str) -> bool:
    deadline = time.monotonic() + _DELAY
    while not Path(path).exists() and time.monotonic() < deadline:
        time.sleep(0.5)
    return Path(path).exists()
