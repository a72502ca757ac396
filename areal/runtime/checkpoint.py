"""Checkpoints: atomic, complete, few, and written while training continues.

A checkpoint is a folder ``step-000050`` that appears under its name only when it is complete:

- ``learner/``: everything on which the next update depends, in the format of torch.distributed.checkpoint:
  weights and optimizer state by name, random states, version. m processes can load what n processes saved;
- ``model/``: weights and tokenizer in Hugging Face format, in the engine's compute type. If an adapter is
  trained, there is ``adapter/`` instead, in peft's format, and the whole checkpoint is small;
- ``state.json``: the number of the next group, and number and version of each group in flight. A resumed run
  generates those again from their beginning;
- ``groups.jsonl``: the finished groups that were waiting to be consumed;
- ``SHA256SUMS``: the digests of all these files, which reveal damage.

The learner pauses while its tensors are copied to the host (:meth:`Checkpoints.stage`). Another thread then
writes the copy (:meth:`Checkpoints.write`). If a process is killed, the last complete checkpoint remains.
"""

from __future__ import annotations

import copy
import json
import shutil
import stat
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.api import CheckpointException

from areal import disk
from areal.config import load_config
from areal.errors import UserError
from areal.learner import lora
from areal.learner.learner import Learner
from areal.learner.state import Tensors
from areal.models.resolve import FACTS
from areal.runtime import digests
from areal.runtime.rollout_state import RolloutState
from areal.trajectory import Group

# Most runs have one process, so this is not worth a warning.
warnings.filterwarnings("ignore", message="torch.distributed is disabled")


@dataclass(frozen=True, slots=True)
class Staged:
    """A copy of a run's state at one moment, which later updates do not change."""

    version: int
    learner: Tensors
    weights: Tensors | None
    adapter: Tensors | None
    rollouts: RolloutState


@dataclass(eq=False)
class Checkpoints:
    """The checkpoints of a run.

    Attributes:
        folder: the folder of the checkpoints.
        learner: the learner to save.
        tokenizer: saved with the model, together with the other files beside its weights
            (areal.models.sight.saved_beside).
        keep: number of checkpoints to keep; older ones are removed.
        dtype: the type of the exported weights.
        group: gloo group of the processes with the learner's shards, each of which makes every call; None:
            there is one process.
        shared: whether all processes see the run directory; if not, the run's process collects what each has
            written (areal.runtime.gathering).
    """

    folder: Path
    learner: Learner
    tokenizer: Any
    keep: int
    dtype: torch.dtype
    group: dist.ProcessGroup | None = None
    shared: bool = True

    def __post_init__(self) -> None:
        self._rank = 0 if self.group is None else dist.get_rank(self.group)
        self._first = self._rank == 0

    def stage(self, rollouts: RolloutState) -> Staged:
        """Copy the data that :meth:`write` needs. No update may be in progress."""
        learner = to_host(self.learner.state().items())
        weights = None if self.learner.adapted else self._weights()
        return Staged(self.learner.version, learner, weights, self._adapter(), rollouts)

    def write(self, staged: Staged, wanted: frozenset[int] = frozenset()) -> Path:
        """Write a checkpoint and remove all but the newest few. Training may continue during this.

        If the folder is not shared, each process writes its part, and :func:`settle` finishes the checkpoint.

        Args:
            staged: the copy to write.
            wanted: versions of older checkpoints to keep as well.

        Raises:
            DiskFull: the disk is full. Older checkpoints are untouched, and this can be called again.
            UserError: the checkpoint cannot be written for another reason.
        """
        run = self.folder.parent
        final = self.folder / f"step-{staged.version:06d}"
        partial = self.folder / f"{_PARTIAL}{final.name}"

        def begin() -> None:
            for left_over in self.folder.glob(f"{_PARTIAL}*"):  # from a run that was killed
                shutil.rmtree(left_over)
            self.folder.mkdir(exist_ok=True)  # but not the run's folder, if somebody has removed it
            partial.mkdir()

        def finish() -> None:
            self._write(partial, staged.weights, staged.adapter)
            _write_rollouts(partial, staged.rollouts)
            digests.write_sums(partial, _STATE, known)
            disk.sync_tree(partial)
            there.check()
            if self.shared:
                settle(partial, self.keep, wanted)

        with self._removed_on_failure(partial, run, "a checkpoint") as there:
            self._first_does(begin)
            alone = self.group is None
            dcp.save(
                staged.learner, checkpoint_id=partial / "learner", process_group=self.group, no_dist=alone
            )
            known = self._digests(partial)
            self._first_does(finish)
        return final if self.shared else partial

    def _digests(self, partial: Path) -> dict[str, str]:
        """Return the digests of all files, in the first process; each process computes its own."""
        if self.group is None:
            return {}
        own = [path.relative_to(partial).as_posix() for path in partial.glob(f"learner/__{self._rank}_*")]
        found: list[Any] | None = [None] * dist.get_world_size(self.group) if self._first else None
        dist.gather_object(digests.digests_of(partial, own), found, group=self.group, group_dst=0)
        return {name: digest for each in found or [] for name, digest in each.items()}

    @contextmanager
    def _removed_on_failure(self, partial: Path, run: Path, what: str) -> Iterator[disk.Held]:
        with disk.Held(run) as there:
            try:
                yield there
            except (Exception, CheckpointException) as error:
                if self._first:
                    shutil.rmtree(partial, ignore_errors=True)
                    if not there:
                        _remove_empty(partial.parent, run)
                lines = (disk.explained(cause, partial.parent, what) for cause in _causes(error))
                line = next(filter(None, lines), None) if there else disk.gone(run)
                if line is not None:
                    raise line from error
                raise

    def _first_does(self, work: Callable[[], None]) -> None:
        """Let the first process do some work. If it fails there, all processes raise the error."""
        if not self._first:
            failure: list[Exception | None] = [None]
            dist.broadcast_object_list(failure, group=self.group, group_src=0)
            if failure[0] is not None:
                raise failure[0]
            return
        try:
            work()
        except Exception as error:  # for any error, because the other processes wait for it
            self._tell(error)
            raise
        self._tell(None)

    def _tell(self, error: Exception | None) -> None:
        if self.group is not None:
            dist.broadcast_object_list([error], group=self.group, group_src=0)

    def export(self, folder: Path) -> None:
        """Write ``model/``, which ``transformers`` and vLLM load without areal, and the adapter, if any.

        Raises:
            UserError: the model cannot be written. An existing one is untouched.
        """
        weights, adapter = self._weights(), self._adapter()
        if not self._first:
            return
        partial = folder / f"{_PARTIAL}export"
        with self._removed_on_failure(partial, folder, "the model") as there:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir()
            self._write(partial, weights, adapter)
            there.check()
            settle_export(partial)

    def _write(self, folder: Path, weights: Tensors | None, adapter: Tensors | None) -> None:
        if weights is not None:
            write_model(folder / "model", self.learner.model, self.tokenizer, weights)
            (folder / "model" / FACTS).write_text(json.dumps({"updates": self.learner.version}) + "\n")
        if adapter is not None:
            lora.write_adapter(folder / "adapter", self.learner.model, self.learner.path, adapter)
        _give_usual_modes(folder)

    def _weights(self) -> Tensors:
        """Return unsharded weights; all processes gather them, and the first one copies them."""
        whole = self.learner.named_parameters()
        if self._first:
            return to_host(whole, self.dtype)
        return {name: weight for name, weight in whole if not name}  # gathered, then dropped

    def _adapter(self) -> Tensors | None:
        return to_host(lora.adapter_of(self.learner.model).items()) if self.learner.adapted else None


def _remove_empty(folder: Path, run: Path) -> None:
    """Remove a folder that a library has recreated, and its empty parents up to the run directory."""
    with suppress(OSError):  # folders with content stay
        for each in (folder, *folder.parents):
            if each.is_relative_to(run):
                each.rmdir()


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
    """Write weights with a checkpoint's names as a model of this kind, in Hugging Face format."""
    model.save_pretrained(folder, state_dict=dict(weights), save_original_format=False)
    config = copy.deepcopy(model.config)  # transformers writes the type of the learner's weights
    config.dtype = next(iter(weights.values())).dtype
    config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def settle(partial: Path, keep: int, wanted: frozenset[int] = frozenset()) -> Path:
    """Give a written checkpoint its name, and remove older ones.

    Args:
        partial: the checkpoint under its temporary name.
        keep: number of checkpoints to keep.
        wanted: versions of older checkpoints to keep as well.
    """
    final = partial.with_name(partial.name.removeprefix(_PARTIAL))
    _put_in_place(partial, final)
    for outdated in _complete(final.parent)[:-keep]:
        if version_of(outdated) not in wanted:
            _drop(outdated)
    return final


def settle_export(partial: Path) -> None:
    """Move the contents of a temporary folder into its parent, and remove the folder."""
    for made in list(partial.iterdir()):
        _put_in_place(made, partial.parent / made.name)
    partial.rmdir()


def latest(folder: Path) -> Path | None:
    """Return the newest complete checkpoint below ``folder``, if any."""
    return next(reversed(_complete(folder)), None)


def versions(folder: Path) -> dict[int, Path]:
    """Return all complete checkpoints below ``folder`` by their number of updates, oldest first."""
    return {version_of(path): path for path in _complete(folder)}


def before(folder: Path, step: int) -> Path | None:
    """Return the newest checkpoint from before update ``step`` that is not damaged."""
    found = reversed(_complete(folder))
    return next((c for c in found if version_of(c) < step and not damage(c)), None)


def damage(checkpoint: Path) -> str:
    """Briefly describe the damage of a checkpoint; empty: none was found."""
    for name in (_STATE, _GROUPS, "learner"):
        if not (checkpoint / name).exists():
            return f"{name} is missing"
    try:
        has_sums = _HAS_SUMS in json.loads((checkpoint / _STATE).read_bytes())
    except (ValueError, OSError):
        return f"{_STATE} cannot be read"
    # Older versions of areal did not write any.
    return digests.damage(checkpoint, _STATE) if has_sums or (checkpoint / digests.SUMS).exists() else ""


_PARTIAL, _OLD = ".partial-", ".old"
_STATE, _GROUPS, _HAS_SUMS = "state.json", "groups.jsonl", "has_digests"


def version_of(checkpoint: Path) -> int:
    """Return the number of updates of a checkpoint."""
    return int(checkpoint.name.removeprefix("step-").removesuffix(_OLD))


def load_learner(checkpoint: Path, learner: Learner) -> None:
    """Restore the learner's state from a checkpoint, on any number of processes.

    Raises:
        UserError: the checkpoint belongs to another model, other settings, or an old version of areal.
    """
    if not (checkpoint / "learner").is_dir():
        raise UserError(
            f"an older version of areal wrote {checkpoint}, and this version cannot resume it; start a new "
            f"run from its weights with model={checkpoint / 'model'}"
        )
    saved = dcp.FileSystemReader(checkpoint / "learner").read_metadata().state_dict_metadata
    own = learner.state(whole=True)
    shapes = {name: tensor.shape for name, tensor in own.items() if name.startswith("weights.")}
    sizes = {name: getattr(what, "size", None) for name, what in saved.items() if name.startswith("weights.")}
    if shapes != sizes:
        raise UserError(
            f"the weights in {checkpoint} belong to another model; resume with {_own(checkpoint)}"
        )
    found = {name: tensor for name, tensor in own.items() if name in saved}
    try:
        dcp.load(found, checkpoint_id=checkpoint / "learner", no_dist=True)  # each process reads its own part
    except CheckpointException as error:
        cause = next(iter(error.failures.values()))[0]
        raise RuntimeError(f"cannot read {checkpoint}: {cause}") from error
    learner.load_state(found)


def _own(checkpoint: Path) -> str:
    """Briefly describe the model of a checkpoint's weights."""
    if not (path := checkpoint.parents[1] / "config.yaml").exists():  # for a copy on another host
        return "the model of the run"
    config = load_config(path)
    return f"the settings of the run: model={config.model} learner.lora_rank={config.learner.lora_rank}"


def _write_rollouts(folder: Path, rollouts: RolloutState) -> None:
    """Write the state of the rollout side, with the waiting groups."""
    outstanding = rollouts.outstanding
    in_flight = [[number, version] for number, (version, group) in outstanding.items() if group is None]
    state = {"next_group": rollouts.next_group, "in_flight": in_flight, _HAS_SUMS: True}
    (folder / _STATE).write_text(json.dumps(state))
    groups = [group for _, group in outstanding.values() if group is not None]
    with (folder / _GROUPS).open("w") as file:
        file.writelines(json.dumps(group.to_json()) + "\n" for group in groups)


def load_rollouts(checkpoint: Path) -> RolloutState:
    """Return the state of the rollout side, with the waiting groups."""
    state = json.loads((checkpoint / _STATE).read_text())
    outstanding: dict[int, tuple[int, Group | None]] = {
        n: (version, None) for n, version in state["in_flight"]
    }
    with (checkpoint / _GROUPS).open() as file:
        for group in (Group.from_json(json.loads(line)) for line in file):
            outstanding[group.id] = (group.version, group)
    return RolloutState(version_of(checkpoint), state["next_group"], dict(sorted(outstanding.items())))


def _complete(folder: Path) -> list[Path]:
    """Return complete checkpoints, oldest first; one that is being replaced counts if it has no successor."""
    if not folder.is_dir():
        return []
    found = {version_of(path): path for path in sorted(folder.glob("step-*"), reverse=True)}
    return [path for _, path in sorted(found.items())]


def _put_in_place(partial: Path, final: Path) -> None:
    """Give a checkpoint its name, which an earlier checkpoint may have if the run was resumed."""
    old = final.with_name(final.name + _OLD)
    if final.exists():
        if old.exists():
            _drop(old)
        final.rename(old)
    partial.rename(final)
    disk.sync(final.parent)
    if old.exists():
        _drop(old)


def _drop(checkpoint: Path) -> None:
    """Rename a checkpoint before removing it, so that an incomplete one never has its name."""
    going = checkpoint.with_name(f"{_PARTIAL}{checkpoint.name}")
    checkpoint.rename(going)
    shutil.rmtree(going)


def set_aside(checkpoint: Path) -> None:
    """Give a damaged checkpoint another name, so that it is neither loaded nor counted."""
    aside = checkpoint.with_name(f"damaged-{checkpoint.name}")
    shutil.rmtree(aside, ignore_errors=True)
    checkpoint.rename(aside)


def _give_usual_modes(folder: Path) -> None:
    """Give files the mode of a new file, because only the owner can read those of safetensors."""
    usual = folder / ".mode"
    usual.touch()
    mode = stat.S_IMODE(usual.stat().st_mode)
    usual.unlink()
    for path in folder.rglob("*"):
        if path.is_file():
            path.chmod(mode)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and all errors that caused it, including those in other processes."""
    while error is not None:
        yield error
        if isinstance(error, CheckpointException):
            for failure, _ in error.failures.values():
                yield from _causes(failure)
        error = error.__cause__ or error.__context__
