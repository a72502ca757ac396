"""Runs code that may raise or never return on separate threads, and reports what happened and where."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from areal.errors import place_of

T = TypeVar("T")
_TICK = 0.05
_LONG = 1.0
"""Seconds for which a call may hold Python's global interpreter lock (GIL) without a report."""
_MORE = 5
"""Seconds beyond the limit after which the GIL counts as lost."""
LOCK = (
    "holds the GIL, so nothing else in its process can run, and nothing there can end it. Give each "
    'environment its own process: metadata = {"isolation": "process"} in its class, or '
    "rollout.env_isolation=process"
)
_GUARD = """
import os, select, signal, sys
process, limit, advice = sys.argv[1:]
silent, call = 0, ""
while silent < int(limit):
    silent += 1
    if select.select([0], [], [], 1)[0]:
        said = os.read(0, 65536)
        if not said:
            sys.exit()
        silent, begun = 0, said.decode(errors="replace").split("\\n")
        call = next((name for name in reversed(begun) if name), call)
print(f"areal: error: {call} has not returned after {limit} s, and {advice}", file=sys.stderr)
os.kill(int(process), signal.SIGKILL)
"""
"""Ends a process that does not report every second what it does. Only another process can do that."""


class _Clocks(NamedTuple):
    """Seconds: wall time, this thread's wait for a processor, and this process's time on a processor."""

    time: float
    queued: float
    computed: float


def _clocks() -> _Clocks:
    try:
        queued = int(Path("/proc/thread-self/schedstat").read_text().split()[1]) / 1e9
    except OSError:  # the kernel does not count it, so a busy machine may look like a held lock
        queued = 0.0
    return _Clocks(time.monotonic(), queued, time.process_time())


class Hang(Exception):
    """A call did not return within the limit; the message names the call and its position."""


class CallWatch:
    """Calls with a time limit in seconds.

    A thread that hangs cannot be ended; it is a daemon, so it does not outlive the process. If it holds
    the GIL, no other code of this process runs. Within :meth:`guarded`, another process then reports
    this and ends this process.

    Attributes:
        locked: the calls that held the GIL, and for how many seconds.
    """

    def __init__(self, limit: float) -> None:
        self._limit = limit
        self._calls: dict[int, tuple[str, float]] = {}
        self._guard: subprocess.Popen[bytes] | None = None
        self.locked: dict[str, float] = {}
        self._long: list[str] = []

    @contextlib.contextmanager
    def guarded(self) -> Iterator[None]:
        """Let another process guard this one."""
        arguments = [str(os.getpid()), str(round(self._limit + _MORE)), LOCK]
        command = [sys.executable, "-I", "-S", "-c", _GUARD, *arguments]
        self._guard = subprocess.Popen(command, stdin=subprocess.PIPE)
        try:
            yield
        finally:
            self._guard.communicate()
            self._guard = None

    def call(self, what: str, function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """Call a function; ``what`` names the call if it raises or hangs."""
        me, began = threading.get_ident(), time.monotonic()
        self._calls[me] = (what, began)
        self._tell(what)
        result = function(*args, **kwargs)
        if time.monotonic() - began > _LONG:
            self._long.append(what)
        del self._calls[me]  # the entry of a call that raised remains, so that it can be named
        return result

    def run(self, work: Callable[[], T]) -> T:
        """Run on a new thread and wait for the result.

        Raises:
            Hang: a call on this thread, or on one that it started, took too long.
            BaseException: whatever the work raised.
        """
        before = _clocks()  # the work may hold the lock before its thread counts as started
        outcome = self.start(work)
        while not wait([outcome], _TICK).done:
            self._look_for_hangs()
            before = self._look_for_locks(before)
        self._look_for_locks(before)
        return outcome.result()

    def _look_for_locks(self, before: _Clocks) -> _Clocks:
        """Record which calls have delayed this thread since its last look."""
        calls = [*self._long, *(what for what, _ in list(self._calls.values()))]
        self._long.clear()
        now = _clocks()
        # A busy machine also delays this thread. In that case this thread, or the one with the GIL, waits for
        # a processor. While a machine is suspended, no process computes.
        waited = now.time - before.time - (now.queued - before.queued)
        if (seconds := min(waited, now.computed - before.computed)) > _LONG:
            for what in calls:
                self.locked[what] = max(seconds, self.locked.get(what, 0.0))
        self._tell("")
        return now

    def _tell(self, what: str) -> None:
        """Tell the guard that this process is alive, and which call begins."""
        if self._guard is not None and self._guard.stdin is not None:
            os.write(self._guard.stdin.fileno(), f"{what}\n".encode())

    def start(self, work: Callable[[], T]) -> Future[T]:
        """Run on a new thread, concurrently with the caller."""
        outcome: Future[T] = Future()

        def main() -> None:
            try:
                outcome.set_result(work())
            except BaseException as error:  # noqa: BLE001 (it is raised when the result is requested)
                if (call := self._calls.get(threading.get_ident())) and not hasattr(error, "call"):
                    error.call = call[0]  # type: ignore[attr-defined]
                outcome.set_exception(error)
            finally:
                self._calls.pop(threading.get_ident(), None)

        threading.Thread(target=main, daemon=True).start()
        return outcome

    def _look_for_hangs(self) -> None:
        now = time.monotonic()
        for thread, (what, started) in list(self._calls.items()):
            frame = sys._current_frames().get(thread)
            if now - started > self._limit and frame is not None:
                place = place_of(traceback.extract_stack(frame), __file__)
                raise Hang(f"{what} has not returned after {self._limit:g} s; it is at {place}")
