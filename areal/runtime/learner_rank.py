"""One rank of a run's learner, as a worker (:mod:`areal.workers`).

All ranks receive the same calls in the same order, so that they call the same collectives. Calls that must
not overlap are plain methods; :meth:`LearnerRank.send` and :meth:`LearnerRank.write` run concurrently with
updates.

The learner does not run on a thread of the run's own process. Python runs one thread of a process at a time,
and both an update and the processing of each engine step are thousands of small calls, which would wait for
each other.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from areal.config import Config
from areal.errors import WorkerLost
from areal.threads import CallThread
from areal.waiting import Work

if TYPE_CHECKING:
    from areal.learner.learner import Learner
    from areal.runtime.checkpoint import Checkpoints, Staged
    from areal.runtime.rollout_state import RolloutState
    from areal.trajectory import Batch, TokenValues
    from areal.weights.interface import TransferBackend
    from areal.weights.sender import WeightSender


@dataclass(frozen=True, slots=True)
class LearnerSetup:
    """The setup from which each rank creates its learner.

    Attributes:
        model: folder or hub id of the initial weights.
        threads: number of CPU threads of each rank.
        checkpoints: the folder to which all ranks write.
        shared: whether it is the same folder on the hosts of all ranks and of the run's process.
        gpus: index of each rank's GPU; empty on a CPU.
        gpu_shares: share of the GPU's memory that PyTorch may use for each rank; empty if it is not planned.
        address: address of rank 0's host for other hosts.
    """

    config: Config
    model: str
    device: str
    threads: tuple[int, ...]
    checkpoints: Path
    gpus: tuple[int, ...] = ()
    address: str = "127.0.0.1"
    shared: bool = True
    gpu_shares: tuple[float, ...] = ()


class LearnerRank:
    """A rank: its shards of the learner, its part of checkpoints, and, for rank 0, the weight sender.

    Args:
        rank: its number; the first is 0.
    """

    _learner: Learner
    _checkpoints: Checkpoints
    _staged: Staged
    _store: Any

    def __init__(self, setup: LearnerSetup, rank: int = 0) -> None:
        import areal.runtime.replay  # noqa: F401 (the learner's imports, while the engine starts)

        self._setup, self._rank = setup, rank
        self._sender: WeightSender | None = None
        self._updating = False
        # A broadcast waits for engines that may be dead, so its thread may be abandoned.
        self._sending, self._writing = CallThread("areal-send"), CallThread("areal-write")

    def open_store(self) -> int:
        """Open the store at which the ranks meet, on rank 0; return its port."""
        from areal.learner.ranks import open_store

        self._store = open_store(self._setup.address)
        return self._store.port

    def make(self, port: int = 0) -> None:
        """Create the learner and compile everything that it will need.

        Args:
            port: port of the store of several ranks.
        """
        import torch
        import torch.distributed as dist

        from areal.learner.ranks import init_process_group, join_store
        from areal.models.sight import saved_beside
        from areal.runtime.checkpoint import Checkpoints
        from areal.runtime.learner import make_learner
        from areal.runtime.plan import engine_dtype

        setup, config = self._setup, self._setup.config
        group = None
        if config.learner.processes > 1:
            store = self._store if self._rank == 0 else join_store(setup.address, port)
            device = f"cuda:{setup.gpus[self._rank]}" if setup.gpus else "cpu"
            init_process_group(device, store, self._rank, config.learner.processes)
            # A separate group, because checkpoints are written on a thread during updates.
            group = dist.new_group(backend="gloo")
        if setup.gpu_shares:
            torch.cuda.set_per_process_memory_fraction(setup.gpu_shares[self._rank])
        self._learner = make_learner(config, setup.model, setup.device, setup.threads[self._rank])
        self._checkpoints = Checkpoints(
            setup.checkpoints,
            self._learner,
            saved_beside(setup.model),
            config.checkpoint.keep,
            engine_dtype(config, setup.device),
            group,
            setup.shared,
        )
        self._learner.warm_up()

    def description(self) -> str:
        """Return a short description of how the learner computes."""
        return self._learner.description

    def load(self, saved: Path, copy: Path | None = None) -> int:
        """Restore a checkpoint from any number of ranks; return its number of updates.

        Args:
            copy: on a host without ``saved``, the copy of the learner's part.
        """
        from areal.runtime.checkpoint import load_learner

        load_learner(copy if copy is not None and copy.exists() else saved, self._learner)
        return self._learner.version

    def hash_weights(self) -> str:
        """Return the result of :func:`areal.runtime.replay.hash_weights`."""
        from areal.runtime.replay import hash_weights

        return hash_weights(self._learner)

    def open_sender(self, backends: list[TransferBackend], workers: int = 1) -> list[dict[str, Any]]:
        """Open the weight sender to the engines; return the data with which each opens its end.

        Args:
            backends: the backend of each engine.
            workers: number of processes of each engine.
        """
        from areal.runtime.plan import engine_dtype
        from areal.weights.sender import open_sender

        device = self._setup.device
        self._engine_dtype = dtype = engine_dtype(self._setup.config, device)
        self._published = False
        parameters = self._learner.sent_parameters(dtype)
        if self._rank > 0:
            deque(parameters, maxlen=0)
            return []
        in_turn, address = self._setup.config.engine.swap == "in_turn", self._setup.address
        self._learner.move_base(None)  # there is no room for a second copy
        self._sender = open_sender(backends, parameters, dtype, device, address, workers, in_turn)
        self._learner.move_base(self._sender.tensors)
        return self._sender.init_infos()

    async def reopen_sender(self, backends: list[TransferBackend]) -> list[dict[str, Any]]:
        """Begin an epoch of the weight sender with other engines, during an update; see :meth:`open_sender`.

        No load may be in progress, except one that has failed.
        """
        if self._sender is None:
            return []
        self._sender.open(backends)
        return self._sender.init_infos()

    def publish(self) -> str:
        """Make the weights ready to load, and return their digest; no engine may be loading at this time."""
        digest = ""
        with _lost_if_broken():
            parameters = self._learner.sent_parameters(self._engine_dtype, again=self._published)
            if self._sender is None:  # another rank needs whole weights
                deque(parameters, maxlen=0)
            else:
                digest = self._sender.write(parameters, whole=not self._published)
            self._published = True
        return digest

    async def send(self) -> str:
        """Do the learner's part of a load, while the engines load.

        Returns:
            Why it failed; empty if it succeeded. It is not a failure of this rank, but of an engine.
        """
        if self._sender is None:
            return ""
        try:
            await self._sending.run(self._sender.send)
        except (RuntimeError, TimeoutError) as error:
            return str(error)
        return ""

    def update(self, batch: Batch) -> dict[str, float]:
        """Make one update and return its metrics.

        Raises:
            WorkerLost: the GPU, or a connection to another rank, is no longer usable.
        """
        self._updating = True
        try:
            with _lost_if_broken():
                return self._learner.update(batch)
        finally:
            self._updating = False

    def token_values(self) -> list[TokenValues]:
        """Return the last update's values for the tokens of a few rollouts; on rank 0, those of all ranks."""
        return self._learner.token_values if self._rank == 0 else []

    def progress(self) -> Work | None:
        """Return the number of micro-batches that have passed through the model.

        On a CPU one of them may take many minutes, so seconds of computing also count.
        """
        if not hasattr(self, "_learner"):
            return None
        done, unit = self._learner.passes, "micro-batches"
        if self._setup.device == "cpu":
            done, unit = done + int(time.process_time()), "units of work (micro-batches and CPU seconds)"
        return Work(done, unit, int(self._updating), self._learner.version)

    def stage(self, rollouts: RolloutState) -> None:
        """Copy the data for :meth:`write`, which must follow and finish before this is called again."""
        with _lost_if_broken():
            self._staged = self._checkpoints.stage(rollouts)

    async def write(self, wanted: frozenset[int] = frozenset()) -> Path:
        """Write a checkpoint of the staged data; older ones are kept if they are ``wanted``."""
        return await self._writing.run(lambda: self._checkpoints.write(self._staged, wanted))

    def export(self, folder: Path) -> None:
        """Write the final model."""
        self._checkpoints.export(folder)

    def close(self) -> None:
        """Close the weight sender and leave the group of ranks."""
        import torch.distributed as dist

        if self._sender is not None:
            self._sender.close()
        if dist.is_initialized():
            dist.destroy_process_group()


@contextmanager
def _lost_if_broken() -> Iterator[None]:
    """Raise WorkerLost if a GPU, or a connection to another rank, fails in the context."""
    from areal.learner.ranks import broken

    try:
        yield
    except RuntimeError as error:
        if what := broken(error):
            raise WorkerLost(what) from error
        raise
