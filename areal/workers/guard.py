"""Finds frozen workers: workers that have not ended but no longer make progress.

Each process of a worker sends a heartbeat every second: :class:`Beat`. A worker counts as frozen, and is
killed, if for longer than a limit

- *it sends no heartbeat*, for example because it is stopped (SIGSTOP), its host hangs, its event loop is
  blocked, or native code holds the GIL forever. Such code may be working: compilers and reads of cold files
  hold the GIL for long. The limit is therefore ten times as long while the process computes, reads or writes.
- *one of its subprocesses is stopped*, such as vLLM's own: the worker answers, but no token ever arrives.
- *it has work in progress, and its count of completed work does not increase*, with a limit that is ten times
  as long: one step of an engine may be a long prefill, and one step of a learner may be a compilation.

Imports, compilers and subprocesses delay a worker that is starting, which may send no heartbeat for minutes.
It is left alone while any of its processes computes, reads or writes; otherwise its limit is ten times as
long.

Delays of this process are not blamed on workers. Time counts only while this process is watching, in steps of
a second or two: after Ctrl-Z and ``fg``, a laptop's sleep, or a blocked event loop, it first waits for new
heartbeats of all workers. A worker under a debugger is left alone.
"""

from __future__ import annotations

import asyncio
import math
import os
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from areal.waiting import Work
from areal.workers.vitals import Vitals, read_family

BEAT = 1.0
"""Seconds between two heartbeats."""
STALL_LIMIT = 300.0
"""Default limit of seconds without progress."""
_PATIENCE = 10
"""Factor by which other limits exceed that of a silence."""
_AT_WORK = 0.02
"""Share of a CPU core above which a process counts as computing; threads that only wait use less."""
_MOVED = 2**16
"""Bytes above which a process counts as reading or writing; signals between threads use a few, too."""
_ANSWER = 5.0
"""Time limit in seconds for a host to report on a process."""


@dataclass(frozen=True, slots=True)
class Beat:
    """A heartbeat.

    Attributes:
        family: vitals of the process that sends it, first, and of its descendants.
        work: work of the worker, if it counts any.
    """

    family: list[Vitals]
    work: Work | None

    @property
    def stopped(self) -> Vitals | None:
        """The first stopped process, if there is one."""
        return _stopped(self.family)


def beat(work: Work | None) -> Beat:
    """Return a heartbeat of this process."""
    return Beat(read_family(os.getpid()), work)


class Examined(Protocol):
    """The process of a worker, from the perspective of a guard."""

    async def look(self) -> list[Vitals]:
        """Return its vitals, first, and those of its descendants; empty: the process does not exist."""
        ...


@dataclass(slots=True)
class Pulse:
    """The signs of life of one worker; seconds only count while this process is watching.

    Attributes:
        limit: limit of a silence, in seconds; 0: nothing ever counts as frozen.
        last: the last heartbeat.
        silent: seconds since then.
        idle: seconds in which it had work but completed none.
        stopped: seconds in which one of its subprocesses was stopped.
        starting: whether the worker is still being created.
        accused: why another observer, who knows more, considers it frozen; empty: none does.
    """

    limit: float
    starting: bool = True
    last: Beat | None = None
    silent: float = 0.0
    idle: float = 0.0
    stopped: float = 0.0
    accused: str = ""
    _looked: float = field(default_factory=time.monotonic)
    _seen: tuple[float, list[Vitals]] | None = None

    def hear(self, new: Beat | None = None) -> None:
        """Record a heartbeat, or any other message."""
        self.silent, self._seen = 0.0, None
        if new is None:
            return
        before, self.last = self.last, new
        if not _same_work(before, new):
            self.idle = 0.0
        if new.stopped is None:
            self.stopped = 0.0

    async def look(self, process: Examined) -> str:
        """Check the worker, about every second; return why it is frozen, or an empty string."""
        now = time.monotonic()
        seconds, self._looked = min(now - self._looked, 2 * BEAT), now
        self.silent += seconds
        if self.accused:
            return self.accused
        if not self.limit:
            return ""
        if self.last is not None and self.last.stopped is not None:
            self.stopped += seconds
        if self.last is not None and self.last.work is not None and self.last.work.open:
            self.idle += seconds
        return await self._of_silence(process) or self._of_beats()

    async def _of_silence(self, process: Examined) -> str:
        if self.silent < (self._seen[0] if self._seen else 0.0) + self.limit / 2:
            return ""
        try:
            family = await asyncio.wait_for(process.look(), _ANSWER)
        except TimeoutError:  # its host does not respond, either
            family = []
        if family and family[0].debugged:
            self.hear()
            return ""
        before, self._seen = self._seen, (self.silent, family)
        if before is None or self.silent < self.limit:
            return ""
        stopped = _stopped(family)
        if stopped is None and self.silent < self._patience(_work(*before, *self._seen, self.starting)):
            return ""
        return f"no heartbeat for {self.silent:.0f} s{_named(stopped, family)} (frozen)"

    def _patience(self, works: bool) -> float:
        """Return how long a silence may last if the process is working, or if it is not."""
        if self.starting:
            return math.inf if works else _PATIENCE * self.limit
        return _PATIENCE * self.limit if works else self.limit

    def _of_beats(self) -> str:
        if self.last is None:
            return ""
        if self.stopped >= self.limit:
            which = _named(self.last.stopped, self.last.family)
            return f"no work for {self.stopped:.0f} s{which} (frozen)"
        if self.idle >= _PATIENCE * self.limit and self.last.work is not None:
            return f"no progress for {self.idle:.0f} s at {self.last.work} (frozen)"
        return ""


def _work(then: float, before: list[Vitals], since: float, now: list[Vitals], all_of_them: bool) -> bool:
    """Return whether processes worked, or tried to, between two checks without a heartbeat."""
    count = None if all_of_them else 1
    before, now = before[:count], now[:count]
    if not before or not now:
        return False
    computed = sum(each.cpu for each in now) - sum(each.cpu for each in before)
    moved = sum(each.nbytes for each in now) - sum(each.nbytes for each in before)
    tries = any(each.state in "RD" for each in now)
    return tries or computed > _AT_WORK * (since - then) or moved > _MOVED


def _stopped(family: list[Vitals]) -> Vitals | None:
    return next((each for each in family if each.stopped), None)


def _named(stopped: Vitals | None, family: list[Vitals]) -> str:
    """Return which process of a worker is stopped."""
    if stopped is None:
        return ""
    if stopped is family[0]:
        return "; it is stopped"
    return f"; its process {stopped.pid} ({stopped.name}) is stopped"


def _same_work(before: Beat | None, now: Beat) -> bool:
    """Return whether there is work, and none of it was completed between two signs of life."""
    if before is None or before.work is None or now.work is None:
        return False
    return now.work.open > 0 and now.work.done == before.work.done


class Guard:
    """Watches over workers.

    Args:
        stall_limit: seconds without progress after which something counts as frozen; for a silence, a tenth
            of this. 0: never.

    Attributes:
        workers: workers that have not ended.
        report: called with a frozen worker and the reason, before it is killed; returns text that is added to
            the reason for its end.
    """

    def __init__(self, stall_limit: float = STALL_LIMIT) -> None:
        self._silence = stall_limit / _PATIENCE
        self.workers: list[Any] = []
        self.report: Callable[[Any, str], Awaitable[str]] = _no_report

    def pulse(self) -> Pulse:
        """Return the pulse of a new worker."""
        return Pulse(self._silence)


async def _no_report(worker: Any, reason: str) -> str:
    return ""
