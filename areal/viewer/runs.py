"""Finds the runs below a folder, with their descriptions and their progress."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from areal.config import load_config
from areal.errors import UserError
from areal.telemetry.run_directory import CONFIG, METRICS, parsed
from areal.telemetry.scores import finite, score_of
from areal.telemetry.status import read_status


@dataclass(frozen=True, slots=True)
class RunSummary:
    """A run.

    Attributes:
        path: its folder.
        started: time of its last start or resumption, in seconds since the epoch.
        state: ``running``, ``suspended``, ``finished``, ``stopped``, ``failed``, ``killed``; empty: unknown.
        ended: how it ended, in its own words.
        step: number of finished updates.
        steps: total number of updates.
        reward: mean reward of the last update; None: there is none yet.
        accuracy: the last held-out score; None: there is none.
        scored: the update after which it was measured; 0: before training.
        env, model: its environment and its model.
        error: why other data are missing; empty: nothing is wrong.
    """

    path: Path
    started: float
    state: str = ""
    ended: str = ""
    step: int = 0
    steps: int = 0
    reward: float | None = None
    accuracy: float | None = None
    scored: int | None = None
    env: str = ""
    model: str = ""
    error: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        return {**asdict(self), "path": str(self.path)}


def find_runs(folder: Path) -> list[RunSummary]:
    """Return the runs in a folder, the most recently started one last.

    Raises:
        UserError: the folder cannot be read.
    """
    try:
        found = [path for path in folder.iterdir() if not path.is_symlink() and (path / CONFIG).is_file()]
    except OSError as error:
        raise UserError(f"cannot read the folder {folder}: {error.strerror}") from error
    return sorted(map(summary_of, found), key=lambda run: run.started)


def summary_of(path: Path) -> RunSummary:
    """Return the summary of a run from its directory."""
    started = (path / CONFIG).stat().st_mtime
    try:
        config = load_config(path / CONFIG)
    except UserError as error:
        return RunSummary(path, started, error=str(error))
    last = last_lines(path / METRICS)
    return RunSummary(
        path,
        started,
        *_state(path),
        int(finite(last[0], "step") or 0),
        config.steps,
        finite(last[0], "reward/mean"),
        score_of(last[1]),
        None if (scored := finite(last[1], "step")) is None else int(scored),
        config.env,
        config.model,
    )


def last_lines(metrics: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the last line of an update, and the last one with a held-out score; empty if there is none."""
    data = metrics.read_bytes() if metrics.exists() else b""
    scored = (line for line in _lines_with(data, b'"eval/') if score_of(line) is not None)
    return next(_lines_with(data, b'"reward/mean"'), {}), next(scored, {})


def _lines_with(data: bytes, word: bytes) -> Iterator[dict[str, Any]]:
    """Yield the lines that contain a word, the last one first; most lines need not be extracted or parsed."""
    end = len(data)
    while (place := data.rfind(word, 0, end)) >= 0:
        begin = data.rfind(b"\n", 0, place) + 1
        after = data.find(b"\n", place)
        if line := parsed(data[begin : after if after >= 0 else len(data)]):
            yield line
        end = begin


def _state(path: Path) -> tuple[str, str]:
    """Return a run's state and how it ended."""
    try:
        status = read_status(path)
    except UserError:  # it has just begun, or is from an old version of areal
        return "", ""
    state, ended = str(status["state"]), str(status["ended"])
    if state == "ended":
        state = next((word for word in ("finished", "stopped") if ended.startswith(word)), "failed")
    return "killed" if state == "lost" else state, ended
