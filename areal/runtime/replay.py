"""Replay: the batches that a run consumed pass through the learner again, with the same losses.

A run records each complete batch and, at each start, the configuration and everything else on which the
learner's arithmetic depends (``starts.jsonl``). On the CPU, this reproduces every loss to the bit. If the
learner had several processes, the order of sums differs, because a replay uses one process. With other
learner settings, a replay is a study on fixed data: no engine, no environment, no new samples.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from areal.config import Config, override_config, parse_config
from areal.errors import UserError
from areal.learner.learner import Learner
from areal.models import resolve_model
from areal.placement.inventory import probe
from areal.runtime import checkpoint
from areal.runtime.learner import make_learner
from areal.telemetry.run_directory import RunDirectory, read_metrics
from areal.trajectory import Batch, Group

COMPARED = ("loss", "grad_norm")
"""The metrics that must be equal."""

TOLERANCE = 0.05
"""Largest relative difference if sums have a different order, after which differences grow."""


@dataclass(frozen=True, slots=True)
class ReplayedStep:
    """One update, recorded and replayed: ``loss`` and ``grad_norm`` of each."""

    step: int
    recorded: dict[str, float | None]
    replayed: dict[str, float | None]

    @property
    def difference(self) -> float:
        """The largest relative difference; 0: identical to the bit."""
        return difference(self.recorded, self.replayed)


@dataclass(frozen=True, slots=True)
class Replay:
    """The result of a replay.

    Attributes:
        path: the new folder with its ``metrics.jsonl`` and ``config.yaml``.
        steps: each requested update.
        changed: learner settings that differ from the run's, as ``key: old → new``.
        environment: other differences (torch, weights), as ``key: old → new``.
        tolerance: largest relative difference that counts as equal.
    """

    path: Path
    steps: list[ReplayedStep]
    changed: list[str]
    environment: list[str]
    tolerance: float

    @property
    def failed(self) -> bool:
        """Whether the same settings gave different losses."""
        return not self.changed and any(s.difference > self.tolerance for s in self.steps)

    @property
    def verdict(self) -> str:
        """The result in one line."""
        worst = max(s.difference for s in self.steps)
        if self.changed:
            return f"the settings differ ({'; '.join(self.changed)}), so the losses are expected to differ"
        if worst == 0:
            return f"bitwise identical: {len(self.steps)} updates"
        why = f" ({'; '.join(self.environment)})" if self.environment else ""
        if self.failed:
            first = next(s.step for s in self.steps if s.difference > self.tolerance)
            return f"DIFFERENT from update {first} on, by up to {worst:.1e}{why}"
        return (
            f"identical within {worst:.1e}; sums on a GPU or over several processes have no fixed order{why}"
        )


def read_groups(directory: RunDirectory, step: int) -> list[Group]:
    """Return the groups that update ``step`` consumed, in their order.

    Raises:
        UserError: its batch is not recorded, or the file is damaged.
    """
    try:
        return [Group.from_json(line) for line in directory.read_rollouts(step)]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"the recorded batch of update {step} is damaged ({error})") from error


def difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> float:
    """Return the largest relative difference between two updates' metrics; 0: identical to the bit."""
    worst = 0.0
    for a, b in ((_finite(old.get(name)), _finite(new.get(name))) for name in COMPARED):
        if a is None or b is None:
            worst = max(worst, 0.0 if a is b else math.inf)
        elif a != b:
            worst = max(worst, abs(b - a) / max(abs(a), abs(b)))
    return worst


def _finite(value: float | None) -> float | None:
    """Return a value as stored in a file, where infinities and NaN are null."""
    return value if value is not None and math.isfinite(value) else None


def describe_start(config: Config, version: int, weights: str, device: str, threads: int) -> dict[str, Any]:
    """Return the data on which the learner's next updates depend: a line of ``starts.jsonl``.

    Args:
        weights: hash of the weights (:func:`hash_weights`).
        threads: number of CPU threads of the first process.
    """
    return {
        "step": version + 1,
        "weights": weights,
        "device": device,
        "threads": threads,
        "torch": torch.__version__,
        "config": config.model_dump(mode="json"),
    }


def hash_weights(learner: Learner) -> str:
    """Return a hash of the names and values of all weights."""
    digest = hashlib.sha256()
    for name, parameter in learner.named_parameters():
        digest.update(name.encode())
        digest.update(parameter.detach().cpu().contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def replay_run(run: str | Path, from_step: int, overrides: list[str], show: Callable[[str], None]) -> Replay:
    """Replay updates ``from_step`` and later; see :func:`areal.replay`."""
    directory = RunDirectory.open(run)
    recording = _Recording(directory, overrides)
    recording.check(from_step)
    learner, start = recording.begin(from_step, show)
    config = recording.config_at(from_step)
    output = directory.new_replay(config)
    changed, environment = recording.differences(from_step)
    for line in changed:
        show(f"changed setting: {line}")
    show(f"{'step':>6}  {'loss recorded':>14} {'replayed':>14}  {'grad_norm recorded':>18} {'replayed':>14}")
    steps = []
    for step in range(learner.version + 1, recording.last + 1):
        learner = recording.continue_as_the_run_did(learner, start, step)
        start = recording.start_of(step)
        metrics = learner.update(Batch(step - 1, read_groups(directory, step)))
        output.log_metrics({"step": step, **metrics})
        if step < from_step:
            show(f"{step:>6}  (before update {from_step})")
            continue
        old = recording.metrics[step]
        made = ReplayedStep(step, {n: old.get(n) for n in COMPARED}, {n: metrics.get(n) for n in COMPARED})
        steps.append(made)
        show(_row(made))
    tolerance = 0.0 if start["device"] == "cpu" and not recording.shared(from_step) else TOLERANCE
    return Replay(output.path, steps, changed, environment, tolerance)


def _row(made: ReplayedStep) -> str:
    def text(value: float | None) -> str:
        return "null" if value is None else f"{value:.8f}"

    old, new = made.recorded, made.replayed
    mark = "" if made.difference == 0 else f"  differs by {made.difference:.1e}"
    return (
        f"{made.step:>6}  {text(old['loss']):>14} {text(new['loss']):>14}  "
        f"{text(old['grad_norm']):>18} {text(new['grad_norm']):>14}{mark}"
    )


class _Recording:
    """The records of a run, with the overrides of a study."""

    def __init__(self, directory: RunDirectory, overrides: list[str]) -> None:
        for item in overrides:
            if not item.startswith("learner."):
                raise UserError(
                    f"'{item}' is not a learner setting; a replay uses recorded batches, so change only "
                    "learner.* settings"
                )
        self._directory = directory
        self._overrides = overrides
        self._starts = directory.starts()
        self._batches = directory.recorded_steps()
        self.metrics = {m["step"]: m for m in read_metrics(directory.path) if "loss" in m}

    @property
    def last(self) -> int:
        """The last update with a recorded batch and metrics."""
        return max(set(self._batches) & set(self.metrics))

    def check(self, from_step: int) -> None:
        """Raise an error if something cannot be replayed."""
        path = self._directory.path
        if not set(self._batches) & set(self.metrics):
            raise UserError(
                f"{path} has no recorded updates to replay, because it stopped before its first one"
            )
        if not self._starts:
            raise UserError(
                f"{path} has no starts.jsonl, which records the settings of the learner; replay another run"
            )
        if not 1 <= from_step <= self.last:
            raise UserError(
                f"from_step={from_step}: {path} recorded updates 1 to {self.last}; choose one of them"
            )

    def start_of(self, step: int) -> dict[str, Any]:
        """Return the start that applies to update ``step``: a later start replaces earlier ones."""
        return next(start for start in reversed(self._starts) if start["step"] <= step)

    def config_at(self, step: int) -> Config:
        """Return the run's configuration at ``step`` with the overrides."""
        return self._with_overrides(self.start_of(step))

    def begin(self, from_step: int, show: Callable[[str], None]) -> tuple[Learner, dict[str, Any]]:
        """Return the learner at the last checkpoint before ``from_step``, or at the start."""
        found = checkpoint.before(self._directory.checkpoints, from_step)
        if found is not None and from_step > 1:
            start = self.start_of(checkpoint.version_of(found))
            learner = self._make(from_step, start)
            checkpoint.load_learner(found, learner)
            show(f"from the checkpoint after update {learner.version}")
            return learner, start
        if from_step > 1:
            show(
                f"there is no checkpoint before update {from_step}: the replay starts from the initial model"
            )
        start = self.start_of(1)
        learner = self._make(1, start)
        if hash_weights(learner) != start["weights"]:
            raise UserError(
                f"the weights of the model '{start['config']['model']}' have changed since the run began; "
                "restore the old ones, or replay from a checkpoint with --from-step"
            )
        return learner, start

    def continue_as_the_run_did(self, learner: Learner, start: dict[str, Any], step: int) -> Learner:
        """If the run was resumed with other settings, continue with them, as the run did."""
        following = self.start_of(step)
        if self._with_overrides(following).learner == self._with_overrides(start).learner:
            return learner
        made = self._make(step, following)
        made.load_state(learner.state())
        return made

    def differences(self, from_step: int) -> tuple[list[str], list[str]]:
        """Return the differences from the run, as ``key: old → new``: learner settings, and others."""
        start = self.start_of(from_step)
        old = parse_config(start["config"]).learner.model_dump(mode="json")
        new = self.config_at(from_step).learner.model_dump(mode="json")
        changed = [f"learner.{key}: {old[key]} → {new[key]}" for key in new if old[key] != new[key]]
        environment = [f"torch: {start['torch']} → {torch.__version__}"] * (
            start["torch"] != torch.__version__
        )
        if processes := self.shared(from_step):
            environment.append(f"learner processes: {processes} → 1")
        return changed, environment

    def shared(self, from_step: int) -> int:
        """Return the maximum number of the learner's processes from an update on; 0: never more than one."""
        following = [s for s in self._starts if s["step"] >= from_step] + [self.start_of(from_step)]
        ranks = max(parse_config(start["config"]).learner.processes for start in following)
        return ranks if ranks > 1 else 0

    def _with_overrides(self, start: dict[str, Any]) -> Config:
        return override_config(parse_config(start["config"]), self._overrides)

    def _make(self, step: int, start: dict[str, Any]) -> Learner:
        if start["device"] == "cuda" and not probe().devices:
            raise UserError(
                "the learner of the run was on a GPU, and torch finds none here; replay on a machine with "
                "a GPU"
            )
        config = self.config_at(step)
        model = resolve_model(start["config"]["model"])
        threads = config.learner.threads or start["threads"]
        return make_learner(config, model, start["device"], threads)
