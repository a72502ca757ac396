"""The interface of a sandboxed process; each backend implements it, and every job runs on any backend.

These calls block; a pool (pool.py) makes them on threads, so they do not depend on an event loop.
"""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from typing import Any, Protocol

from .interface import SandboxLimits, Status

FROM_OUTSIDE = {signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP}
"""No computation ends a process with one of these signals; another process sends them."""


class Ended(Exception):
    """The process gave no further result.

    Args:
        status: the reason.
        detail: one line for a person.
        doubtful: whether the host may have caused it as well as the code; the status then only applies if it
            happens each time.
    """

    def __init__(self, status: Status, detail: str = "", *, doubtful: bool = False) -> None:
        super().__init__(f"{status}: {detail}")
        self.status = status
        self.detail = detail
        self.doubtful = doubtful


@dataclass(frozen=True, slots=True)
class CapturedOutput:
    """The output of a process on its standard streams, up to the limit."""

    stdout: bytes = b""
    stderr: bytes = b""

    @property
    def texts(self) -> dict[str, Any]:
        """Return both streams in the form of an Outcome."""
        return {name: getattr(self, name).decode("utf-8", "replace") for name in ("stdout", "stderr")}


def ending(status: int, cpu_s: float, limits: SandboxLimits, partial: bool, outside: str = "") -> Ended:
    """Return why an ended process gave no result.

    Args:
        status: status from ``os.wait``.
        cpu_s: its CPU time, in seconds.
        limits: its limits.
        partial: whether it ended within a result.
        outside: who sent a SIGKILL, if it is known that the code itself did not.
    """
    if not os.WIFSIGNALED(status):
        if partial:
            return Ended("protocol_error", "the process ended within a result")
        return Ended(
            "no_result", f"the process exited with code {os.WEXITSTATUS(status)} and without a result"
        )
    number = os.WTERMSIG(status)
    if number == signal.SIGSYS:
        return Ended("violation", "a forbidden system call")
    # The kernel counts the time of a limit in ticks; on a busy machine, the actual time may be less.
    if number == signal.SIGXCPU or (number == signal.SIGKILL and cpu_s >= 0.9 * limits.processor_s):
        return Ended("timeout", f"{cpu_s:.1f} s of CPU time", doubtful=bool(outside))
    if number == signal.SIGKILL and outside:
        return Ended("infra_error", f"killed by {outside}")
    if number == signal.SIGKILL:
        # Code cannot exceed its memory limit, so the host ran out of memory, or another process killed it.
        return Ended("memory", "killed, perhaps because the host ran out of memory", doubtful=True)
    # A real-time signal has a number but no name.
    named = number in signal.Signals.__members__.values()
    return Ended("crashed", signal.Signals(number).name if named else f"signal {number}")


class Process(Protocol):
    """A process that is locked down and waits for its first message."""

    def send(self, frame: bytes) -> None:
        """Queue a frame, which is sent while waiting for the process."""
        ...

    def receive(self, deadline: float) -> bytes:
        """Return the body of the next frame.

        Args:
            deadline: a time of ``time.monotonic()``.

        Raises:
            Ended: there will be none.
        """
        ...

    def wait(self, deadline: float) -> int:
        """Wait until the process ends by itself; return its exit code.

        Ended: it did not end, or a signal ended it.
        """
        ...

    def take_output(self) -> CapturedOutput:
        """Return the output since the last call, without waiting."""
        ...

    def strained(self) -> str:
        """Return the limit of the host that the process may have met instead of its own; empty: none."""
        ...

    def pause(self) -> None:
        """Stop everything in the process until the next frame is sent, as far as the backend can."""
        ...

    def stop(self) -> CapturedOutput:
        """Kill the process and its descendants; return the rest of the output when they are gone.

        A second call does nothing.

        Raises:
            SandboxUnavailable: it is not certain that they are gone.
        """
        ...


class Backend(Protocol):
    """Starts such processes; safe to call from several threads at once."""

    def open(
        self, limits: SandboxLimits, first: bytes, stdin: bytes = b"", *, cut_output: bool = False
    ) -> Process:
        """Start a process; return when it is locked down.

        Args:
            limits: its limits; its waiter enforces ``wall_s``.
            first: frames that it receives as soon as it is ready.
            stdin: content of its standard input.
            cut_output: discard output beyond the limit, instead of ending it.

        Raises:
            SandboxUnavailable: it could not be started or locked down.
        """
        ...

    def close(self) -> None:
        """End every process; a second call does nothing."""
        ...
