"""Resumes a run that was stopped or killed, after the last update whose batch is recorded.

The learner loads the weights of the last checkpoint, and repeats the updates after it
(:mod:`areal.runtime.redo`). Versions therefore name the same weights as before, and the groups of the journal
(:mod:`areal.runtime.journal`) keep their meaning and their deadline, admission version + η
(:mod:`areal.rollout.admission`):

- A consumed group is in a recorded batch, and in no other.
- A finished group waits to be consumed.
- A group in flight is generated again from its beginning, with its number and its deadline, by newer weights.
  It counts as ``rollout/regenerated``.
- A group that was admitted or sampled at an unrecorded version (the run was killed between the update and its
  record) belongs to weights that will be different. It counts as not admitted, or as in flight.
- A group that can no longer meet its deadline counts as rejected. If the journal is complete and η has not
  changed, there are none.

If the learner's settings were changed, the updates cannot be repeated. The run then continues from the
checkpoint, with the groups that had been sampled until then.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from areal.config import Config, parse_config
from areal.errors import UserError
from areal.models.resolve import is_final
from areal.runtime import checkpoint
from areal.runtime.checkpoint_writer import load_checkpoint
from areal.runtime.journal import read_journal
from areal.runtime.learner_rank import LearnerRank
from areal.runtime.redo import redo
from areal.runtime.replay import TOLERANCE
from areal.runtime.rollout_state import RolloutState, meet_deadlines, remaining
from areal.telemetry.run_directory import RunDirectory, read_metrics

if TYPE_CHECKING:
    from areal.runtime.gathering import Gathering
    from areal.runtime.recording import Records
    from areal.workers.group import WorkerGroup

_INDIFFERENT = {"processes", "replicas", "threads", "micro_batch_tokens", "activation_checkpointing"}
_INDIFFERENT |= {"compile", "max_mismatch"}
"""Learner settings that only change the order of an update's sums."""


@dataclass(frozen=True, slots=True)
class ResumePoint:
    """The point at which a run resumes.

    Attributes:
        checkpoint: the newest checkpoint that is not damaged; None: the run has none, and begins with its
            model.
        damaged: newer checkpoints, and what is wrong with each.
        recorded: the last update such that all batches since the checkpoint are recorded.
        changed: settings that prevent repeating these updates, as ``key: old → new``.
    """

    checkpoint: Path | None
    damaged: Mapping[Path, str] = field(default_factory=dict)
    recorded: int = 0
    changed: tuple[str, ...] = ()

    @property
    def version(self) -> int:
        """The number of updates of the checkpoint."""
        return 0 if self.checkpoint is None else checkpoint.version_of(self.checkpoint)

    @property
    def notices(self) -> list[str]:
        """Lines for the user."""
        lines = [
            f"the checkpoint of update {checkpoint.version_of(path)} is damaged ({what}); the run resumes "
            f"from that of update {self.version}"
            for path, what in self.damaged.items()
        ]
        if self.changed and self.recorded > self.version:
            lines.append(
                f"updates {self.version + 1} to {self.recorded} are discarded, because they cannot be "
                f"repeated with other settings ({'; '.join(self.changed)}); to keep them, first resume "
                "without these settings"
            )
        return lines


def find_resume_point(directory: RunDirectory, config: Config) -> ResumePoint:
    """Find the point at which a run can resume, without changing anything.

    Raises:
        UserError: there is nothing to resume from, or nothing left to do.
    """
    damaged: dict[Path, str] = {}
    found = list(checkpoint.versions(directory.checkpoints).values())
    while found and (what := checkpoint.damage(found[-1])):
        damaged[found.pop()] = what
    if not found and damaged:
        raise UserError(_all_damaged(directory, damaged))
    if not found and not directory.starts():
        raise UserError(f"{directory.path} has no checkpoint to resume from; start a new run")
    begin = checkpoint.version_of(found[-1]) if found else 0
    recorded = last_recorded(directory, begin)
    point = ResumePoint(
        found[-1] if found else None, damaged, recorded, _changed(directory, config, begin, recorded)
    )
    done = begin if point.changed else recorded
    if done > config.steps:
        raise UserError(
            f"{directory.path} has already made {done} updates, more than steps={config.steps}; to "
            f"continue, set steps={2 * done} or another larger number"
        )
    if done == config.steps and _finished(directory, config):
        raise UserError(
            f"{directory.path} has finished its {done} updates; to continue, set steps={2 * done} or "
            "another larger number"
        )
    return point


def last_recorded(directory: RunDirectory, begin: int) -> int:
    """Return the last update up to which batches and metrics are recorded without a gap after ``begin``."""
    recorded = {line["step"] for line in read_metrics(directory.path) if "loss" in line}
    recorded &= set(directory.recorded_steps())
    while begin + 1 in recorded:
        begin += 1
    return begin


def last_update(directory: RunDirectory) -> int | None:
    """Return the update after which a run can resume; None: it cannot."""
    kept = checkpoint.latest(directory.checkpoints)
    if kept is None and not directory.starts():
        return None
    return last_recorded(directory, 0 if kept is None else checkpoint.version_of(kept))


def _all_damaged(directory: RunDirectory, damaged: dict[Path, str]) -> str:
    each = "; ".join(f"{path.name}: {what}" for path, what in damaged.items())
    way_out = "start a new run"
    if recorded := last_recorded(directory, 0):
        way_out = f"move {directory.checkpoints} away, and areal repeats the {recorded} recorded updates"
    return f"every checkpoint of {directory.path} is damaged ({each}); {way_out}"


def _changed(directory: RunDirectory, config: Config, begin: int, recorded: int) -> tuple[str, ...]:
    """Return the changed settings that affect the arithmetic of the updates after ``begin``."""
    new, changed, starts = _arithmetic(config), {}, directory.starts()
    for step in range(begin + 1, recorded + 1):
        made_by = next((start for start in reversed(starts) if start["step"] <= step), None)
        if made_by is None:
            return ("starts.jsonl does not record the old ones",)
        old = _arithmetic(parse_config(made_by["config"]))
        changed.update({key: f"{key}: {old[key]} → {new[key]}" for key in new if new[key] != old[key]})
    return tuple(changed.values())


def _arithmetic(config: Config) -> dict[str, Any]:
    learner = config.learner.model_dump(mode="json")
    kept = {f"learner.{key}": value for key, value in learner.items() if key not in _INDIFFERENT}
    rollout = {f"rollout.{key}": getattr(config.rollout, key) for key in ("temperature", "max_new_tokens")}
    return {"model": config.model, **rollout, **kept}


def _finished(directory: RunDirectory, config: Config) -> bool:
    """Return whether a run that has made all updates also has its model and its last evaluation."""
    measured = any(
        line.get("step") == config.steps and any(key.startswith("eval/") for key in line)
        for line in read_metrics(directory.path)
    )
    return is_final(directory.model, config.steps) and (measured or not config.evaluation.problems)


async def restore(
    point: ResumePoint,
    config: Config,
    learner: WorkerGroup[LearnerRank],
    records: Records,
    gathering: Gathering | None = None,
) -> RolloutState:
    """Bring the learner to the last update, and return the rollout side's state after it, without writing.

    Args:
        point: the resume point.
        config: the run's configuration.
        learner: a new learner, at version 0.
        records: the run directory and the display.
        gathering: copies the checkpoint to hosts that do not share the run directory; None: all share it.

    Raises:
        UserError: the checkpoint belongs to another model, or the run's initial model has changed.
    """
    base, directory = RolloutState(), records.directory
    if point.checkpoint is not None:
        await load_checkpoint(learner, point.checkpoint, gathering)
        base = checkpoint.load_rollouts(point.checkpoint)
    elif await learner.call(LearnerRank.hash_weights) != directory.starts()[0]["weights"]:
        raise UserError(
            f"the weights of the model '{config.model}' have changed since the run began; restore the old "
            "ones"
        )
    last = base.version if point.changed else point.recorded
    redone = await redo(learner, directory, base.version + 1, last, records.progress.status)
    if redone.damage:
        records.warn_of(f"{redone.damage}: the updates from there on are computed with new batches")
    if redone.difference > TOLERANCE:
        records.warn_of(f"repeated updates have different losses, by up to {redone.difference:.1e}")
    journal = read_journal(directory.journal)
    if journal is None and redone.version > base.version:
        records.warn_of("there is no journal, or it is damaged: finished groups are lost")
    state = remaining(base, journal, redone.consumed, redone.version)
    meet_deadlines(state, config.groups_per_batch, config.rollout.max_staleness)
    if state.dropped:
        records.warn_of(
            f"{len(state.dropped)} groups are discarded, because they can no longer be consumed within the "
            "staleness limit"
        )
    return state


def announce(point: ResumePoint, state: RolloutState, records: Records) -> None:
    """Report the state from which the run resumes, in a message and in an event."""
    version, kept = state.version, state.finished
    again = len(state.outstanding) - kept
    records.progress.message(
        f"resuming after update {version}: {version - point.version} updates were repeated from their "
        f"recorded batches; {kept} groups were finished and are kept; {again} groups were in flight and are "
        "generated again"
    )
    redone, dropped = version - point.version, state.dropped
    records.directory.log_event(
        "resumed", version=version, redone=redone, kept=kept, regenerated=again, dropped=dropped
    )
