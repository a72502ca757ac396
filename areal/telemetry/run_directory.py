"""The folder of a run: everything a run writes is in it, and no run ever writes over another.

- ``config.yaml``: the whole configuration;
- ``metrics.jsonl``: one line for each update and for each evaluation;
- ``starts.jsonl``: one line for each start or resumption: configuration, weights, threads, version of torch;
- ``replays/replay``, ``replay-2``, …: metrics of a replay;
- ``evaluations/step-000000.json``: the whole report of the evaluation after that update;
- ``rollouts/step-000001.jsonl``: what the update consumed, one line for each group;
- ``areal.log``, ``engine.log``: our log, and whatever vLLM and the environments print;
- ``checkpoints/``: what a stopped run goes on from;
- ``model/``: the final model; ``adapter/`` beside it, where one was trained;
- ``curve.png``: the learning curve.

Files other than logs and metrics appear under their names only when they are whole; the lines of
``metrics.jsonl`` are valid JSON, but for the last one if the machine went down while it was written.
"""

from __future__ import annotations

import errno
import itertools
import json
import math
import numbers
import os
import re
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from areal.config import Config, dump_config
from areal.errors import UserError
from areal.registry import env_label

LATEST = "latest"
"""The name of the link to the newest run, beside the runs."""

_CONFIG = "config.yaml"
_METRICS = "metrics.jsonl"
_STARTS = "starts.jsonl"
_FULL = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True)
class RunDirectory:
    """A run's folder. Whatever writes into it raises a UserError where the disk is full.

    Attributes:
        path: the folder; :meth:`create` and :meth:`open` make sure that it is there.
    """

    path: Path

    @classmethod
    def create(cls, config: Config) -> RunDirectory:
        """Make a new folder below ``config.output``, with the configuration in it.

        Its name is ``config.name``, or made of environment, model and local time. Two runs never get the same
        folder, even when they start at the same moment.

        Raises:
            UserError: the name is taken or no file name, or nothing can be written there.
        """
        root = config.output
        try:
            root.mkdir(parents=True, exist_ok=True)
            path = new_folder(root, config.name, _name(config), "train")
            try:
                (path / _CONFIG).write_text(dump_config(config), encoding="utf-8")
            except OSError:
                (path / _CONFIG).unlink(missing_ok=True)
                path.rmdir()
                raise
        except (FileExistsError, NotADirectoryError) as error:
            raise UserError(
                f"output={root} is a file or lies below one; give a folder with output=FOLDER"
            ) from error
        except OSError as error:
            raise UserError(
                f"cannot write in output={root}: {error.strerror}; give another folder with output=FOLDER"
            ) from error
        _point_latest(root, path.name)
        return cls(path)

    @classmethod
    def open(cls, path: str | Path) -> RunDirectory:
        """Return an existing run's folder; a link such as ``runs/latest`` is followed now and for good.

        Raises:
            UserError: there is no run.
        """
        try:
            found = (Path(path) / _CONFIG).is_file()
        except OSError as error:
            raise UserError(f"cannot read {path}: {error.strerror}") from error
        if not found:
            raise UserError(f"{path} is no run directory: there is no {_CONFIG} in it")
        return cls(_as_given(Path(path)))

    @property
    def log_file(self) -> Path:
        """The package's log."""
        return self.path / "areal.log"

    @property
    def engine_log(self) -> Path:
        """What vLLM, its processes and the environments print."""
        return self.path / "engine.log"

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints."""
        return self.path / "checkpoints"

    @property
    def model(self) -> Path:
        """Folder of the final model."""
        return self.path / "model"

    @property
    def curve(self) -> Path:
        """The learning curve, a picture."""
        return self.path / "curve.png"

    def go_on(self, config: Config, version: int) -> None:
        """Begin to write again after update ``version``: forget later ones, and keep the configuration."""
        with self._full_disk_explained():
            self.truncate_metrics(version + 1)
            self.save_config(config)

    def save_config(self, config: Config) -> None:
        """Keep the configuration that a resumed run goes on with."""
        write_whole(self.path / _CONFIG, [dump_config(config)])

    @property
    def metrics_size(self) -> int:
        """Bytes of ``metrics.jsonl``."""
        path = self.path / _METRICS
        return path.stat().st_size if path.exists() else 0

    def log_metrics(self, metrics: dict[str, Any]) -> None:
        """Append one line to ``metrics.jsonl``; infinities and NaN become null."""
        with self._full_disk_explained(), (self.path / _METRICS).open("a", encoding="utf-8") as file:
            file.write(_line(metrics))

    def log_rollouts(self, step: int, groups: list[dict[str, Any]]) -> None:
        """Write what update number ``step`` consumed, one line for each group."""
        with self._full_disk_explained():
            self._rollouts.mkdir(exist_ok=True)
            write_whole(self._rollouts / f"step-{step:06d}.jsonl", map(_line, groups))

    def write_report(self, step: int, report: dict[str, Any]) -> None:
        """Keep the whole report of the evaluation after update ``step``, as plain data."""
        with self._full_disk_explained():
            self._reports.mkdir(exist_ok=True)
            write_whole(self._reports / f"step-{step:06d}.json", [_line(report)])

    def read_report(self, step: int) -> dict[str, Any] | None:
        """Return what :meth:`write_report` wrote, if it did."""
        try:
            return json.loads((self._reports / f"step-{step:06d}.json").read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None

    def log_start(self, start: dict[str, Any]) -> None:
        """Append what the updates from ``start["step"]`` on depend on besides their batches."""
        with self._full_disk_explained(), (self.path / _STARTS).open("a", encoding="utf-8") as file:
            file.write(_line(start))

    def starts(self) -> list[dict[str, Any]]:
        """What :meth:`log_start` wrote, in order: a later line overrides earlier ones from its step on."""
        return _read_lines(self.path / _STARTS)

    def recorded_steps(self) -> list[int]:
        """Numbers of the updates whose batches are recorded, in order."""
        return sorted(_numbered(self._rollouts))

    def read_rollouts(self, step: int) -> list[dict[str, Any]]:
        """Read what update number ``step`` consumed, one dict for each group.

        Raises:
            UserError: it is not recorded.
        """
        file = self._rollouts / f"step-{step:06d}.jsonl"
        try:
            return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        except FileNotFoundError as error:
            raise UserError(f"the batch of update {step} is missing: there is no {file}") from error

    def new_replay(self, config: Config) -> RunDirectory:
        """Make the next free folder below ``replays``, with the configuration in it."""
        with self._full_disk_explained():
            root = self.path / "replays"
            root.mkdir(exist_ok=True)
            made = RunDirectory(_make(root, "replay"))
            made.save_config(config)
            return made

    def truncate_metrics(self, step: int) -> None:
        """Forget metrics and rollouts of ``step`` and all later ones: the resumed run writes them anew."""
        with self._full_disk_explained():
            if (self.path / _METRICS).exists():
                kept = [line for line in read_metrics(self.path) if line.get("step", -1) < step]
                write_whole(self.path / _METRICS, map(_line, kept))
            for folder in (self._rollouts, self._reports):
                for number, file in _numbered(folder).items():
                    if number >= step:
                        file.unlink()

    @property
    def _reports(self) -> Path:
        return self.path / "evaluations"

    @property
    def _rollouts(self) -> Path:
        return self.path / "rollouts"

    @contextmanager
    def _full_disk_explained(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno not in _FULL:
                raise
            raise UserError(f"no space left in {self.path}; free some") from error


def _as_given(path: Path) -> Path:
    """Return where a path leads to now; it stays relative if it was that and lies below this folder."""
    found = path.resolve()
    inside = not path.is_absolute() and found.is_relative_to(Path.cwd().resolve())
    return found.relative_to(Path.cwd().resolve()) if inside else found


def _numbered(folder: Path) -> dict[int, Path]:
    """Return the files of a folder by the step that each is of."""
    found = ((file.stem.removeprefix("step-"), file) for file in folder.glob("step-*.json*"))
    return {int(number): file for number, file in found if number.isdigit()}


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Read ``metrics.jsonl`` of a run directory; a line that was cut off is left out."""
    return _read_lines(path / _METRICS)


def _read_lines(path: Path) -> list[dict[str, Any]]:
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    except FileNotFoundError:  # stopped before its first update
        return []
    return [data for line in lines if (data := _parse(line)) is not None]


def _parse(line: str) -> dict[str, Any] | None:
    try:
        metrics = json.loads(line)
    except json.JSONDecodeError:
        return None
    return metrics if isinstance(metrics, dict) else None


def _line(data: dict[str, Any]) -> str:
    try:
        return json.dumps(data, allow_nan=False) + "\n"
    except (ValueError, TypeError):  # rare, so the usual case is not slowed by looking at every number
        return json.dumps(_plain(data), allow_nan=False) + "\n"


def _plain(value: Any) -> Any:
    """Make JSON of infinities, NaN and NumPy's numbers."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, bool):
        return value
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, numbers.Real):
        return float(value) if math.isfinite(value) else None
    return value


def write_whole(path: Path, lines: Iterable[str]) -> None:
    """Write a file that is there entirely or not at all, also when the machine goes down meanwhile."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        with partial.open("w", encoding="utf-8") as file:
            file.writelines(lines)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError:
        partial.unlink(missing_ok=True)
        raise


def _name(config: Config) -> str:
    return dated_name(env_label(config.env), Path(config.model).name)


def dated_name(*parts: str) -> str:
    """Return a file name of these parts and the local time."""
    slugs = (*map(slug, parts), time.strftime("%Y%m%d-%H%M%S"))
    return "-".join(slug for slug in slugs if slug)


def slug(text: str) -> str:
    """Return a text as part of a file name."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-.")[:64]


def _make(root: Path, name: str) -> Path:
    """Make ``root/name``, or with the first free number after it."""
    for number in itertools.count(1):
        path = root / (name if number == 1 else f"{name}-{number}")
        with suppress(FileExistsError):
            path.mkdir()
            return path
    raise AssertionError("itertools.count ended")


def new_folder(root: Path, name: str | None, otherwise: str, command: str) -> Path:
    """Make a folder below ``root`` that was not there.

    Args:
        name: the wanted one; None: ``otherwise``, or with the first free number after it.
        otherwise: the name where none is wanted.
        command: of areal, that goes on with a folder of its.

    Raises:
        UserError: the wanted name is taken, or no file name.
    """
    if name is None:
        return _make(root, otherwise)
    if name in ("", ".", "..", LATEST) or "/" in name or "\0" in name:
        raise UserError(f"name={name!r} cannot name a run directory; choose another name")
    path = root / name
    try:
        path.mkdir()
    except FileExistsError as error:
        raise UserError(
            f"{path} is there already; choose another name, or go on with it: "
            f"`areal {command} --resume {path}`"
        ) from error
    return path


def _point_latest(root: Path, name: str) -> None:
    link = root / LATEST
    if link.exists() and not link.is_symlink():
        return
    partial = root / f".{LATEST}-{name}"
    with suppress(OSError):  # a convenience; some file systems have no links
        partial.symlink_to(name)
        partial.replace(link)
    with suppress(OSError):
        partial.unlink(missing_ok=True)
