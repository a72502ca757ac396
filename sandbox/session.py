"""A Python interpreter that keeps its variables between calls, for agents' tools."""

from __future__ import annotations

import time
from typing import Any

from . import frames
from .drive import result
from .interface import Limits, Outcome, Raised, SandboxUnavailable, Status
from .process import Backend, Ended

SLACK_S = 1.0
"""Seconds between the moment when a call is told to stop and the moment when it is killed."""


class Interpreter:
    """The blocking half of a session (pool.py has the other half); not for two threads at once.

    A call that is too long is interrupted and the variables stay; one that ignores this ends the session.

    Args:
        backend: where it runs.
        limits: ``wall_s`` and ``output_bytes`` hold for each call, the rest for the session.
        session_s: seconds after which the session ends; also its limit on processor time.

    Raises:
        SandboxUnavailable: it could not be started.
    """

    def __init__(self, backend: Backend, limits: Limits, session_s: float) -> None:
        self._limits = limits
        self._deadline = time.monotonic() + session_s
        self._process = backend.open(limits, frames.pack("session"), cut_output=True)
        self._ended: Outcome | None = None

    def run(self, code: str, wall_s: float | None = None) -> Outcome:
        """Execute code; see interface.Session."""
        if self._ended is not None:
            return self._ended
        if len(code.encode("utf-8", "surrogatepass")) > self._limits.source_bytes:
            return Outcome("runtime_error", error="the code is too long")
        start = time.monotonic()
        allowed = min(self._limits.wall_s if wall_s is None else wall_s, self._deadline - start)
        self._process.send(frames.pack("execute", code, max(allowed, 0.001)))
        try:
            answer = result(*frames.unpack(self._process.receive(start + allowed + SLACK_S)))
        except Ended as end:
            if end.status == "infra_error":
                self._end(end.status)
                raise SandboxUnavailable(end.detail) from None
            return self._end(end.status, end.detail, time.monotonic() - start)
        except frames.BadFrame as error:
            return self._end("protocol_error", str(error), time.monotonic() - start)
        seconds = time.monotonic() - start
        output = self._texts()
        if not isinstance(answer, Raised):
            return Outcome("ok", (answer,), **output, seconds=seconds)
        status: Status = "timeout" if answer.kinds[0] == "CallTimeout" else "runtime_error"
        return Outcome(status, (answer,), **output, error=answer.trace, seconds=seconds)

    def close(self) -> None:
        """End the interpreter."""
        if self._ended is None:
            self._end("no_result")

    def _end(self, status: Status, detail: str = "", seconds: float = 0.0) -> Outcome:
        """Kill the process; what was written comes with this call, later ones say that it has ended."""
        self._ended = Outcome("no_result", error=f"the session has ended ({status}); its variables are lost")
        output = self._process.stop()
        return Outcome(
            status,
            (),
            output.stdout.decode("utf-8", "replace"),
            output.stderr.decode("utf-8", "replace"),
            f"{detail}; the session has ended" if detail else "the session has ended",
            seconds,
        )

    def _texts(self) -> dict[str, Any]:
        output = self._process.take_output()
        return {
            "stdout": output.stdout.decode("utf-8", "replace"),
            "stderr": output.stderr.decode("utf-8", "replace"),
        }
