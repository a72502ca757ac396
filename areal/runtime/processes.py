"""The learner of a run, in processes of its own, each one rank: what the run asks of it, all do.

Not on a thread of the run's process: Python runs one thread of a process at a time, and both an update and
what follows each step of the engine are thousands of small calls, which would wait for each other.

:class:`LearnerProcesses` is the run's side. It tells all ranks the same by pipes, so that they make the same
collectives in the same order; the first one answers. A rank (:func:`serve`) dies with its parent. When one
ends unasked, the others are ended too, and the run ends with one line that says which.
"""

from __future__ import annotations

import asyncio
import itertools
import multiprocessing
import os
import pickle
import signal
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import TYPE_CHECKING, Any

from setproctitle import setproctitle

from areal.config import Config
from areal.errors import LearnerLost, UserError
from areal.lifetime import die_with
from areal.rollout.vllm_start import main_not_reimported

if TYPE_CHECKING:
    from areal.learner.learner import Learner
    from areal.runtime.checkpoint import Checkpoints, Staged
    from areal.trajectory import Batch, Group
    from areal.weights.interface import TransferBackend
    from areal.weights.sender import WeightSender

_HOST = "127.0.0.1"
_GRACE = 5.0
"""Seconds for a process to end when it is told to, and to be found dead after a collective failed."""
_ALIKE = (UserError, FloatingPointError)
"""What all ranks raise alike, and go on after: they are made of what all ranks know."""
_ASIDE = ("send", "write")
"""What is done while the learner goes on, on a thread."""
_END = "end"


@dataclass(frozen=True, slots=True)
class Recipe:
    """What each rank makes its learner from.

    Attributes:
        config: of the run.
        model: folder or hub id of the weights to begin with.
        device: ``cpu`` or ``cuda``.
        threads: CPU threads of one rank.
        checkpoints: the folder that all write to.
        gpus: index of each rank's GPU; empty on a CPU.
    """

    config: Config
    model: str
    device: str
    threads: int
    checkpoints: Path
    gpus: tuple[int, ...] = ()

    def make(self) -> tuple[Learner, Checkpoints]:
        """Return this rank's learner and its checkpoints; every rank has to ask."""
        import torch.distributed as dist

        from areal.learner.ranks import world_size
        from areal.models import load_tokenizer
        from areal.runtime.checkpoint import Checkpoints
        from areal.runtime.learner import make_learner
        from areal.runtime.plan import engine_dtype

        learner = make_learner(self.config, self.model, self.device, self.threads)
        # Of its own: checkpoints are written on a thread, while updates go on.
        group = dist.new_group(backend="gloo") if world_size() > 1 else None
        dtype = engine_dtype(self.config, self.device)
        keep, tokenizer = self.config.checkpoint.keep, load_tokenizer(self.model)
        return learner, Checkpoints(self.checkpoints, learner, tokenizer, keep, dtype, group)


class LearnerProcesses:
    """A run's learner and its checkpoints, in one process or several.

    One thing is asked at a time, but for what is done aside (:meth:`send`, :meth:`write`). Each method raises
    LearnerLost if a process has ended.

    Attributes:
        version: the number of finished updates.
        description: how it computes, in a few words.
        ended: done when a process has ended unasked; its result says which and how, in one line.
    """

    def __init__(self, recipe: Recipe) -> None:
        """Start the processes; they get ready until :meth:`make` is called."""
        self.version = 0
        self.description = ""
        self.ended: Future[str] = Future()
        self._ranks = recipe.config.learner.processes
        self._processes: list[Any] = []
        self._pipes: list[Connection] = []
        self._numbers = itertools.count()
        self._unanswered: dict[int, Future[Any]] = {}
        self._lock = threading.Lock()
        self._sound, self._closing = True, False
        port = 0
        if self._ranks > 1:
            import torch.distributed as dist

            self._store = dist.TCPStore(_HOST, 0, is_master=True, wait_for_workers=False)
            port = self._store.port
        context = multiprocessing.get_context("spawn")
        with main_not_reimported():
            for rank in range(self._ranks):
                ours, theirs = context.Pipe()
                arguments = (recipe, rank, port, theirs, os.getpid())
                process = context.Process(target=serve, args=arguments, name=f"learner-{rank}")
                process.start()
                theirs.close()
                self._processes.append(process)
                self._pipes.append(ours)
        # On a thread, since a process that does not read its pipe holds up who writes to it.
        self._telling = ThreadPoolExecutor(1, thread_name_prefix="areal-learner-told")
        self._listener = threading.Thread(target=self._listen, name="areal-learner-heard", daemon=True)
        self._listener.start()

    async def make(self) -> None:
        """Make the learner, on all ranks, and have it compile what it will need."""
        self.description = await self._ask("make")

    async def load(self, saved: Path) -> None:
        """Take back what a checkpoint holds, of any number of processes."""
        self.version = await self._ask("load", saved)

    async def hash_weights(self) -> str:
        """Return what :func:`areal.runtime.replay.hash_weights` does."""
        return await self._ask("hash_weights")

    async def open_sender(self, backends: list[TransferBackend]) -> list[dict[str, Any]]:
        """Open the weight sender to the engines; return what each of them needs to open its end, once."""
        return await self._ask("open_sender", backends)

    async def publish(self) -> None:
        """Make the weights ready to load; no engine may be loading meanwhile."""
        await self._ask("publish")

    async def send(self) -> None:
        """Do the learner's part of a load, while the engines load."""
        await self._ask("send")

    async def update(self, batch: Batch) -> dict[str, float]:
        """Make one update and return its metrics."""
        metrics, self.version = await self._ask("update", batch)
        return metrics

    async def stage(self, state: dict[str, Any], groups: list[Group]) -> None:
        """Copy what :meth:`write` needs, which has to follow, and to be over before this is called again."""
        await self._ask("stage", state, groups)

    async def write(self, wanted: frozenset[int] = frozenset()) -> Path:
        """Write a checkpoint of what was staged, while updates go on; those ``wanted`` are not dropped."""
        return await self._ask("write", wanted)

    async def export(self, folder: Path) -> None:
        """Write the final model."""
        await self._ask("export", folder)

    def kill(self) -> None:
        """End the processes at once; whoever waits for them gets LearnerLost."""
        for process in self._processes:
            process.kill()

    def close(self) -> None:
        """End the processes, in order if all is well."""
        self._closing = True
        if self._sound and not self.ended.done():
            self._tell(0, _END)
            deadline = time.monotonic() + _GRACE
            for process in self._processes:
                process.join(max(0.0, deadline - time.monotonic()))
        for process in self._processes:
            process.kill()
            process.join()
        self._telling.shutdown()
        self._listener.join()
        for pipe in self._pipes:
            pipe.close()

    async def _ask(self, name: str, *arguments: Any) -> Any:
        """Have all ranks do it; return what the first answers, or raise it."""
        answer: Future[Any] = Future()
        answer.set_running_or_notify_cancel()  # it comes, also if nobody waits for it any more
        with self._lock:
            if self.ended.done():
                raise LearnerLost(self.ended.result())
            number = next(self._numbers)
            self._unanswered[number] = answer
        self._tell(number, name, *arguments)
        return await asyncio.wrap_future(answer)

    def _tell(self, number: int, name: str, *arguments: Any) -> None:
        message = pickle.dumps((number, name, arguments), pickle.HIGHEST_PROTOCOL)

        def tell() -> None:
            with suppress(OSError):  # one has ended, which the listener finds too
                for pipe in self._pipes:
                    pipe.send_bytes(message)

        self._telling.submit(tell)

    def _listen(self) -> None:
        """Pass on the first rank's answers until a process ends."""
        ranks = {process.sentinel: rank for rank, process in enumerate(self._processes)}
        answers = self._pipes[0]
        sources: list[Any] = [answers, *ranks]
        while answers in (ready := wait(sources)):
            try:
                number, value, error = pickle.loads(answers.recv_bytes())
            except (EOFError, OSError):  # its process is about to end
                sources.remove(answers)
                continue
            if error is not None and not isinstance(error, _ALIKE):
                self._sound = False
                # Perhaps it failed because of another, which is what to tell of.
                if self._ranks > 1 and (ready := wait(list(ranks), _GRACE)):
                    break
            with self._lock:
                answer = self._unanswered.pop(number)
            if error is None:
                answer.set_result(value)
            else:
                answer.set_exception(error)
        line = "the learner was closed" if self._closing else self._line(ranks[ready[0]])
        for process in self._processes:
            process.kill()
        with self._lock:
            if not self._closing:
                self.ended.set_result(line)
            unanswered, self._unanswered = self._unanswered, {}
        for answer in unanswered.values():
            answer.set_exception(LearnerLost(line))

    def _line(self, rank: int) -> str:
        """Say how one has ended."""
        while (code := self._processes[rank].exitcode) is None:  # another thread is just asking, too
            time.sleep(0.01)
        which = "the learner's process"
        if self._ranks > 1:
            which = f"learner process {rank} (of 0 to {self._ranks - 1})"
        how = f"{signal.Signals(-code).name}, exit code {code}" if code < 0 else f"exit code {code}"
        return (
            f"{which} ended: {how}; what it said last is in the run's engine.log, and SIGKILL is mostly a "
            "lack of memory"
        )


def serve(recipe: Recipe, rank: int, port: int, pipe: Connection, parent: int) -> None:
    """Be a rank: do what is asked, one thing after another, until the end."""
    for number in (
        signal.SIGINT,
        signal.SIGTERM,
        signal.SIGHUP,
    ):  # the run's process decides what becomes of them
        signal.signal(number, signal.SIG_IGN)
    die_with(parent)
    setproctitle(f"areal learner {rank}")
    ours = _Rank(recipe, rank, port)
    writing: threading.Thread | None = None
    answering = threading.Lock()

    def answer(number: int, work: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
        value: Any = None
        error: Exception | None = None
        try:
            value = work(*arguments)
        except _ALIKE as alike:
            error = alike
        except Exception as failure:
            if rank > 0:  # it is seen to have ended
                raise
            error = _portable(failure)
        if rank == 0:
            message = pickle.dumps((number, value, error))
            with answering:
                pipe.send_bytes(message)

    while True:
        number, name, arguments = pickle.loads(pipe.recv_bytes())
        if writing is not None and name in (_END, "stage"):
            writing.join()
        if name == _END:
            break
        call = (number, getattr(ours, name), arguments)
        if name not in _ASIDE:
            answer(*call)
            continue
        thread = threading.Thread(target=answer, args=call, name=f"areal-{name}", daemon=True)
        thread.start()
        if name == "write":
            writing = thread
    ours.close()


class _Rank:
    """One rank: its learner, its checkpoints, and, of the first, the weight sender."""

    _learner: Learner
    _checkpoints: Checkpoints
    _staged: Staged

    def __init__(self, recipe: Recipe, rank: int, port: int) -> None:
        import areal.runtime.replay  # noqa: F401 (what a learner needs, while the engine starts)

        self._recipe, self._rank, self._port = recipe, rank, port
        self._sender: WeightSender | None = None

    def make(self) -> str:
        if (ranks := self._recipe.config.learner.processes) > 1:
            import torch.distributed as dist

            from areal.learner.ranks import init_process_group

            self._store = dist.TCPStore(_HOST, self._port, is_master=False)
            gpus = self._recipe.gpus
            device = f"cuda:{gpus[self._rank]}" if gpus else "cpu"
            init_process_group(device, self._store, self._rank, ranks)
        self._learner, self._checkpoints = self._recipe.make()
        self._learner.warm_up()
        return self._learner.description

    def load(self, saved: Path) -> int:
        from areal.runtime.checkpoint import load_learner

        load_learner(saved, self._learner)
        return self._learner.version

    def hash_weights(self) -> str:
        from areal.runtime.replay import hash_weights

        return hash_weights(self._learner)

    def open_sender(self, backends: list[TransferBackend]) -> list[dict[str, Any]]:
        from areal.runtime.plan import engine_dtype
        from areal.weights.sender import open_sender

        if self._rank > 0:
            self._gather()
            return []
        dtype = engine_dtype(self._recipe.config, self._recipe.device)
        parameters = self._learner.named_parameters()
        self._sender = open_sender(backends, parameters, dtype, self._recipe.device)
        return self._sender.init_infos()

    def publish(self) -> None:
        if self._sender is None:
            self._gather()
        else:
            self._sender.write(self._learner.named_parameters())

    def send(self) -> None:
        if self._sender is not None:
            self._sender.send()

    def update(self, batch: Batch) -> tuple[dict[str, float], int]:
        return self._learner.update(batch), self._learner.version

    def stage(self, state: dict[str, Any], groups: list[Group]) -> None:
        self._staged = self._checkpoints.stage(state, groups)

    def write(self, wanted: frozenset[int]) -> Path:
        return self._checkpoints.write(self._staged, wanted)

    def export(self, folder: Path) -> None:
        self._checkpoints.export(folder)

    def close(self) -> None:
        import torch.distributed as dist

        if self._sender is not None:
            self._sender.close()
        if dist.is_initialized():
            dist.destroy_process_group()

    def _gather(self) -> None:
        """Take part where the first rank asks for whole weights."""
        deque(self._learner.named_parameters(), maxlen=0)


def _portable(failure: Exception) -> Exception:
    """Return an error as another process can have it, with where it came from as a note."""
    told = f"In the learner's process:\n{''.join(traceback.format_exception(failure))}"
    if type(failure).__module__ != "builtins":  # not every error can be made from what it says
        failure = RuntimeError(f"{type(failure).__qualname__}: {failure}")
    failure.add_note(told)
    return failure
