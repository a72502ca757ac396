"""Runs jobs on processes: the messages to the guest, and the handling of its results, for any backend.

Every result comes from a process that may be hostile. A message that does not exactly follow the protocol at
that point ends the run.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from . import frames
from .codec import NotAValue
from .guest import MAX_MESSAGE, MAX_TRACE
from .interface import (
    Call,
    Calls,
    Check,
    Job,
    Opaque,
    Outcome,
    Raised,
    Result,
    Returned,
    SandboxLimits,
    SandboxUnavailable,
    Script,
    Status,
)
from .process import Backend, Ended, Process

_MAX_TYPE_NAMES = 64
"""Maximum number of base classes of an exception; honest guests never send more."""


@dataclass(slots=True)
class _Run:
    """The data of a run so far; see Outcome."""

    deadline: float
    values: list[Result] = field(default_factory=list)
    status: Status = "ok"
    error: str = ""
    last_call: tuple[Call, Result | None] | None = None
    if_repeated: Status | None = None


def run(backend: Backend, job: Job, limits: SandboxLimits) -> Outcome:
    """Run a job in new processes of a backend; return when they have ended.

    Raises:
        ValueError: the caller's part of the job is invalid (arguments that are not values, a broken check).
    """
    size = len(job.source.encode("utf-8", "surrogatepass"))
    if size > limits.source_bytes:
        return Outcome("runtime_error", error=f"the source has {size} bytes, more than {limits.source_bytes}")
    try:
        program = [job.source, job.before, job.scope]
        match job.mode:
            case Calls():
                return _run_calls(backend, program, job.mode, limits)
            case Script():
                return _run_program(backend, program, job.mode, limits)
            case Check():
                return _run_check(backend, program, job.mode, limits)
    except (SandboxUnavailable, OSError) as error:
        # Errors of the code come as messages; an OSError is on this side: no descriptors or processes are
        # left.
        return Outcome("infra_error", error=str(error))


def _run_calls(backend: Backend, program: list[str], mode: Calls, limits: SandboxLimits) -> Outcome:
    # Without a call, no result would show that the source has been loaded.
    first = frames.pack("calls", program, not mode.calls)
    calls = [_pack_call(call) for call in mode.calls]
    sent = len(calls) if mode.ahead else min(1, len(calls))

    def exchange(run: _Run, process: Process) -> None:
        if not calls:
            _load(run, process)
        for number in range(len(calls)):
            if number >= sent:
                process.send(calls[number])
            run.values.append(_result(*_next(run, process)))

    return _conversation(backend.open(limits, first + b"".join(calls[:sent])), limits, exchange)


def _run_program(backend: Backend, program: list[str], mode: Script, limits: SandboxLimits) -> Outcome:
    def exchange(run: _Run, process: Process) -> None:
        code = process.wait(run.deadline)
        if code == 0:
            return
        run.status, run.error = "runtime_error", f"exit code {code}"
        try:
            kind, parts = _next(run, process)
        except Ended:
            return
        if kind == "exited" and mode.any_exit:
            run.status, run.error = "ok", ""
        elif kind != "exited":
            raised = result(kind, parts)
            if isinstance(raised, Raised):
                raise _failure(raised)

    stdin = mode.stdin.encode("utf-8", "replace")
    return _conversation(backend.open(limits, frames.pack("program", program), stdin), limits, exchange)


def _run_check(backend: Backend, program: list[str], mode: Check, limits: SandboxLimits) -> Outcome:
    check = frames.pack("check", mode.setup, list(mode.statements), mode.proxies)
    checker = backend.open(limits, check)
    try:

        def exchange(run: _Run, candidate: Process) -> None:
            _load(run, candidate)
            for expected in ("loaded", *mode.statements):
                kind, parts = _relay(run, checker, candidate)
                if kind == "failed":
                    raise ValueError(f"the check's own setup failed: {parts[2]}")
                if expected != "loaded":
                    run.values.append(result(kind, parts))

        return _conversation(backend.open(limits, frames.pack("calls", program, True)), limits, exchange)
    finally:
        checker.stop()


def _relay(run: _Run, checker: Process, candidate: Process) -> tuple[str, list[Any]]:
    """Carry calls from the checker to the candidate; return the first other message."""
    while True:
        kind, parts = _next(run, checker)
        if kind != "call":
            return kind, parts
        function, args, kwargs = parts
        call = Call(function, args, kwargs)
        run.last_call = (call, None)
        candidate.send(_pack_call(call))
        kind, parts = _next(run, candidate)
        if kind == "iterated" and len(parts) == 1 and type(parts[0]) is list:
            run.last_call = (call, Opaque("iterator"))
            checker.send(_pack_value(kind, parts[0]))
            continue
        returned = _result(kind, parts)
        run.last_call = (call, returned)
        checker.send(_pack_result(returned))


def _conversation(
    process: Process, limits: SandboxLimits, exchange: Callable[[_Run, Process], None]
) -> Outcome:
    """Exchange messages with a ready process, end it, and return its outcome."""
    start = time.monotonic()
    run = _Run(start + limits.wall_s)
    try:
        with _ending(run):
            exchange(run, process)
    finally:
        seconds = time.monotonic() - start
        output = process.stop()
    if run.status != "infra_error" and _failed(run) and (strain := process.strained()):
        _doubt(run, strain)
    return Outcome(
        run.status,
        tuple(run.values),
        **output.texts,
        error=run.error,
        seconds=seconds,
        last_call=run.last_call,
        if_repeated=run.if_repeated,
    )


@contextmanager
def _ending(run: _Run) -> Iterator[None]:
    """Convert the end of a process, and violations of the protocol, to a status."""
    try:
        yield
    except Ended as end:
        if end.status == "infra_error":
            raise SandboxUnavailable(end.detail) from None
        run.status, run.error = end.status, end.detail
        if end.doubtful:
            run.status, run.if_repeated = "infra_error", end.status
    except frames.BadFrame as error:
        run.status, run.error = "protocol_error", str(error)


def _failed(run: _Run) -> bool:
    return run.status != "ok" or any(isinstance(value, Raised) for value in run.values)


def _doubt(run: _Run, strain: str) -> None:
    """Treat the failure of a run as one that the host, at one of its own limits, may have caused."""
    run.if_repeated = "runtime_error" if run.status == "ok" else run.status
    run.status, run.error = "infra_error", f"{strain} ({run.error or 'a call raised'})"


def _load(run: _Run, process: Process) -> None:
    """Wait until the source has been executed; raises Ended if it failed."""
    kind, parts = _next(run, process)
    if kind == "failed":
        raise _failure(result("raised", parts))
    if kind != "loaded" or parts:
        raise frames.BadFrame("a result before the source was loaded")


def _result(kind: str, parts: list[Any]) -> Result:
    """Return the result in a message; raises Ended if the source could not be executed."""
    if kind == "failed":
        raise _failure(result("raised", parts))
    return result(kind, parts)


def _next(run: _Run, process: Process) -> tuple[str, list[Any]]:
    return frames.unpack(process.receive(run.deadline))


def result(kind: str, parts: list[Any]) -> Result:
    """Return the result in a message of the guest; raises BadFrame if there is none."""
    match kind, parts:
        case "returned", [value]:
            return Returned(value)
        case "opaque", [str(name)]:
            return Opaque(_printable(name, MAX_MESSAGE))
        case "raised", [tuple(type_names), str(message), str(trace)]:
            if type_names and all(type(name) is str for name in type_names):
                names = tuple(_printable(name, MAX_MESSAGE) for name in type_names[:_MAX_TYPE_NAMES])
                return Raised(names, _printable(message, MAX_MESSAGE), _printable(trace, MAX_TRACE))
    raise frames.BadFrame(f"an unexpected message {kind[:20]!r}")


def _printable(text: str, max_chars: int) -> str:
    """Return text that can be shown anywhere: shortened, and without lone surrogates, which a log rejects."""
    return text[-max_chars:].encode("utf-8", "replace").decode("utf-8")


def _pack_call(call: Call) -> bytes:
    try:
        return frames.pack("call", [call.function, call.otherwise], call.args, call.kwargs)
    except NotAValue as error:
        raise ValueError(f"an argument of {call.function} is not made of builtin types: {error}") from None


def _pack_result(returned: Result) -> bytes:
    match returned:
        case Returned(value):
            return _pack_value("returned", value)
        case Raised(type_names, message, trace):
            return frames.pack("raised", type_names, message, trace)
        case Opaque(name):
            return frames.pack("opaque", name)


def _pack_value(kind: str, value: Any) -> bytes:
    try:
        return frames.pack(kind, value)
    except NotAValue as error:
        return frames.pack("opaque", str(error))


def _failure(raised: Result) -> Ended:
    """Return the end of a run whose source raised."""
    assert isinstance(raised, Raised)
    status: Status = "runtime_error"
    if "MemoryError" in raised.type_names:
        status = "memory"
    elif "SystemExit" in raised.type_names:
        status = "no_result"
    return Ended(status, raised.trace or f"{raised.type_names[0]}: {raised.message}")
