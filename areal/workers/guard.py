"""Finds workers that are frozen: they have not ended, but nothing comes of them any more.

Each process of a worker sends a sign of life every second: :class:`Beat`. A worker is taken for frozen, and
killed, when for longer than a limit

- *it sends no sign of life*, as when it is stopped (SIGSTOP), its host hangs, its event loop is held up, or
  native code holds Python's lock for ever. Such code may be at work: compilers and cold files hold that lock
  for long. While the process computes, reads or writes, it therefore has ten times as long.
- *a process below it is stopped*, as vLLM's own may be: the worker answers, and no token ever comes.
- *it has begun work, and its count of work done does not rise*, for ten times as long: one step of an engine
  may be a long prefill, and one of a learner a compilation.

What starts is held up by imports, compilers and the processes below it, and may send no sign of life for
minutes. It is left alone while any process of it computes, reads or writes, and else has ten times as long.

Nobody is accused of what is ours. Time counts only while this process looks, a second or two at a time: after
Ctrl-Z and ``fg``, a laptop's sleep, or an event loop that was held up, all of them are heard again first. A
worker that a debugger holds is left alone.
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
"""Seconds from one sign of life to the next."""
STALL_LIMIT = 300.0
"""Seconds without progress, unless a run says otherwise."""
_PATIENCE = 10
"""How many times longer than a silence other things may last."""
_AT_WORK = 0.02
"""Share of a CPU core from which on a process computes: threads that only wait use less."""
_MOVED = 2**16
"""Bytes from which on a process reads or writes: signals between threads are some, too."""
_ANSWER = 5.0
"""Seconds for a host to say how a process is."""


@dataclass(frozen=True, slots=True)
class Beat:
    """A sign of life.

    Attributes:
        family: vitals of the process that sends it, first, and of those below it.
        work: of the worker, if it counts any.
    """

    family: list[Vitals]
    work: Work | None

    @property
    def stopped(self) -> Vitals | None:
        """The first process that is stopped, if there is one."""
        return _stopped(self.family)


def beat(work: Work | None) -> Beat:
    """Return a sign of life of this process."""
    return Beat(read_family(os.getpid()), work)


class Examined(Protocol):
    """The process of a worker, as far as a guard needs it."""

    async def look(self) -> list[Vitals]:
        """Return vitals of it, first, and of those below it; empty: there is no such process."""
        ...


@dataclass(slots=True)
class Pulse:
    """What is known of the life of one worker; seconds are those in which this process looked.

    Attributes:
        limit: of a silence, in seconds; 0: nothing is ever found frozen.
        last: the last sign of life.
        silent: seconds since then.
        idle: seconds in which its count of work did not rise although it had some.
        stopped: seconds in which a process below it was stopped.
        starting: whether the worker is still being made.
        accused: why somebody else, who sees more, takes it for frozen; empty: nobody does.
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
        """Take note of a sign of life: a beat, or any other message."""
        self.silent, self._seen = 0.0, None
        if new is None:
            return
        before, self.last = self.last, new
        if not _same_work(before, new):
            self.idle = 0.0
        if new.stopped is None:
            self.stopped = 0.0

    async def look(self, process: Examined) -> str:
        """Look, every second or so; return why it is frozen, or an empty string."""
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
        except TimeoutError:  # its host does not answer, either
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
        return f"no sign of life for {self.silent:.0f} s{_named(stopped, family)} (frozen)"

    def _patience(self, works: bool) -> float:
        """How long a silence may last if the process works meanwhile, or does not."""
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
    """Whether processes did something, or tried to, between two looks, though there was no sign of life."""
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
    """Say which process of a worker is stopped."""
    if stopped is None:
        return ""
    if stopped is family[0]:
        return ": it is stopped"
    return f": its process {stopped.pid} ({stopped.name}) is stopped"


def _same_work(before: Beat | None, now: Beat) -> bool:
    """Whether there is work, and none of it was done between two signs of life."""
    if before is None or before.work is None or now.work is None:
        return False
    return now.work.open > 0 and now.work.done == before.work.done


class Guard:
    """Watches over workers.

    Args:
        stall_limit: seconds without progress after which something is frozen; a tenth of them for a silence.
            0: never.

    Attributes:
        workers: that have not ended.
        report: called with a worker that is frozen, and why, before it is killed; returns what is added to
            the reason for which it ended.
    """

    def __init__(self, stall_limit: float = STALL_LIMIT) -> None:
        self._silence = stall_limit / _PATIENCE
        self.workers: list[Any] = []
        self.report: Callable[[Any, str], Awaitable[str]] = _no_report

    def pulse(self) -> Pulse:
        """Return the pulse of a worker that begins."""
        return Pulse(self._silence)


async def _no_report(worker: Any, reason: str) -> str:
    return ""
