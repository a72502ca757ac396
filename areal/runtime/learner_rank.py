"""One rank of a run's learner, as a worker (:mod:`areal.workers`).

All ranks get the same calls in the same order, so that they make the same collectives. What must not overlap
is plain methods; :meth:`LearnerRank.send` and :meth:`LearnerRank.write` go on beside updates.

The learner is not on a thread of the run's own process: Python runs one thread of a process at a time, and
both an update and what follows each step of the engine are thousands of small calls, which would wait for
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
    """What each rank makes its learner from.

    Attributes:
        model: folder or hub id of the weights to begin with.
        threads: CPU threads of each rank.
        checkpoints: the folder that all write to.
        shared: whether it is the same folder on the hosts of all ranks and of the run's process.
        gpus: index of each rank's GPU; empty on a CPU.
        gpu_shares: of its memory, that PyTorch may take for each rank; empty if that is not planned.
        address: by which other hosts reach that of rank 0.
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
    """A rank: its shards of the learner, its part of checkpoints, and, of rank 0, the weight sender.

    Args:
        rank: its number; the first is 0.
    """

    _learner: Learner
    _checkpoints: Checkpoints
    _staged: Staged
    _store: Any

    def __init__(self, setup: LearnerSetup, rank: int = 0) -> None:
        import areal.runtime.replay  # noqa: F401 (what a learner needs, while the engine starts)

        self._setup, self._rank = setup, rank
        self._sender: WeightSender | None = None
        self._updating = False
        # A broadcast waits for engines that may be dead: its thread may be left behind.
        self._sending, self._writing = CallThread("areal-send"), CallThread("areal-write")

    def open_store(self) -> int:
        """Open the store at which the ranks meet, as rank 0 does; return its port."""
        from areal.learner.ranks import open_store

        self._store = open_store(self._setup.address)
        return self._store.port

    def make(self, port: int = 0) -> None:
        """Make the learner and have it compile what it will need.

        Args:
            port: of the store of several ranks.
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
            # Of its own: checkpoints are written on a thread, while updates go on.
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
        """Return how the learner computes, in a few words."""
        return self._learner.description

    def load(self, saved: Path, copy: Path | None = None) -> int:
        """Take back what a checkpoint holds, of any number of ranks; return its number of updates.

        Args:
            copy: where a host that does not have ``saved`` has what a learner needs of it.
        """
        from areal.runtime.checkpoint import load_learner

        load_learner(copy if copy is not None and copy.exists() else saved, self._learner)
        return self._learner.version

    def hash_weights(self) -> str:
        """Return what :func:`areal.runtime.replay.hash_weights` does."""
        from areal.runtime.replay import hash_weights

        return hash_weights(self._learner)

    def open_sender(self, backends: list[TransferBackend], workers: int = 1) -> list[dict[str, Any]]:
        """Open the weight sender to the engines; return what each of them needs once, to open its end.

        Args:
            backends: the backend of each engine.
            workers: processes of each engine.
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
        self._learner.move_base(None)  # there is no room for it twice
        self._sender = open_sender(backends, parameters, dtype, device, address, workers, in_turn)
        self._learner.move_base(self._sender.tensors)
        return self._sender.init_infos()

    async def reopen_sender(self, backends: list[TransferBackend]) -> list[dict[str, Any]]:
        """Begin an epoch of the weight sender with other engines, beside an update; see :meth:`open_sender`.

        No load may be in flight, but for one that has failed.
        """
        if self._sender is None:
            return []
        self._sender.open(backends)
        return self._sender.init_infos()

    def publish(self) -> str:
        """Make the weights ready to load, and return their digest; no engine may be loading meanwhile."""
        digest = ""
        with _lost_if_broken():
            parameters = self._learner.sent_parameters(self._engine_dtype, again=self._published)
            if self._sender is None:  # another rank asks for whole weights
                deque(parameters, maxlen=0)
            else:
                digest = self._sender.write(parameters, whole=not self._published)
            self._published = True
        return digest

    async def send(self) -> str:
        """Do the learner's part of a load, while the engines load.

        Returns:
            Why that failed; empty if it did not. It is no failure of this rank: an engine has failed.
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
            WorkerLost: the GPU, or a connection to another rank, is of no use any more.
        """
        self._updating = True
        try:
            with _lost_if_broken():
                return self._learner.update(batch)
        finally:
            self._updating = False

    def token_values(self) -> list[TokenValues]:
        """Return what the last update computed of the tokens of a few rollouts; of rank 0, of all ranks."""
        return self._learner.token_values if self._rank == 0 else []

    def progress(self) -> Work | None:
        """Return how many micro-batches went through the model.

        On a CPU one of them may take many minutes, so that seconds of computing count, too.
        """
        if not hasattr(self, "_learner"):
            return None
        done, unit = self._learner.passes, "micro-batches"
        if self._setup.device == "cpu":
            done, unit = done + int(time.process_time()), "micro-batches or CPU seconds"
        return Work(done, unit, int(self._updating), self._learner.version)

    def stage(self, rollouts: RolloutState) -> None:
        """Copy what :meth:`write` needs, which has to follow, and to be over before this is called again."""
        with _lost_if_broken():
            self._staged = self._checkpoints.stage(rollouts)

    async def write(self, wanted: frozenset[int] = frozenset()) -> Path:
        """Write a checkpoint of what was staged; older ones stay if they are ``wanted``."""
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
    """Tell a GPU, or a connection to another rank, that fails within from other errors; raises WorkerLost."""
    from areal.learner.ranks import broken

    try:
        yield
    except RuntimeError as error:
        if what := broken(error):
            raise WorkerLost(what) from error
        raise
