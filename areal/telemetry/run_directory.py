"""The folder of a run, which contains everything that the run writes; runs never overwrite each other.

- ``config.yaml``: the whole configuration;
- ``metrics.jsonl``: one line for each update and for each evaluation;
- ``starts.jsonl``: one line for each start or resumption: configuration, weights, threads, version of torch;
- ``events.jsonl``: one line for each important event besides metrics: a part was lost or restarted; the
  learner published a version of the weights, or an engine loaded one; the types of an engine's layers, if it
  quantizes them;
- ``replays/replay``, ``replay-2``, …: metrics of a replay;
- ``evaluations/step-000000.json``: the whole report of the evaluation after that update;
- ``rollouts/step-000001.jsonl``: the batch of the update, one line for each group;
- ``tokens/step-000001.jsonl``: the update's values for each token of a few rollouts, one line for each
  conversation;
- ``journal``: the groups that are in flight or wait to be consumed, in case the run is killed;
- ``areal.log``, ``engine.log``: areal's log, and the output of vLLM and the environments;
- ``status.json``: the current status of the run (areal.telemetry.status);
- ``stall.txt``, ``stall-2.txt``, …: which parts waited for what, and all stacks, when something stalled;
- ``checkpoints/``: the checkpoints from which a stopped run can resume;
- ``model/``: the final model, and beside it ``adapter/`` if an adapter was trained;
- ``curve.png``: the learning curve;
- ``trackers/``: the names of the run in experiment trackers; beside it the folders ``tensorboard``, ``wandb``
  and ``swanlab`` of trackers that write files.

Files other than logs and metrics appear under their names only when they are complete. The lines of
``metrics.jsonl`` are valid JSON, except for the last one if the machine crashed while it was written.
"""

from __future__ import annotations

import difflib
import itertools
import json
import math
import numbers
import re
import time
from collections.abc import Iterable
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from areal import disk
from areal.config import Config, dump_config
from areal.disk import write_whole
from areal.errors import UserError
from areal.registry import env_label

LATEST = "latest"
"""Name of the link to the newest run, beside the runs."""

CONFIG = "config.yaml"
METRICS = "metrics.jsonl"
_STARTS = "starts.jsonl"
EVENTS = "events.jsonl"


@dataclass(frozen=True)
class RunDirectory:
    """The folder of a run. Writing to it raises a UserError if the disk is full.

    Attributes:
        path: the folder, which :meth:`create` and :meth:`open` ensure to exist.
    """

    path: Path

    @classmethod
    def create(cls, config: Config) -> RunDirectory:
        """Create a new folder below ``config.output``, and save the configuration in it.

        Its name is ``config.name``, or consists of environment, model and local time. Two runs never get the
        same folder, even if they start at the same moment.

        Raises:
            UserError: the name is taken or invalid, or the folder cannot be written.
        """
        root = config.output
        try:
            root.mkdir(parents=True, exist_ok=True)
            path = new_folder(root, config.name, _name(config), "train")
            try:
                (path / CONFIG).write_text(dump_config(config), encoding="utf-8")
            except OSError:
                (path / CONFIG).unlink(missing_ok=True)
                path.rmdir()
                raise
        except (FileExistsError, NotADirectoryError) as error:
            raise UserError(
                f"output={root} is a file, or lies below one; set output=FOLDER to a folder"
            ) from error
        except OSError as error:
            raise UserError(
                f"cannot write to output={root}: {error.strerror}; set output=FOLDER to another folder"
            ) from error
        _point_latest(root, path.name)
        return cls(path)

    @classmethod
    def open(cls, path: str | Path, nor: str = "") -> RunDirectory:
        """Return the folder of an existing run; a link such as ``runs/latest`` is resolved once.

        Args:
            nor: what else the folder is not, for the error message.

        Raises:
            UserError: there is no run in the folder.
        """
        try:
            exists, found = Path(path).exists(), (Path(path) / CONFIG).is_file()
        except OSError as error:
            raise UserError(f"cannot read {path}: {error.strerror}") from error
        if not exists:
            hint = _meant(Path(path)) or "; `areal runs` lists the runs in the folder runs"
            raise UserError(f"{path} does not exist{hint}")
        if not found:
            raise UserError(f"{path} is not a run directory: it has no {CONFIG}{nor}{_meant(Path(path))}")
        return cls(_as_given(Path(path)))

    @property
    def log_file(self) -> Path:
        """The package's log."""
        return self.path / "areal.log"

    @property
    def engine_log(self) -> Path:
        """The output of vLLM, its processes and the environments."""
        return self.path / "engine.log"

    @property
    def journal(self) -> Path:
        """The journal of all groups since their admission."""
        return self.path / "journal"

    @property
    def checkpoints(self) -> Path:
        """The folder of the checkpoints."""
        return self.path / "checkpoints"

    @property
    def model(self) -> Path:
        """The folder of the final model."""
        return self.path / "model"

    @property
    def curve(self) -> Path:
        """The plot of the learning curve."""
        return self.path / "curve.png"

    def check(self) -> None:
        """Check that the folder is still there; raise a UserError if it is not.

        A library that writes below it may have recreated it, without its content.
        """
        with self._one_line():
            if not (self.path / CONFIG).exists():
                raise disk.gone(self.path)

    def go_on(self, config: Config, version: int) -> None:
        """Resume after update ``version``: remove records of later updates, and save the configuration."""
        with self._one_line():
            self.truncate_metrics(version + 1)
            self.save_config(config)

    def new_report(self) -> Path:
        """Return the file for a report on a stall: ``stall.txt``, or the next free name."""
        names = itertools.chain(["stall.txt"], (f"stall-{number}.txt" for number in itertools.count(2)))
        return next(path for name in names if not (path := self.path / name).exists())

    def save_config(self, config: Config) -> None:
        """Save the configuration of the resumed run."""
        write_whole(self.path / CONFIG, [dump_config(config)])

    @property
    def metrics_size(self) -> int:
        """Size of ``metrics.jsonl`` in bytes."""
        path = self.path / METRICS
        return path.stat().st_size if path.exists() else 0

    def log_metrics(self, metrics: dict[str, Any]) -> None:
        """Append one line to ``metrics.jsonl``; infinities and NaN become null."""
        self._append(METRICS, metrics)

    def log_rollouts(self, step: int, lines: Iterable[str]) -> None:
        """Write the batch of update number ``step``; the metrics before it are on disk first.

        Args:
            lines: lines of JSON, one for each group.
        """
        self.check()
        with self._one_line():
            if (self.path / METRICS).exists():
                disk.sync(self.path / METRICS)
            self._rollouts.mkdir(exist_ok=True)
            write_whole(self._rollouts / f"step-{step:06d}.jsonl", lines)

    def log_token_values(self, step: int, lines: Iterable[str]) -> None:
        """Write the token values of update number ``step``, before its batch is written.

        Args:
            lines: lines of JSON, one for each conversation.
        """
        self.check()
        with self._one_line():
            self._tokens.mkdir(exist_ok=True)
            write_whole(self._tokens / f"step-{step:06d}.jsonl", lines)

    def read_token_values(self, step: int) -> list[dict[str, Any]]:
        """Return the result of :meth:`log_token_values`; empty if there is none."""
        return _read_lines(self._tokens / f"step-{step:06d}.jsonl")

    def write_report(self, step: int, report: dict[str, Any]) -> None:
        """Save the whole report of the evaluation after update ``step``, as plain data."""
        with self._one_line():
            self._reports.mkdir(exist_ok=True)
            write_whole(self._reports / f"step-{step:06d}.json", [json_line(report)])

    def read_report(self, step: int) -> dict[str, Any] | None:
        """Return the report from :meth:`write_report`, if there is one."""
        try:
            return json.loads((self._reports / f"step-{step:06d}.json").read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None

    def log_start(self, start: dict[str, Any]) -> None:
        """Append a start: what the updates from ``start["step"]`` depend on in addition to their batches."""
        self._append(_STARTS, start)

    def starts(self) -> list[dict[str, Any]]:
        """Return the starts in order; each one replaces the earlier ones, from its step on."""
        self.check()  # a missing folder is different from a run without starts
        return _read_lines(self.path / _STARTS)

    def log_event(self, event: str, **fields: Any) -> None:
        """Append one line to ``events.jsonl``.

        Args:
            event: what happened, such as ``lost`` or ``loaded``.
            fields: the details of the event.
        """
        self._append(EVENTS, {"time": time.time(), "event": event, **fields})

    def events(self) -> list[dict[str, Any]]:
        """Return the events in order."""
        return _read_lines(self.path / EVENTS)

    def recorded_steps(self) -> list[int]:
        """Return the numbers of the updates with recorded batches, in order."""
        return sorted(_numbered(self._rollouts))

    def read_rollouts(self, step: int) -> list[dict[str, Any]]:
        """Read the batch of update number ``step``, one dict for each group.

        Raises:
            UserError: the batch is not recorded.
        """
        file = self._rollouts / f"step-{step:06d}.jsonl"
        try:
            return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        except FileNotFoundError as error:
            missing = UserError(f"the batch of update {step} is missing: {file} does not exist")
            raise disk.explained(error, self.path) or missing from error

    def new_replay(self, config: Config) -> RunDirectory:
        """Create the next free folder below ``replays``, and save the configuration in it."""
        with self._one_line():
            root = self.path / "replays"
            root.mkdir(exist_ok=True)
            made = RunDirectory(_make(root, "replay"))
            made.save_config(config)
            return made

    def _append(self, name: str, data: dict[str, Any]) -> None:
        self.check()
        with self._one_line(), (self.path / name).open("a", encoding="utf-8") as file:
            file.write(json_line(data))

    def truncate_metrics(self, step: int) -> None:
        """Remove the records of the updates from ``step`` on, which the resumed run writes again."""
        with self._one_line():
            if (self.path / METRICS).exists():
                kept = [line for line in read_metrics(self.path) if line.get("step", -1) < step]
                write_whole(self.path / METRICS, map(json_line, kept))
            for folder in (self._rollouts, self._tokens, self._reports):
                for number, file in _numbered(folder).items():
                    if number >= step:
                        file.unlink()

    @property
    def _reports(self) -> Path:
        return self.path / "evaluations"

    @property
    def _tokens(self) -> Path:
        return self.path / "tokens"

    @property
    def _rollouts(self) -> Path:
        return self.path / "rollouts"

    def _one_line(self) -> AbstractContextManager[None]:
        return disk.one_line(self.path)


def _as_given(path: Path) -> Path:
    """Resolve a path; it stays relative if it is relative and lies below the current folder."""
    found = path.resolve()
    inside = not path.is_absolute() and found.is_relative_to(Path.cwd().resolve())
    return found.relative_to(Path.cwd().resolve()) if inside else found


def _numbered(folder: Path) -> dict[int, Path]:
    """Return the files of a folder by step."""
    found = ((file.stem.removeprefix("step-"), file) for file in folder.glob("step-*.json*"))
    return {int(number): file for number, file in found if number.isdigit()}


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Read ``metrics.jsonl`` of a run directory; an incomplete line is skipped."""
    return _read_lines(path / METRICS)


def _read_lines(path: Path) -> list[dict[str, Any]]:
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    except FileNotFoundError:  # stopped before its first update
        return []
    return [data for line in lines if (data := parsed(line)) is not None]


def parsed(line: str | bytes) -> dict[str, Any] | None:
    """Parse a line of a JSON lines file; None: it is incomplete."""
    try:
        metrics = json.loads(line)
    except ValueError:
        return None
    return metrics if isinstance(metrics, dict) else None


def json_line(data: dict[str, Any]) -> str:
    """Return data as a line of JSON; infinities and NaN become null."""
    try:
        return json.dumps(data, allow_nan=False) + "\n"
    except (ValueError, TypeError):  # rare, so the usual case does not check every number
        return json.dumps(_plain(data), allow_nan=False) + "\n"


def _plain(value: Any) -> Any:
    """Convert infinities, NaN and NumPy's numbers for JSON."""
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


def _name(config: Config) -> str:
    return dated_name(env_label(config.env), Path(config.model).name)


def dated_name(*parts: str) -> str:
    """Return a file name from these parts and the local time."""
    slugs = (*map(slug, parts), time.strftime("%Y%m%d-%H%M%S"))
    return "-".join(slug for slug in slugs if slug)


def slug(text: str) -> str:
    """Return a text as part of a file name."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-.")[:64]


def _make(root: Path, name: str) -> Path:
    """Create ``root/name``, or the first free name with a number."""
    for number in itertools.count(1):
        path = root / (name if number == 1 else f"{name}-{number}")
        with suppress(FileExistsError):
            path.mkdir()
            return path
    raise AssertionError("itertools.count ended")


def new_folder(root: Path, name: str | None, otherwise: str, command: str) -> Path:
    """Create a new folder below ``root``.

    Args:
        name: the requested name; None: ``otherwise``, or the first free name with a number.
        otherwise: the name if none is requested.
        command: the command of areal that resumes an existing folder.

    Raises:
        UserError: the requested name is taken or invalid.
    """
    if name is None:
        return _make(root, otherwise)
    if name in ("", ".", "..", LATEST) or "/" in name or "\0" in name:
        raise UserError(f"name={name!r} cannot be the name of a run directory; choose another name")
    path = root / name
    try:
        path.mkdir()
    except FileExistsError as error:
        raise taken(path, command) from error
    return path


def require_free_name(config: Config) -> None:
    """Check that no folder has the name of a new run yet; raises UserError if one has."""
    if config.name and (path := config.output / config.name).exists():
        raise taken(path, "train")


def taken(path: Path, command: str) -> UserError:
    """Return the error for a folder that exists already; see :func:`new_folder`."""
    return UserError(
        f"{path} already exists; choose another name, or resume it with `areal {command} --resume {path}`"
    )


def _meant(path: Path) -> str:
    """Return the run that a path may mean, among those beside it and in ``runs``."""
    runs = [file.parent for folder in (Path("runs"), path.parent) for file in folder.glob(f"*/{CONFIG}")]
    by_name = {run.name: run for run in runs}
    close = difflib.get_close_matches(path.name, by_name, n=1)
    return f"; did you mean '{by_name[close[0]]}'?" if close else ""


def _point_latest(root: Path, name: str) -> None:
    link = root / LATEST
    if link.exists() and not link.is_symlink():
        return
    partial = root / f".{LATEST}-{name}"
    with suppress(OSError):  # only a convenience; some file systems have no links
        partial.symlink_to(name)
        partial.replace(link)
    with suppress(OSError):
        partial.unlink(missing_ok=True)
