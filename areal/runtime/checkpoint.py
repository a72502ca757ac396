"""Checkpoints: atomic, complete, few, and written while training goes on.

A checkpoint is a folder ``step-000050`` that appears under its name only when it is whole:

- ``learner/``: all that the next update depends on, in the format of torch.distributed.checkpoint: weights
  and optimizer state by name, random states, version. What n processes saved, m can load;
- ``model/``: weights and tokenizer in Hugging Face format, in the type that the engine computes in; or
  ``adapter/``, in peft's format, where an adapter is trained: it is small, and so is then all of it;
- ``state.json``: the next group's number, and number and version of each group in flight: a run that goes
  on runs those again from their beginning;
- ``groups.jsonl``: the complete groups that were waiting to be consumed.

The learner holds still while its tensors are copied to the host (:meth:`Checkpoints.stage`); any other thread
then writes the copy (:meth:`Checkpoints.write`). A process that is killed leaves the last whole checkpoint.
"""

from __future__ import annotations

import copy
import errno
import json
import os
import shutil
import stat
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.api import CheckpointException

from areal.config import load_config
from areal.errors import UserError
from areal.learner import lora
from areal.learner.learner import Learner
from areal.learner.state import Tensors
from areal.rollout.admission import Admission
from areal.trajectory import Group

# One process is what most runs have, and nothing to warn of.
warnings.filterwarnings("ignore", message="torch.distributed is disabled")


def snapshot(admission: Admission[Group]) -> tuple[dict[str, Any], list[Group]]:
    """Return the rollout side's state and the complete groups, as :meth:`Checkpoints.stage` wants them."""
    outstanding = admission.outstanding()
    in_flight = [[number, version] for number, version, group in outstanding if group is None]
    state = {"next_group": admission.next_id, "in_flight": in_flight}
    return state, [group for _, _, group in outstanding if group is not None]


def recover(admission: Admission[Group], state: dict[str, Any], groups: list[Group]) -> None:
    """Put every group back that :func:`snapshot` saw, at its place and with its version.

    A group in flight keeps its admission version although it is run anew, by newer weights: its tokens
    are no older than that, and its deadline stays the one that its peers made room for.
    """
    admission.next_id = state["next_group"]
    complete = [(group.id, group.version, group) for group in groups]
    in_flight = [(number, version, None) for number, version in state["in_flight"]]
    for number, version, group in sorted([*complete, *in_flight], key=lambda found: found[0]):
        admission.restore(number, version, group)


@dataclass(frozen=True, slots=True)
class Staged:
    """A moment of a run, copied: nothing that happens later changes it."""

    version: int
    learner: Tensors
    weights: Tensors | None
    adapter: Tensors | None
    state: dict[str, Any]
    groups: list[Group]


class Checkpoints:
    """The checkpoints of a run.

    Args:
        keep: how many; older ones are dropped.
        dtype: of the exported weights.
        group: gloo group of the processes that hold the learner's shards, all of which call everything
            here, and see one file system; None: there is one process.
    """

    def __init__(
        self,
        folder: Path,
        learner: Learner,
        tokenizer: Any,
        keep: int,
        dtype: torch.dtype,
        group: dist.ProcessGroup | None = None,
    ) -> None:
        self._folder = folder
        self._learner = learner
        self._tokenizer = tokenizer
        self._keep = keep
        self._dtype = dtype
        self._group = group
        self._first = group is None or dist.get_rank(group) == 0

    def stage(self, state: dict[str, Any], groups: list[Group]) -> Staged:
        """Copy what :meth:`write` needs; no update may go on meanwhile."""
        learner = to_host(self._learner.state().items())
        weights = None if self._learner.adapted else self._weights()
        return Staged(self._learner.version, learner, weights, self._adapter(), state, groups)

    def write(self, staged: Staged, wanted: frozenset[int] = frozenset()) -> Path:
        """Write a checkpoint and drop all but the newest few; training may go on meanwhile.

        Args:
            wanted: versions of older ones that stay, too.

        Raises:
            UserError: the disk is full; older checkpoints are untouched.
        """
        final = self._folder / f"step-{staged.version:06d}"
        partial = self._folder / f"{_PARTIAL}{final.name}"

        def begin() -> None:
            for left_over in self._folder.glob(f"{_PARTIAL}*"):  # by a run that was killed
                shutil.rmtree(left_over)
            partial.mkdir(parents=True)

        def finish() -> None:
            self._write(partial, staged.weights, staged.adapter)
            (partial / "state.json").write_text(json.dumps(staged.state))
            with (partial / "groups.jsonl").open("w") as file:
                file.writelines(json.dumps(group.to_json()) + "\n" for group in staged.groups)
            _sync_tree(partial)
            _put_in_place(partial, final)
            for outdated in _complete(self._folder)[: -self._keep]:
                if version_of(outdated) not in wanted:
                    _drop(outdated)

        with self._removed_on_failure(partial, f"a checkpoint in {self._folder}"):
            self._first_does(begin)
            alone = self._group is None
            dcp.save(
                staged.learner, checkpoint_id=partial / "learner", process_group=self._group, no_dist=alone
            )
            self._first_does(finish)
        return final

    @contextmanager
    def _removed_on_failure(self, partial: Path, what: str) -> Iterator[None]:
        try:
            yield
        except (Exception, CheckpointException) as error:
            if self._first:
                shutil.rmtree(partial, ignore_errors=True)
            if any(_is_full_disk(cause) for cause in _causes(error)):
                raise UserError(f"no space left for {what}; free some") from error
            raise

    def _first_does(self, work: Callable[[], None]) -> None:
        """Let the first process do something; all raise an error of it."""
        if not self._first:
            failure: list[Exception | None] = [None]
            dist.broadcast_object_list(failure, group=self._group, group_src=0)
            if failure[0] is not None:
                raise failure[0]
            return
        try:
            work()
        except Exception as error:
            self._tell(error)
            raise
        self._tell(None)

    def _tell(self, error: Exception | None) -> None:
        if self._group is not None:
            dist.broadcast_object_list([error], group=self._group, group_src=0)

    def export(self, folder: Path) -> None:
        """Write ``model/``, which ``transformers`` and vLLM load without areal, and the adapter, if any.

        Raises:
            UserError: the disk is full; what was there is untouched.
        """
        weights, adapter = self._weights(), self._adapter()
        if not self._first:
            return
        partial = folder / f"{_PARTIAL}export"
        with self._removed_on_failure(partial, f"the model in {folder}"):
            shutil.rmtree(partial, ignore_errors=True)
            self._write(partial, weights, adapter)
            for made in list(partial.iterdir()):
                _put_in_place(made, folder / made.name)
            partial.rmdir()

    def _write(self, folder: Path, weights: Tensors | None, adapter: Tensors | None) -> None:
        if weights is not None:
            write_model(folder / "model", self._learner.model, self._tokenizer, weights)
        if adapter is not None:
            lora.write_adapter(folder / "adapter", self._learner.model, self._learner.path, adapter)
        _give_usual_modes(folder)

    def _weights(self) -> Tensors:
        """Whole weights: all processes gather them, the first copies them."""
        whole = self._learner.named_parameters()
        if self._first:
            return to_host(whole, self._dtype)
        return {name: weight for name, weight in whole if not name}  # gathered, and dropped

    def _adapter(self) -> Tensors | None:
        return to_host(lora.adapter_of(self._learner.model).items()) if self._learner.adapted else None


def to_host(tensors: Iterable[tuple[str, torch.Tensor]], dtype: torch.dtype | None = None) -> Tensors:
    """Copy tensors to the host's memory, from a GPU into pages that it writes at full speed."""
    found, on_gpu = {}, False
    for name, tensor in tensors:
        found[name] = tensor.detach().to("cpu", dtype or tensor.dtype, non_blocking=True, copy=True)
        on_gpu |= tensor.is_cuda
    if on_gpu:
        torch.cuda.synchronize()
    return found


def write_model(folder: Path, model: Any, tokenizer: Any, weights: Tensors) -> None:
    """Write these weights, under the names of checkpoints, of a model of this kind in Hugging Face format."""
    model.save_pretrained(folder, state_dict=dict(weights), save_original_format=False)
    config = copy.deepcopy(model.config)  # transformers writes the type that the learner's weights have
    config.dtype = next(iter(weights.values())).dtype
    config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def latest(folder: Path) -> Path | None:
    """Return the newest whole checkpoint below ``folder``, if any."""
    found = _complete(folder)
    return found[-1] if found else None


def versions(folder: Path) -> dict[int, Path]:
    """Return all whole checkpoints below ``folder`` by their number of updates, oldest first."""
    return {version_of(path): path for path in _complete(folder)}


def before(folder: Path, step: int) -> Path | None:
    """Return the newest whole checkpoint below ``folder`` from which update ``step`` is still to come."""
    found = [c for c in _complete(folder) if version_of(c) < step]
    return found[-1] if found else None


_PARTIAL, _OLD = ".partial-", ".old"


def version_of(checkpoint: Path) -> int:
    """Return the number of updates that made a checkpoint."""
    return int(checkpoint.name.removeprefix("step-").removesuffix(_OLD))


def load_learner(checkpoint: Path, learner: Learner) -> None:
    """Make the learner what it was, on whatever number of processes.

    Raises:
        UserError: it is of another model, of other settings, or of an old version of areal.
    """
    if not (checkpoint / "learner").is_dir():
        raise UserError(
            f"{checkpoint} was written by an older version of areal and cannot be resumed; start a new run "
            f"from its weights: model={checkpoint / 'model'}"
        )
    saved = dcp.FileSystemReader(checkpoint / "learner").read_metadata().state_dict_metadata
    own = learner.state(whole=True)
    shapes = {name: tensor.shape for name, tensor in own.items() if name.startswith("weights.")}
    sizes = {name: getattr(what, "size", None) for name, what in saved.items() if name.startswith("weights.")}
    if shapes != sizes:
        raise UserError(f"the weights in {checkpoint} are of another model; go on with {_own(checkpoint)}")
    found = {name: tensor for name, tensor in own.items() if name in saved}
    try:
        dcp.load(found, checkpoint_id=checkpoint / "learner", no_dist=True)  # each process reads its own
    except CheckpointException as error:
        cause = next(iter(error.failures.values()))[0]
        raise RuntimeError(f"cannot read {checkpoint}: {cause}") from error
    learner.load_state(found)


def _own(checkpoint: Path) -> str:
    """Name what a checkpoint's weights are of."""
    config = load_config(checkpoint.parents[1] / "config.yaml")
    return f"the run's own: model={config.model} learner.lora_rank={config.learner.lora_rank}"


def load_rollouts(checkpoint: Path) -> tuple[dict[str, Any], list[Group]]:
    """Return the rollout side's state and the waiting groups."""
    state = json.loads((checkpoint / "state.json").read_text())
    with (checkpoint / "groups.jsonl").open() as file:
        groups = [Group.from_json(json.loads(line)) for line in file]
    return state, groups


def _complete(folder: Path) -> list[Path]:
    """Whole checkpoints, oldest first; one that was being replaced counts where the new one is not there."""
    if not folder.is_dir():
        return []
    found = {version_of(path): path for path in sorted(folder.glob("step-*"), reverse=True)}
    return [path for _, path in sorted(found.items())]


def _put_in_place(partial: Path, final: Path) -> None:
    """Give a checkpoint its name, which one of the run that this one resumed may have."""
    old = final.with_name(final.name + _OLD)
    if final.exists():
        if old.exists():
            _drop(old)
        final.rename(old)
    partial.rename(final)
    _sync(final.parent)
    if old.exists():
        _drop(old)


def _drop(checkpoint: Path) -> None:
    """Remove a checkpoint; half of one never has its name."""
    going = checkpoint.with_name(f"{_PARTIAL}{checkpoint.name}")
    checkpoint.rename(going)
    shutil.rmtree(going)


def _give_usual_modes(folder: Path) -> None:
    """Let whoever may read a new file read these: safetensors makes its own for their owner alone."""
    usual = folder / ".mode"
    usual.touch()
    mode = stat.S_IMODE(usual.stat().st_mode)
    usual.unlink()
    for path in folder.rglob("*"):
        if path.is_file():
            path.chmod(mode)


def _sync_tree(folder: Path) -> None:
    """Force a folder to the disk, so that the rename never shows a name without its contents."""
    for path in [*folder.rglob("*"), folder]:
        _sync(path)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """The error and all that led to it, in other processes too."""
    while error is not None:
        yield error
        if isinstance(error, CheckpointException):
            for failure, _ in error.failures.values():
                yield from _causes(failure)
        error = error.__cause__ or error.__context__


def _is_full_disk(error: BaseException) -> bool:
    """Whether there is no space left; safetensors says so in its message only."""
    if isinstance(error, OSError):
        return error.errno in (errno.ENOSPC, errno.EDQUOT)
    return f"os error {errno.ENOSPC}" in str(error) or "No space left" in str(error)
