"""A Python interpreter that keeps its variables between calls, for agents' tools."""

from __future__ import annotations

import contextlib
import threading
import time
from dataclasses import replace

from . import drive, frames
from .drive import result
from .interface import Calls, Job, Outcome, Raised, SandboxLimits, SandboxUnavailable, Status
from .process import Backend, Ended

SLACK_S = 1.0
"""Seconds from the request to interrupt a call until it is killed."""
_TRIAL_S = 30.0
"""Seconds in which an idle interpreter must end."""


class Interpreter:
    """The blocking half of a session (pool.py has the other half).

    A call that is too long is interrupted, and the variables remain; a call that ignores this ends the
    session. Between calls, nothing runs, if the backend can stop the process.

    Args:
        backend: where the interpreter runs.
        limits: ``wall_s`` and ``output_bytes`` apply to each call, the other limits to the session.
        session_s: maximum duration of the session, in seconds, which is also the limit of its CPU time.

    Raises:
        SandboxUnavailable: the interpreter could not start.
    """

    def __init__(self, backend: Backend, limits: SandboxLimits, session_s: float) -> None:
        self._backend = backend
        self._limits = limits
        self._lock = threading.Lock()
        self._deadline = time.monotonic() + session_s
        self._process = backend.open(limits, frames.pack("session"), cut_output=True)
        self._ended: Outcome | None = None
        self._alarm = threading.Timer(self._deadline - time.monotonic(), self._expire)
        self._alarm.daemon = True
        self._alarm.start()

    def run(self, code: str, wall_s: float | None = None) -> Outcome:
        """Execute code; see interface.SandboxSession."""
        with self._lock:
            if self._ended is not None:
                return self._ended
            if len(code.encode("utf-8", "surrogatepass")) > self._limits.source_bytes:
                return Outcome("runtime_error", error="the code is too long")
            start = time.monotonic()
            try:
                return self._run(code, start, self._limits.wall_s if wall_s is None else wall_s)
            except Ended as end:
                if end.status == "infra_error" or (end.doubtful and not self._sound()):
                    self._end("infra_error")
                    raise SandboxUnavailable(end.detail) from None
                return self._end(end.status, end.detail, time.monotonic() - start)
            except frames.BadFrame as error:
                return self._end("protocol_error", str(error), time.monotonic() - start)

    def _run(self, code: str, start: float, wall_s: float) -> Outcome:
        allowed = min(wall_s, self._deadline - start)
        self._process.send(frames.pack("execute", code, max(allowed, 0.001)))
        reply = result(*frames.unpack(self._process.receive(start + allowed + SLACK_S)))
        seconds = time.monotonic() - start
        output = self._process.take_output().texts
        self._process.pause()
        if not isinstance(reply, Raised):
            return Outcome("ok", (reply,), **output, seconds=seconds)
        status: Status = "timeout" if reply.type_names[0] == "CallTimeout" else "runtime_error"
        return Outcome(status, (reply,), **output, error=reply.trace, seconds=seconds)

    def close(self) -> None:
        """End the interpreter."""
        with self._lock:
            if self._ended is None:
                self._end("no_result")

    def _expire(self) -> None:
        with self._lock:
            if self._ended is None:
                # Closing the sandbox reports whether its processes are gone.
                with contextlib.suppress(SandboxUnavailable):
                    self._end("timeout")

    def _sound(self) -> bool:
        """Return whether another interpreter works: the code may have crashed its own."""
        limits = replace(self._limits, wall_s=_TRIAL_S)
        return drive.run(self._backend, Job("", Calls(())), limits).status == "ok"

    def _end(self, status: Status, detail: str = "", seconds: float = 0.0) -> Outcome:
        """Kill the process; this call returns its output, and later ones report that it has ended."""
        self._ended = Outcome(
            "no_result", error=f"the session has ended ({status}), and its variables are lost"
        )
        self._alarm.cancel()
        output = self._process.stop().texts
        error = f"{detail}; the session has ended" if detail else "the session has ended"
        return Outcome(status, (), **output, error=error, seconds=seconds)
