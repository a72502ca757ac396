"""A process at the other end of a connection: in a container, or on another machine (process.Process)."""

from __future__ import annotations

import base64
import binascii
import json
import math
import time
from pathlib import Path
from typing import Literal, Protocol

from . import tender
from .frames import unpack
from .interface import SandboxLimits, SandboxUnavailable
from .process import CapturedOutput, Ended, ending
from .received import Received

START_S = 60.0
"""Seconds until the process must be ready."""
_OUTPUT_S = 1.0
"""Seconds for reading data that have already been written."""
_STREAMS = {b"o": "stdout", b"e": "stderr"}


LinkState = Literal["well", "unclear", "lost"]
"""``lost``: it failed for a reason that no code at the other end can cause; ``unclear``: it failed, or may
have failed, and the code may be the cause."""


class Link(Protocol):
    """A connection to a tender (tender.py) that is being started."""

    def send(self, data: bytes) -> None:
        """Send bytes to its standard input; raises SandboxUnavailable on failure, including a timeout."""
        ...

    def receive(self, timeout_s: float) -> bytes | None:
        """Return its standard output: ``b""`` at the end, ``None`` if nothing arrived in time."""
        ...

    def state(self) -> LinkState:
        """Return the state of the connection, and of the machine at its other end."""
        ...

    def close(self) -> None:
        """End everything at the other end; a second call does nothing."""
        ...


class RemoteRun:
    """A process at the other end of a link, which it owns; arguments as in process.Backend.open."""

    def __init__(self, link: Link, limits: SandboxLimits, stdin: bytes, cut_output: bool) -> None:
        self._link = link
        self._limits = limits
        self._line = bytearray()
        self._received = Received(limits, cut_output)
        self._report: tuple[int, float] | None = None
        self._unsent: Ended | None = None
        self._link.send(_opening(limits, stdin))

    def await_ready(self) -> None:
        """Wait until the process is ready for its first message; raises SandboxUnavailable if it is not."""
        try:
            kind, _ = unpack(self.receive(time.monotonic() + START_S))
        except Ended as end:
            raise SandboxUnavailable(f"a run did not start ({end})") from None
        if kind != "ready":
            raise SandboxUnavailable(f"a run did not start ({kind})")

    def send(self, frame: bytes) -> None:
        """Send a frame; if this fails, waiting for the result reports it."""
        try:
            self._link.send(frame)
        except SandboxUnavailable as error:
            # The code may have stopped its reader, or its machine.
            self._unsent = Ended("crashed", str(error), doubtful=True)

    def receive(self, deadline: float) -> bytes:
        """Return the body of the next frame; raises Ended if there will be none."""
        while (body := self._received.next_frame()) is None:
            if self._report is not None:
                raise ending(*self._report, self._limits, self._received.partial)
            self._pump(deadline)
        return body

    def wait(self, deadline: float) -> int:
        """Wait for the process to end by itself; return its exit code, or raise Ended."""
        while self._report is None:
            self._pump(deadline)
        status, cpu_s = self._report
        if status & 0x7F:
            raise ending(status, cpu_s, self._limits, partial=False)
        return status >> 8

    def take_output(self) -> CapturedOutput:
        """Return the output since the last call."""
        # Do not read forever from a process that never stops writing.
        end = time.monotonic() + _OUTPUT_S
        while time.monotonic() < end and (data := self._link.receive(0)):
            self._take(data)
        return self._received.take_output()

    def strained(self) -> str:
        """Return an empty text, because the limits of its own machine or container are not known."""
        return ""

    def pause(self) -> None:
        """Do nothing, because it only uses time of its own machine or container."""

    def stop(self) -> CapturedOutput:
        """End the process and its machine or container."""
        self._link.close()
        return self._received.take_output()

    def _pump(self, deadline: float) -> None:
        """Wait for data; raises Ended at the deadline, or if no more data can arrive."""
        if self._unsent is not None:
            raise self._lost() if self._link.state() == "lost" else self._unsent
        left = deadline - time.monotonic()
        data = self._link.receive(left) if left > 0 else None
        if data:
            self._take(data)
        elif (state := self._link.state()) != "well":
            # Silence and ends are only the code's fault if the connection and the machine work. But the code
            # may have ended its machine.
            lost = self._lost()
            raise lost if state == "lost" else Ended("crashed", lost.detail, doubtful=True)
        elif data is None:
            raise Ended("timeout", "no result within the time limit")
        else:
            raise Ended("crashed", "the process and its tender ended")

    def _lost(self) -> Ended:
        return Ended("infra_error", "the connection to the sandbox was lost")

    def _take(self, data: bytes) -> None:
        """Add data to the stream of lines."""
        self._line += data
        # A line carries at most one chunk of the tender, in base64.
        if b"\n" not in data and len(self._line) > 4 * (1 << 16):
            raise Ended("protocol_error", "a line without an end")
        *lines, rest = bytes(self._line).split(b"\n")
        self._line = bytearray(rest)
        for line in lines:
            letter, _, text = line.partition(b" ")
            try:
                self._take_part(letter, base64.b64decode(text, validate=True))
            except (binascii.Error, ValueError, KeyError, TypeError, OverflowError) as error:
                raise Ended("protocol_error", f"a line that is none: {error}") from None

    def _take_part(self, letter: bytes, data: bytes) -> None:
        if letter == b"f":
            self._received.add_results(data)
        elif letter == b"x":
            report = json.loads(data[:200])
            self._report = int(report["status"]) & 0xFFFF, float(report["cpu_s"])
        else:
            self._received.add_output(_STREAMS[letter], data)


def _opening(limits: SandboxLimits, stdin: bytes) -> bytes:
    """Return the input that the loader at the other end expects."""
    folder = Path(tender.__file__).parent
    options = {
        "modules": [(name, (folder / f"{name}.py").read_text(encoding="utf-8")) for name in tender.MODULES],
        "rations": {
            "RLIMIT_CPU": math.ceil(limits.processor_s),
            "RLIMIT_AS": limits.memory_mb << 20,
            "RLIMIT_NOFILE": limits.files,
            "RLIMIT_FSIZE": limits.scratch_mb << 20,
            "RLIMIT_CORE": 0,
        },
        "stdin": base64.b64encode(stdin).decode("ascii"),
    }
    text = json.dumps(options).encode("ascii")
    return b"%08d" % len(text) + text
