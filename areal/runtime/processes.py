"""The learner of a run as several processes, each one rank: what the first is asked, all do.

The first rank is the run's own process. The others (:class:`Followers`) make the same learner and then obey:
:class:`SharedLearner` tells them by a pipe what it is asked, and does it too, so that all ranks make the same
collectives in the same order. With one process there is nobody to tell.

A follower dies with its parent. When one ends unasked, the others end too, which wakes whoever waits for them
in a collective, and the run ends with one line that says which.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from areal.config import Config
from areal.errors import UserError
from areal.rollout.engine_process import die_with
from areal.rollout.vllm_start import main_not_reimported

if TYPE_CHECKING:
    import torch

    from areal.learner.learner import Learner
    from areal.runtime.checkpoint import Checkpoints, Staged
    from areal.trajectory import Batch, Group

T = TypeVar("T")

_HOST = "127.0.0.1"
_GRACE = 5.0
"""Seconds for a follower to end when it is told to, and to be found dead after a collective failed."""
_ALIKE = (UserError, FloatingPointError)
"""What all ranks raise alike: they are made of what all ranks know. The first reports it."""


_JOIN, _END = "join", "end"


@dataclass(frozen=True, slots=True)
class Recipe:
    """What each rank makes its learner from.

    Attributes:
        config: of the run.
        model: folder or hub id of the weights to begin with.
        device: ``cpu`` or ``cuda``.
        threads: CPU threads of one rank.
        checkpoints: the folder that all write to.
    """

    config: Config
    model: str
    device: str
    threads: int
    checkpoints: Path

    def make(self, tokenizer: Any = None) -> tuple[Learner, Checkpoints]:
        """Return this rank's learner and its checkpoints; every rank has to ask."""
        import torch.distributed as dist

        from areal.learner.ranks import ranks
        from areal.runtime.assembly import engine_dtype, make_learner
        from areal.runtime.checkpoint import Checkpoints

        learner = make_learner(self.config, self.model, self.device, self.threads)
        # Of its own: checkpoints are written on a thread, while updates go on.
        group = dist.new_group(backend="gloo") if ranks() > 1 else None
        dtype = engine_dtype(self.config, self.device)
        keep = self.config.checkpoint.keep
        return learner, Checkpoints(self.checkpoints, learner, tokenizer, keep, dtype, group)


class Followers:
    """The processes of all ranks but the first; there may be none.

    Attributes:
        ended: done when one of them has ended unasked; its result says which and how, in one line.
    """

    def __init__(self, recipe: Recipe) -> None:
        """Start them; they wait until :meth:`join` is called."""
        self.ended: Future[str] = Future()
        self._device, self._ranks = recipe.device, recipe.config.learner.processes
        self._processes: list[Any] = []
        self._pipes: list[Connection] = []
        self._joined = self._broken = self._closing = False
        self._watch: threading.Thread | None = None
        if self._ranks == 1:
            return
        import torch.distributed as dist

        self._store = dist.TCPStore(_HOST, 0, is_master=True, wait_for_workers=False)
        context = multiprocessing.get_context("spawn")
        with main_not_reimported():
            for rank in range(1, self._ranks):
                ours, theirs = context.Pipe()
                arguments = (recipe, rank, self._store.port, theirs, os.getpid())
                process = context.Process(target=follow, args=arguments, name=f"learner-{rank}")
                process.start()
                theirs.close()
                self._processes.append(process)
                self._pipes.append(ours)
        self._watch = threading.Thread(target=self._wait_for_an_end, name="areal-followers", daemon=True)
        self._watch.start()

    def join(self) -> None:
        """Become the first rank of the default process group, on this thread's device.

        Raises:
            UserError: a follower has ended.
        """
        if not self._processes:
            return
        from areal.learner.ranks import join

        with self.expected():
            for pipe in self._pipes:
                pipe.recv_bytes()
            self.tell(_JOIN)
            join(self._device, self._store, 0, self._ranks)
            self._joined = True

    def tell(self, name: str, *arguments: Any) -> None:
        """Have all do it; they begin at once, and what follows here has to make the same collectives."""
        message = pickle.dumps((name, arguments))
        for pipe in self._pipes:
            pipe.send_bytes(message)

    @contextmanager
    def expected(self) -> Iterator[None]:
        """Within, the followers are needed.

        Raises:
            UserError: one has ended, in place of whatever came of that here.
        """
        if not self._processes:
            yield
            return
        try:
            yield
        except _ALIKE:
            raise
        except Exception as error:
            self._broken = True
            if wait_for([self.ended], _GRACE).done:
                raise UserError(self.ended.result()) from error
            raise
        if self.ended.done():
            raise UserError(self.ended.result())

    def close(self) -> None:
        """End them, in order if all is well; leave the process group."""
        if self._watch is None:
            return
        import torch.distributed as dist

        self._closing = True
        in_order = self._joined and not self._broken
        if in_order:
            with suppress(OSError):  # one has ended just now
                self.tell(_END)
            dist.destroy_process_group()
            for process in self._processes:
                process.join(_GRACE)
        for process in self._processes:
            process.kill()
            process.join()
        self._watch.join()
        if self._joined and not in_order:
            _abort()
            dist.destroy_process_group()
        for pipe in self._pipes:
            pipe.close()

    def _wait_for_an_end(self) -> None:
        of = {process.sentinel: rank for rank, process in enumerate(self._processes, 1)}
        rank = of[wait(list(of))[0]]
        if self._closing:
            return
        self._broken = True
        self.ended.set_result(self._line(rank))
        for process in self._processes:
            process.kill()
        if self._joined:
            _abort()

    def _line(self, rank: int) -> str:
        """Say how one has ended."""
        while (code := self._processes[rank - 1].exitcode) is None:  # another thread is just asking, too
            time.sleep(0.01)
        how = f"{signal.Signals(-code).name}, exit code {code}" if code < 0 else f"exit code {code}"
        return (
            f"learner process {rank} (of 0 to {self._ranks - 1}) ended: {how}; what it said last is in the "
            "run's engine.log, and SIGKILL is mostly a lack of memory; go on with --resume"
        )


class SharedLearner:
    """A run's learner and its checkpoints, whatever the number of processes.

    Everything here but :meth:`write` is called by one thread at a time, and makes its followers do the same.
    Each method raises UserError if a follower has ended.
    """

    def __init__(self, recipe: Recipe, followers: Followers, tokenizer: Any) -> None:
        """Make the learner, on all ranks, in about as much time as on one."""
        self._followers = followers
        followers.join()
        with followers.expected():
            self._learner, self._checkpoints = recipe.make(tokenizer)

    @property
    def version(self) -> int:
        """The number of finished updates."""
        return self._learner.version

    @property
    def description(self) -> str:
        """How it computes, in a few words."""
        return self._learner.description

    def named_parameters(self) -> Iterator[tuple[str, torch.Tensor]]:
        """The float32 weights under their Hugging Face names, each whole; ask for all of them."""
        with self._followers.expected():
            self._followers.tell("gather")
            yield from self._learner.named_parameters()

    def update(self, batch: Batch) -> dict[str, float]:
        """Make one update and return its metrics."""
        return self._together(lambda: self._learner.update(batch), "update", batch)

    def load(self, saved: Path) -> None:
        """Take back what a checkpoint holds, of any number of processes."""
        from areal.runtime.checkpoint import load_learner

        self._together(lambda: load_learner(saved, self._learner), "load", saved)

    def stage(self, state: dict[str, Any], groups: list[Group]) -> Staged:
        """Copy what :meth:`write` needs, which has to follow, and to be over before this is called again."""
        return self._together(lambda: self._checkpoints.stage(state, groups), "stage")

    def write(self, staged: Staged) -> Path:
        """Write a checkpoint, on any thread, while updates go on: the followers write theirs unasked."""
        with self._followers.expected():
            return self._checkpoints.write(staged)

    def export(self, folder: Path) -> None:
        """Write the final model."""
        self._together(lambda: self._checkpoints.export(folder), "export", folder)

    def _together(self, work: Callable[[], T], name: str, *arguments: Any) -> T:
        with self._followers.expected():
            self._followers.tell(name, *arguments)
            return work()


def follow(recipe: Recipe, rank: int, port: int, pipe: Connection, parent: int) -> None:
    """Be a rank: make the learner, then do what is told until the end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    die_with(parent)
    import torch.distributed as dist

    from areal.learner.ranks import join
    from areal.runtime.checkpoint import load_learner

    store = dist.TCPStore(_HOST, port, is_master=False)
    pipe.send_bytes(b"ready")
    pipe.recv_bytes()  # to join: until then the first rank may take its time
    join(recipe.device, store, rank, recipe.config.learner.processes)
    learner, checkpoints = recipe.make()
    writer = ThreadPoolExecutor(1, thread_name_prefix="areal-checkpoint")
    writing: list[Future[Path]] = []

    def stage() -> None:
        wait_for_writes(writing)
        writing[:] = [writer.submit(checkpoints.write, checkpoints.stage({}, []))]

    obey: dict[str, Callable[..., Any]] = {
        "gather": lambda: deque(learner.named_parameters(), maxlen=0),
        "update": learner.update,
        "load": lambda saved: load_learner(saved, learner),
        "stage": stage,
        "export": checkpoints.export,
    }
    while True:
        name, arguments = pickle.loads(pipe.recv_bytes())
        if name == _END:
            break
        try:
            obey[name](*arguments)
        except _ALIKE:  # the first rank has it too, and says so
            continue
    wait_for_writes(writing)
    dist.destroy_process_group()


def wait_for_writes(writing: list[Future[Path]]) -> None:
    """Wait for a checkpoint that is being written; what it fails of is known to the first rank, too."""
    for future in writing:
        future.exception()


def _abort() -> None:
    """Let whoever waits for another rank in a collective wait no longer."""
    import torch.distributed as dist

    if (world := dist.group.WORLD) is not None:
        world.abort()
