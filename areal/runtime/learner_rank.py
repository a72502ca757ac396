"""One rank of a run's learner, as a worker (:mod:`areal.workers`).

All ranks get the same calls in the same order, so that they make the same collectives. What must not overlap
is plain methods; :meth:`LearnerRank.send` and :meth:`LearnerRank.write` go on beside updates.

The learner is not on a thread of the run's own process: Python runs one thread of a process at a time, and
both an update and what follows each step of the engine are thousands of small calls, which would wait for
each other.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from areal.config import Config
from areal.threads import CallThread

if TYPE_CHECKING:
    from areal.learner.learner import Learner
    from areal.runtime.checkpoint import Checkpoints, Staged
    from areal.trajectory import Batch, Group
    from areal.weights.interface import TransferBackend
    from areal.weights.sender import WeightSender

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class LearnerSetup:
    """What each rank makes its learner from.

    Attributes:
        model: folder or hub id of the weights to begin with.
        threads: CPU threads of one rank.
        checkpoints: the folder that all write to.
        gpus: index of each rank's GPU; empty on a CPU.
        address: by which other hosts reach that of rank 0.
    """

    config: Config
    model: str
    device: str
    threads: int
    checkpoints: Path
    gpus: tuple[int, ...] = ()
    address: str = "127.0.0.1"


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
        self._sending, self._writing = CallThread("areal-send"), CallThread("areal-write")

    def open_store(self) -> int:
        """Open the store at which the ranks meet, as rank 0 does; return its port."""
        import torch.distributed as dist

        self._store = dist.TCPStore(self._setup.address, 0, is_master=True, wait_for_workers=False)
        return self._store.port

    def make(self, port: int = 0) -> None:
        """Make the learner and have it compile what it will need.

        Args:
            port: of the store of several ranks.
        """
        import torch.distributed as dist

        from areal.learner.ranks import init_process_group
        from areal.models import load_tokenizer
        from areal.runtime.checkpoint import Checkpoints
        from areal.runtime.learner import make_learner
        from areal.runtime.plan import engine_dtype

        setup, config = self._setup, self._setup.config
        group = None
        if config.learner.processes > 1:
            store = self._store if self._rank == 0 else dist.TCPStore(setup.address, port, is_master=False)
            device = f"cuda:{setup.gpus[self._rank]}" if setup.gpus else "cpu"
            init_process_group(device, store, self._rank, config.learner.processes)
            # Of its own: checkpoints are written on a thread, while updates go on.
            group = dist.new_group(backend="gloo")
        self._learner = make_learner(config, setup.model, setup.device, setup.threads)
        self._checkpoints = Checkpoints(
            setup.checkpoints,
            self._learner,
            load_tokenizer(setup.model),
            config.checkpoint.keep,
            engine_dtype(config, setup.device),
            group,
        )
        self._learner.warm_up()

    def description(self) -> str:
        """Return how the learner computes, in a few words."""
        return self._learner.description

    def load(self, saved: Path) -> int:
        """Take back what a checkpoint holds, of any number of ranks; return its number of updates."""
        from areal.runtime.checkpoint import load_learner

        load_learner(saved, self._learner)
        return self._learner.version

    def hash_weights(self) -> str:
        """Return what :func:`areal.runtime.replay.hash_weights` does."""
        from areal.runtime.replay import hash_weights

        return hash_weights(self._learner)

    def open_sender(self, backends: list[TransferBackend]) -> list[dict[str, Any]]:
        """Open the weight sender to the engines; return what each of them needs once, to open its end."""
        from areal.runtime.plan import engine_dtype
        from areal.weights.sender import open_sender

        if self._rank > 0:
            self._gather()
            return []
        device = self._setup.device
        dtype = engine_dtype(self._setup.config, device)
        parameters = self._learner.named_parameters()
        self._sender = open_sender(backends, parameters, dtype, device, self._setup.address)
        return self._sender.init_infos()

    def publish(self) -> None:
        """Make the weights ready to load; no engine may be loading meanwhile."""
        if self._sender is None:
            self._gather()
        else:
            self._sender.write(self._learner.named_parameters())

    async def send(self) -> None:
        """Do the learner's part of a load, while the engines load."""
        if self._sender is not None:
            await _on(self._sending, self._sender.send)

    def update(self, batch: Batch) -> dict[str, float]:
        """Make one update and return its metrics."""
        return self._learner.update(batch)

    def stage(self, state: dict[str, Any], groups: list[Group]) -> None:
        """Copy what :meth:`write` needs, which has to follow, and to be over before this is called again."""
        self._staged = self._checkpoints.stage(state, groups)

    async def write(self, wanted: frozenset[int] = frozenset()) -> Path:
        """Write a checkpoint of what was staged; older ones stay if they are ``wanted``."""
        return await _on(self._writing, lambda: self._checkpoints.write(self._staged, wanted))

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

    def _gather(self) -> None:
        """Take part where rank 0 asks for whole weights."""
        deque(self._learner.named_parameters(), maxlen=0)


async def _on(thread: CallThread, work: Callable[[], T]) -> T:
    """Do some work on a thread that may be left behind: a broadcast waits for engines that may be dead."""
    result, error = await asyncio.wrap_future(thread.start(work))
    if error is not None:
        raise error
    return result
