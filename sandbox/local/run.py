"""The host's end of a run: its pipes, its clock, its end."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Callable
from typing import Any

from ..frames import unpack
from ..interface import SandboxLimits, SandboxUnavailable
from ..process import CapturedOutput, Ended, ending
from ..received import Received
from .evidence import Evidence

GRACE_S = 10.0
"""Seconds for our own part: locking a run down, and the report that a killed one has ended."""
_CHUNK = 1 << 16
_LOOK_S = 1.0
"""Maximum seconds between two readings of the clock; if there are more, this process was delayed."""
_QUEUE_S = 1.0
"""Seconds for which a run may wait for a processor on a healthy host; limits may be as short."""
_PIPE_CHUNKS = 2
"""Number of reads that empty a full pipe."""


class LocalRun:
    """One process of the local sandbox; see process.Process.

    Args:
        control: the socket to the zygote, for this run only.
        pipes: our ends of the run's stdin, stdout, stderr, incoming and outgoing pipes, with ownership.
        stdin: input of the program.
        limits: limits, of which output, results and CPU time are used here.
        cut_output: discard output beyond the limit, instead of raising Ended.
        abandon: ends the zygote if it does not end this run on request.
        evidence: observations of the host's effects on the run.
    """

    def __init__(
        self,
        control: socket.socket,
        pipes: list[int],
        stdin: bytes,
        limits: SandboxLimits,
        cut_output: bool,
        abandon: Callable[[], None],
        evidence: Evidence,
    ) -> None:
        self._evidence = evidence
        self._control = control
        self._stdin, self._stdout, self._stderr, self._incoming, self._outgoing = pipes
        self._limits = limits
        self._abandon = abandon
        self._unsent = {self._stdin: bytearray(stdin), self._incoming: bytearray()}
        self._streams = {self._stdout: "stdout", self._stderr: "stderr"}
        self._received = Received(limits, cut_output)
        self._report: dict[str, float] | None = None
        self._open = set(pipes)
        self._paused = False
        self._held_s = 0.0
        self._late = self._timed_out = False
        self._poll = select.poll()
        for descriptor in pipes:
            os.set_blocking(descriptor, False)
        for descriptor in (self._stdout, self._stderr, self._outgoing, control.fileno()):
            self._poll.register(descriptor, select.POLLIN)
        self._poll.register(self._stdin, select.POLLOUT)
        self._write(self._stdin)

    def await_ready(self) -> None:
        """Wait until the run is locked down; raises SandboxUnavailable if that fails."""
        try:
            kind, parts = unpack(self.receive(time.monotonic() + GRACE_S))
        except Ended as end:
            raise SandboxUnavailable(f"a run did not start ({end})") from None
        # The code has not been sent yet, so this message can be trusted.
        if kind != "ready":
            raise SandboxUnavailable(f"cannot lock down a run: {parts[0]}")

    def send(self, frame: bytes) -> None:
        """Queue a frame, or write it immediately if it fits into the pipe."""
        if self._paused:
            self._tell(b"c")
            self._paused = False
        if self._incoming in self._open:
            self._unsent[self._incoming] += frame
            self._poll.register(self._incoming, select.POLLOUT)
            self._write(self._incoming)

    def receive(self, deadline: float) -> bytes:
        """Return the body of the next frame; raises Ended if there will be none."""
        while (body := self._received.next_frame()) is None:
            if self._report is not None:
                raise self._end()
            self._pump(deadline)
        return body

    def wait(self, deadline: float) -> int:
        """Wait for the process to end by itself; return its exit code, or raise Ended."""
        while self._report is None:
            self._pump(deadline)
        status = int(self._report["status"])
        if os.WIFSIGNALED(status):
            raise self._end()
        return os.WEXITSTATUS(status)

    def take_output(self) -> CapturedOutput:
        """Return the output since the last call."""
        for descriptor in self._streams:
            self._drain(descriptor, _PIPE_CHUNKS)
        return self._received.take_output()

    def pause(self) -> None:
        """Stop all threads of the run until the next frame is sent."""
        self._tell(b"s")
        self._paused = True

    def stop(self) -> CapturedOutput:
        """Kill the run; return when the zygote reports that all of it has ended."""
        if self._control.fileno() < 0:
            return CapturedOutput()
        deadline = time.monotonic() + GRACE_S
        # The outcome has been decided, so excessive output is discarded.
        self._received.cut_output = True
        self._shut(self._outgoing)
        try:
            if self._report is None:
                self._tell(b"k")
            while self._report is None:
                self._pump(deadline)
            return self.take_output()
        except Ended as end:
            self._abandon()
            raise SandboxUnavailable(f"cannot stop a run ({end})") from None
        finally:
            for descriptor in list(self._open):
                self._shut(descriptor)
            self._control.close()

    def strained(self) -> str:
        """Return the limit of the host that the run may have met instead of its own; empty: none."""
        return self._evidence.strain() or (self._held_up() if self._timed_out else "")

    def _held_up(self) -> str:
        """Return what delayed the run: a process that stopped it, or the load of the host."""
        report = self._report or {}
        if report.get("stopped"):
            return "another process of this host has stopped the run"
        delayed, cpu_s = report.get("delayed_s", 0.0), report.get("cpu_s", 0.0)
        if delayed >= max(_QUEUE_S, self._limits.wall_s / 2) and cpu_s < self._limits.wall_s / 4:
            return f"this host is busy: a run waited {delayed:.1f} s for {cpu_s:.1f} s of computation"
        return ""

    def _tell(self, order: bytes) -> None:
        """Tell the zygote to stop, continue or kill the run; if this fails, it has reported the end."""
        with contextlib.suppress(OSError):
            self._control.send(order)

    def _pump(self, deadline: float) -> None:
        """Wait for an event and handle it; raises Ended at the deadline.

        Time in which this process itself was stopped does not count.
        """
        began = time.monotonic()
        left = deadline + self._held_s - began
        if left <= 0 and self._late:
            self._timed_out = True
            raise Ended("timeout", "no result within the time limit")
        # Once more after the deadline, because data that arrived in time may not have been read yet.
        self._late = left <= 0
        wait_s = min(max(left, 0.0), _LOOK_S)
        ready = self._poll.poll(wait_s * 1000)
        if (held_s := time.monotonic() - began - wait_s) > _LOOK_S:
            self._held_s += held_s
        for descriptor, _ in ready:
            if descriptor == self._control.fileno():
                self._take_report()
            elif descriptor in self._unsent:
                self._write(descriptor)
            else:
                self._read(descriptor)

    def _take_report(self) -> None:
        """Process the report on the run's end, and all output until then."""
        try:
            message = self._control.recv(4096)
        except ConnectionResetError:
            # The run ended while we requested it, and the report follows this error.
            message = self._control.recv(4096)
        self._poll.unregister(self._control)
        report: dict[str, Any] = json.loads(message) if message else {"error": "the zygote ended"}
        if "error" in report:
            self._report = {"status": signal.SIGKILL, "cpu_s": 0.0}
            raise Ended("infra_error", report["error"])
        self._report = report
        self._drain(self._outgoing)

    def _write(self, descriptor: int) -> None:
        unsent = self._unsent[descriptor]
        try:
            del unsent[: os.write(descriptor, unsent[:_CHUNK])]
        except BlockingIOError:
            return
        except BrokenPipeError:
            self._shut(descriptor)
            return
        if unsent:
            return
        if descriptor == self._stdin:
            self._shut(descriptor)
        else:
            self._poll.unregister(descriptor)

    def _drain(self, descriptor: int, max_chunks: int = sys.maxsize) -> None:
        """Read until nothing is left, which may never happen while a fast writer lives."""
        with contextlib.suppress(BlockingIOError):
            for _ in range(max_chunks):
                if descriptor not in self._open:
                    break
                self._read(descriptor)

    def _read(self, descriptor: int) -> None:
        data = os.read(descriptor, _CHUNK)
        if not data:
            self._shut(descriptor)
        elif descriptor in self._streams:
            self._received.add_output(self._streams[descriptor], data)
        else:
            self._received.add_results(data)

    def _shut(self, descriptor: int) -> None:
        if descriptor in self._open:
            with contextlib.suppress(KeyError):
                self._poll.unregister(descriptor)
            self._open.discard(descriptor)
            os.close(descriptor)

    def _end(self) -> Ended:
        """Return why an ended process gave no result."""
        assert self._report is not None
        status, cpu_s = int(self._report["status"]), self._report["cpu_s"]
        return ending(status, cpu_s, self._limits, self._received.partial, self._evidence.killer())
