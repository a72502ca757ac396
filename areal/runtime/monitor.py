"""Watches a whole run: writes its status every second, and acts if the run stalls.

If a single worker (the learner counts as one) owes an answer while nothing moves, it counts as frozen. It is
killed (:mod:`areal.workers.guard`) and restarted. Otherwise the run ends.

A run moves if there are new tokens, micro-batches, updates or waits, if an episode ends, a call of an
environment returns, or a file is written. While the run starts, computing also counts. A call of an
environment has its own limit (``rollout.env_time_limit``), and so has a program that acts as the agent. A run
that waits for nothing else is not stalled.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from areal.config import Config
from areal.errors import RunStalled
from areal.runtime.restarts import Restarts
from areal.runtime.stacks import own_stacks
from areal.telemetry.run_directory import write_whole
from areal.telemetry.status import identity, rows, worker_rows, write_status
from areal.telemetry.tables import lines
from areal.threads import CallThread
from areal.waiting import Waits, Work
from areal.workers.guard import BEAT, Guard

if TYPE_CHECKING:
    from areal.rollout.environments import EnvCalls
    from areal.runtime.loop import Trainer
    from areal.runtime.recording import Records

log = logging.getLogger(__name__)

_MOVED = 2**24
"""Bytes that processes read or write while something moves; reading their own state takes far fewer."""
_AT_WORK = 0.1
"""Share of a CPU core above which starting processes count as computing."""
_LAST = 5.0
"""Seconds for writing the last status."""
_WINDOW = 10
"""Seconds, and updates, over which rates are measured."""


class Monitor:
    """Watches over a run.

    Attributes:
        guard: watches over the run's workers, and reports to the monitor.
        waits: current waits of the run.
        restarts: counts the restarts of the run's workers.
    """

    def __init__(self, config: Config, records: Records) -> None:
        self._config, self._records = config, records
        self._limit = config.run.stall_limit
        self.guard = Guard(self._limit)
        self.guard.report = self._frozen
        self.waits = Waits()
        self.restarts = Restarts(config.run.max_restarts)
        self._trainer: Trainer | None = None
        self._calls: EnvCalls | None = None
        self._began = time.monotonic()
        self._identity = identity()
        self._ended = self._report = self._stalled = ""
        self._writer = CallThread("areal-status")
        self._writing: asyncio.Future[Any] | None = None
        self._past: dict[str, deque[tuple[float, float, float]]] = {}
        self._updates = deque([(self._began, 0)], maxlen=_WINDOW)
        self._marks: tuple[Any, ...] = ()
        self._marked, self._nbytes, self._cpu = self._began, 0.0, 0.0

    def watch_over(self, trainer: Trainer, calls: EnvCalls | None) -> None:
        """Also watch the training.

        Args:
            trainer: trains the model.
            calls: the calls of environments in this process; None: environments run in other workers.
        """
        self._trainer, self._calls = trainer, calls

    @asynccontextmanager
    async def watching(self) -> AsyncIterator[None]:
        """Watch over the run within the block, which is cancelled if the run stalls.

        Raises:
            RunStalled: the run stalled. The message is a line that says what waited for what.
        """
        main = asyncio.current_task()
        assert main is not None
        watching = asyncio.create_task(self._watch(main), name="monitor")
        self._ended = "finished"
        try:
            yield
        except BaseException as error:
            self._ended = " ".join(str(error).split()) or type(error).__name__
            if self._stalled:
                self._ended = self._stalled
                while main.uncancel():
                    pass
                raise RunStalled(self._stalled) from error
            raise
        finally:
            watching.cancel()
            self._writer.end()
            last = self._write_on(CallThread("areal-status"), self._ended)  # the other thread may hang
            await asyncio.wait([last], timeout=_LAST)

    async def _watch(self, main: asyncio.Task[Any]) -> None:
        idle, looked, times = 0.0, time.monotonic(), 0
        while True:
            await asyncio.sleep(BEAT)
            now = time.monotonic()
            self._measure(now)
            if self._writing is None or self._writing.done():  # the run does not wait for its disk
                self._writing = self._write_on(self._writer)
            # Time in which this process did not run does not count; see areal.workers.guard.
            idle, looked = idle + min(now - looked, 2 * BEAT), now
            if self._moves():
                idle = 0.0
            elif self._limit and idle >= self._limit:
                idle = 0.0
                if self._accuse_one():
                    continue
                times += 1
                if times == 1:
                    await self._stall(main)
                else:  # the shutdown of the run has stalled, too
                    for worker in self.guard.workers:
                        worker.kill()

    def _accuse_one(self) -> bool:
        """Kill the worker that owes an answer if it is the only one; return whether there is one."""
        if self._trainer is None:
            return False
        owing = [each for each in self.guard.workers if each.owes and not each.name.startswith("rollout")]
        names = {"the learner" if each.name.startswith("learner") else each.name for each in owing}
        if len(names) != 1 or any(each.pulse.accused for each in owing):
            return False
        for each in owing:
            each.pulse.accused = f"no progress for {self._limit:.0f} s, and its answer is overdue (frozen)"
        return True

    async def _stall(self, main: asyncio.Task[Any]) -> None:
        waits = "; ".join(f"{wait.who} waits for {wait.what}" for wait in self.waits.now)
        line = f"no progress for {self._limit:.0f} s: {waits or 'no part waits for another'}"
        self._stalled = line + await self._write_report(line, self.guard.workers)
        log.error("%s", self._stalled)
        main.cancel()

    async def _frozen(self, worker: Any, reason: str) -> str:
        return await self._write_report(f"{worker.name}: {reason}", [worker])

    async def _write_report(self, head: str, suspects: Sequence[Any]) -> str:
        """Write a report; return the end of a line that names its path.

        Args:
            suspects: workers that are lost anyway, so they need not survive reading their stacks.
        """
        status = self._status("")
        parts = [head, "", *(f"{name:<12}{value}" for name, value in rows(status)), ""]
        parts += [*lines(*worker_rows(status)), "", f"process {self._identity['pid']}: the run", own_stacks()]
        workers = list(self.guard.workers)
        found = await asyncio.gather(*(worker.stacks(worker in suspects) for worker in workers))
        for worker, stacks in zip(workers, found, strict=True):
            parts += [f"{worker.name}{' on host ' * bool(worker.host)}{worker.host}", stacks]
        path = self._records.directory.new_report()
        try:
            write_whole(path, (f"{part}\n" for part in parts))
        except OSError as error:
            log.exception("cannot write the report")
            return f"; cannot write its report: {error.strerror}"
        self._report = str(path)
        return f"; report: {path}"

    def _moves(self) -> bool:
        """Return whether anything has moved since the last call."""
        trainer, workers = self._trainer, self.guard.workers
        beats = [worker.pulse.last for worker in workers if worker.pulse.last is not None]
        works = [beat.work for beat in beats if beat.work is not None]
        marks: tuple[Any, ...] = (*self.waits.now, *(work.done for work in works), len(workers))
        if trainer is not None:
            marks += (trainer.version, trainer.rollouts.finished_episodes)
        if self._calls is not None:
            marks += (self._calls.done,)
        nbytes = float(sum(vitals.nbytes for beat in beats for vitals in beat.family))
        cpu = sum(vitals.cpu for beat in beats for vitals in beat.family)
        moved = marks != self._marks or abs(nbytes - self._nbytes) > _MOVED
        moved |= any(worker.pulse.starting for worker in workers)
        if trainer is None or trainer.recovering:
            computed = abs(cpu - self._cpu) > BEAT + _AT_WORK * (time.monotonic() - self._marked)
            tries = any(vitals.state in "RD" for beat in beats for vitals in beat.family)
            moved |= computed or tries
        elif self._is_elsewhere(works):
            moved |= not any(work.open for work in works)
        if moved:
            self._marks, self._marked = marks, time.monotonic()
            self._nbytes, self._cpu = nbytes, cpu
        return moved

    def _is_elsewhere(self, works: list[Work]) -> bool:
        """Return whether episodes wait for environments or programs, which have their own limits."""
        if any(work.elsewhere for work in works) or (self._calls is not None and self._calls.since):
            return True
        program = self._config.agent == "program"
        return program and self._trainer is not None and self._trainer.rollouts.in_flight > 0

    def _measure(self, now: float) -> None:
        """Record the data for the rates."""
        for worker in self.guard.workers:
            if (beat := worker.pulse.last) is not None:
                done = float(beat.work.done) if beat.work is not None else 0.0
                past = self._past.setdefault(worker.name, deque(maxlen=_WINDOW))
                past.append((now, done, sum(vitals.cpu for vitals in beat.family)))
        if self._trainer is not None and self._trainer.version != self._updates[-1][1]:
            self._updates.append((now, self._trainer.version))

    def _status(self, ended: str) -> dict[str, Any]:
        now, trainer = time.monotonic(), self._trainer
        workers = [self._of_worker(worker) for worker in self.guard.workers]
        (begin, first), (last, version) = self._updates[0], self._updates[-1]
        return {
            **self._identity,
            "time": time.time(),
            "seconds": now - self._began,
            "ended": ended,
            "version": version if trainer is None else trainer.version,
            "steps": self._config.steps,
            "waits": [{"who": w.who, "what": w.what, "seconds": now - w.since} for w in self.waits.now],
            **self._of_rollouts(now, workers),
            "rates": {
                "tokens_per_s": sum(worker["rate"] for worker in _engines(workers)),
                "updates_per_hour": 3600 * (version - first) / (last - begin) if last > begin else 0.0,
            },
            "restarts": self.restarts.total,
            "report": self._report,
            "workers": workers,
        }

    def _of_rollouts(self, now: float, workers: list[dict[str, Any]]) -> dict[str, Any]:
        if self._trainer is None:
            return {}
        admission = self._trainer.checkpoints.admission
        since = list(self._calls.since.values()) if self._calls is not None else []
        elsewhere = sum(worker["work"]["elsewhere"] for worker in workers if worker["work"])
        return {
            "groups": {
                "admitted": admission.counted,
                "in flight": admission.in_flight,
                "finished": admission.complete,
            },
            "episodes": {
                "in flight": self._trainer.rollouts.in_flight,
                "finished": self._trainer.rollouts.finished_episodes,
                "requests": sum(worker["work"]["open"] for worker in _engines(workers)),
                "environment calls": len(since) + elsewhere,
                "longest call": now - min(since, default=now),
            },
        }

    def _of_worker(self, worker: Any) -> dict[str, Any]:
        pulse, past = worker.pulse, self._past.get(worker.name)
        (begin, done, cpu), (end, more, further) = (past[0], past[-1]) if past else ((0.0,) * 3, (0.0,) * 3)
        seconds = max(end - begin, BEAT)
        work = None if pulse.last is None or pulse.last.work is None else pulse.last.work._asdict()
        return {
            "name": worker.name,
            "host": worker.host,
            "pid": worker.pid,
            "starting": pulse.starting,
            "silent": pulse.silent,
            "idle": pulse.idle,
            "work": work,
            "rate": max(0.0, more - done) / seconds,
            "cores": max(0.0, further - cpu) / seconds,
        }

    def _write_on(self, thread: CallThread, ended: str = "") -> asyncio.Future[Any]:
        """Write the status on a thread. A status that cannot be written shows by its age."""
        write = partial(write_status, self._records.directory.path, self._status(ended))
        return asyncio.wrap_future(thread.start(write))


def _engines(workers: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [worker for worker in workers if worker["work"] and worker["work"]["unit"] == "tokens"]
