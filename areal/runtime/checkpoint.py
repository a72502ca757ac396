"""Checkpoints: atomic, complete, and few.

A checkpoint is a folder ``step-000050`` that appears under its name only when it is whole:

- ``model/``: weights and tokenizer in Hugging Face format;
- ``learner.pt``: optimizer, random state, version;
- ``state.json``: the next group's number, and number and version of each group in flight: a run that goes
  on plays those again from their beginning;
- ``groups.jsonl``: the complete groups that were waiting to be consumed.
"""

from __future__ import annotations

import errno
import io
import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch

from areal.errors import UserError
from areal.learner.learner import Learner
from areal.rollout.admission import Admission
from areal.trajectory import Group


def snapshot(admission: Admission[Group]) -> tuple[dict[str, Any], list[Group]]:
    """Return the rollout side's state and the complete groups, as :func:`save` wants them."""
    outstanding = admission.outstanding()
    in_flight = [[number, version] for number, version, group in outstanding if group is None]
    state = {"next_group": admission.next_id, "in_flight": in_flight}
    return state, [group for _, _, group in outstanding if group is not None]


def recover(admission: Admission[Group], state: dict[str, Any], groups: list[Group]) -> None:
    """Put every group back that :func:`snapshot` saw, at its place and with its version.

    A group in flight keeps its admission version although it is played anew, by newer weights: its tokens
    are no older than that, and its deadline stays the one that its fellows made room for.
    """
    admission.next_id = state["next_group"]
    complete = [(group.id, group.version, group) for group in groups]
    in_flight = [(number, version, None) for number, version in state["in_flight"]]
    for number, version, group in sorted([*complete, *in_flight], key=lambda found: found[0]):
        admission.restore(number, version, group)


def save(
    folder: Path, learner: Learner, tokenizer: Any, state: dict[str, Any], groups: list[Group], keep: int
) -> Path:
    """Write a checkpoint of the learner's version below ``folder`` and drop all but the newest ``keep``.

    Raises:
        UserError: the disk is full; older checkpoints are untouched.
    """
    final = folder / f"step-{learner.version:06d}"
    partial = folder / f".partial-{final.name}-{os.getpid()}"
    try:
        partial.mkdir(parents=True)
        export_model(partial / "model", learner, tokenizer)
        written = io.BytesIO()  # a file would fail with an error that does not tell its cause
        torch.save(learner.state(), written)
        (partial / "learner.pt").write_bytes(written.getbuffer())
        (partial / "state.json").write_text(json.dumps(state))
        with (partial / "groups.jsonl").open("w") as file:
            file.writelines(json.dumps(group.to_json()) + "\n" for group in groups)
        _sync_tree(partial)
        if final.exists():  # saved by the run that this one resumed
            final.rename(old := folder / f".old-{final.name}-{os.getpid()}")
            partial.rename(final)
            shutil.rmtree(old)
        else:
            partial.rename(final)
    except Exception as error:
        shutil.rmtree(partial, ignore_errors=True)
        if _disk_is_full(error):
            raise UserError(
                f"no space left for a checkpoint in {folder}; free some and go on with --resume"
            ) from error
        raise
    for outdated in _complete(folder)[:-keep]:
        shutil.rmtree(outdated)
    return final


def _disk_is_full(error: Exception) -> bool:
    """Whether the disk is full; safetensors says so in its message only."""
    if isinstance(error, OSError):
        return error.errno in (errno.ENOSPC, errno.EDQUOT)
    return f"os error {errno.ENOSPC}" in str(error) or "No space left" in str(error)


def export_model(folder: Path, learner: Learner, tokenizer: Any) -> None:
    """Write weights and tokenizer so that ``transformers`` and vLLM load the folder without areal."""
    learner.model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def latest(folder: Path) -> Path | None:
    """Return the newest whole checkpoint below ``folder``, if any."""
    found = _complete(folder)
    return found[-1] if found else None


def before(folder: Path, step: int) -> Path | None:
    """Return the newest whole checkpoint below ``folder`` from which update ``step`` is still to come."""
    found = [c for c in _complete(folder) if int(c.name.removeprefix("step-")) < step]
    return found[-1] if found else None


def load_state(checkpoint: Path) -> tuple[dict[str, Any], dict[str, Any], list[Group]]:
    """Return the learner's state, the rollout side's state and the waiting groups."""
    learner = torch.load(checkpoint / "learner.pt", weights_only=True)
    state = json.loads((checkpoint / "state.json").read_text())
    with (checkpoint / "groups.jsonl").open() as file:
        groups = [Group.from_json(json.loads(line)) for line in file]
    return learner, state, groups


def _complete(folder: Path) -> list[Path]:
    return sorted(folder.glob("step-*")) if folder.is_dir() else []


def _sync_tree(folder: Path) -> None:
    """Force a folder to the disk, so that the rename never shows a name without its contents."""
    for path in [*folder.rglob("*"), folder]:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
