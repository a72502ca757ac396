"""One sandboxed process as its host sees it; each backend has its own, every job runs on any of them.

These calls block; a pool (pool.py) makes them on threads, which keeps them free of any event loop.
"""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from typing import Any, Protocol

from .interface import SandboxLimits, Status

FROM_OUTSIDE = {signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP}
"""No computation ends a process by one of these: somebody sends them."""


class Ended(Exception):
    """The process gave no further result.

    Args:
        status: why.
        detail: one line for a person.
        doubtful: whether the host may have done it as well as the code: then the status holds only if it
            goes so each time.
    """

    def __init__(self, status: Status, detail: str = "", *, doubtful: bool = False) -> None:
        super().__init__(f"{status}: {detail}")
        self.status = status
        self.detail = detail
        self.doubtful = doubtful


@dataclass(frozen=True, slots=True)
class CapturedOutput:
    """What a process wrote to its standard streams, up to the limit."""

    stdout: bytes = b""
    stderr: bytes = b""

    @property
    def texts(self) -> dict[str, Any]:
        """Return both as an Outcome has them."""
        return {name: getattr(self, name).decode("utf-8", "replace") for name in ("stdout", "stderr")}


def ending(status: int, cpu_s: float, limits: SandboxLimits, partial: bool, outside: str = "") -> Ended:
    """Return why a process that has ended gave no result.

    Args:
        status: as ``os.wait`` gives it.
        cpu_s: processor time that it took, in seconds.
        limits: its limits.
        partial: whether it ended within a result.
        outside: who has sent a SIGKILL, where it is known that the code itself has not.
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
    # The kernel counts the time of a limit by ticks: on a busy machine what was really used may be less.
    if number == signal.SIGXCPU or (number == signal.SIGKILL and cpu_s >= 0.9 * limits.processor_s):
        return Ended("timeout", f"{cpu_s:.1f} s of CPU time", doubtful=bool(outside))
    if number == signal.SIGKILL and outside:
        return Ended("infra_error", f"killed by {outside}")
    if number == signal.SIGKILL:
        # Code cannot pass its limit on memory: it was the host that had none left, or somebody at the host.
        return Ended("memory", "killed, perhaps because the host ran out of memory", doubtful=True)
    # A signal for programs' own use has a number and no name.
    named = number in signal.Signals.__members__.values()
    return Ended("crashed", signal.Signals(number).name if named else f"signal {number}")


class Process(Protocol):
    """A process that is locked down and waits for its first message."""

    def send(self, frame: bytes) -> None:
        """Queue a frame; it leaves while the process is waited for."""
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

        Raises:
            Ended: it did not, or ended by a signal.
        """
        ...

    def take_output(self) -> CapturedOutput:
        """Return what has been written since the last call, without waiting."""
        ...

    def strained(self) -> str:
        """Return which limit of the host the process may have met, in place of its own; empty: none."""
        ...

    def pause(self) -> None:
        """Let nothing of it run until the next frame is sent, as far as the backend can."""
        ...

    def stop(self) -> CapturedOutput:
        """Kill the process and all that it started; return when they are gone, with the rest of the output.

        A second call does nothing.

        Raises:
            SandboxUnavailable: it is not known that they are gone.
        """
        ...


class Backend(Protocol):
    """Something that starts such processes; safe to call from several threads at once."""

    def open(
        self, limits: SandboxLimits, first: bytes, stdin: bytes = b"", *, cut_output: bool = False
    ) -> Process:
        """Start a process; return when it is locked down.

        Args:
            limits: what it may use; ``wall_s`` is kept by whoever waits for it.
            first: frames that it finds as soon as it is ready.
            stdin: what its standard input holds.
            cut_output: throw away what it writes beyond the limit, rather than end it.

        Raises:
            SandboxUnavailable: it could not be started or locked down.
        """
        ...

    def close(self) -> None:
        """End every process; a second call does nothing."""
        ...
