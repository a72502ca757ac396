"""The interface of all sandboxes: they run jobs and return values.

Code under test controls its process, so it cannot be trusted to report whether it passes. A sandbox therefore
never returns a verdict: it returns the *values* that the code produced, rebuilt from a strict encoding as
exact builtin types, and the caller compares them with the expected values. Expected values never enter the
process that runs the code.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeAlias, runtime_checkable

Status: TypeAlias = Literal[
    "ok",
    "runtime_error",
    "timeout",
    "memory",
    "output_limit",
    "crashed",
    "violation",
    "no_result",
    "protocol_error",
    "infra_error",
]
"""How a run ended. ``infra_error`` is a failure of the sandbox, which is retried and never becomes a
reward."""


class SandboxUnavailable(RuntimeError):
    """The sandbox cannot be used on this host, or failed; the code under test is not at fault."""


@dataclass(frozen=True, slots=True)
class SandboxLimits:
    """Limits of one run.

    Attributes:
        wall_s: seconds from the start of the code to the last result.
        cpu_s: seconds of CPU time; ``None``: ``wall_s`` plus one second.
        memory_mb: address space in addition to that of the interpreter, in MiB.
        threads: concurrent threads.
        files: open file descriptors.
        scratch_mb: size of the writable folder ``/tmp``, and of one file, in MiB.
        output_bytes: bytes of standard output, and of standard error.
        result_bytes: bytes of all encoded results together.
        source_bytes: bytes of source code; longer code is refused.
    """

    wall_s: float = 6.0
    cpu_s: float | None = None
    memory_mb: int = 1024
    threads: int = 32
    files: int = 64
    scratch_mb: int = 16
    output_bytes: int = 1 << 20
    result_bytes: int = 8 << 20
    source_bytes: int = 256 << 10

    @property
    def processor_s(self) -> float:
        """Return the limit of the CPU time, in seconds."""
        return self.wall_s + 1 if self.cpu_s is None else self.cpu_s


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a function of the code under test.

    Attributes:
        function: a name, or a dotted path such as ``"Solution.solve"``: a class met on the way is
            instantiated without arguments, once for all calls of a process, as the runners of LiveCodeBench
            and APPS do.
        args: positional arguments, made of builtin types.
        kwargs: keyword arguments, likewise.
        otherwise: another path, which is called if the first name of ``function`` is not defined.
    """

    function: str
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    otherwise: str = ""


@dataclass(frozen=True, slots=True)
class Calls:
    """Run the source as a module, then call its functions; one result per call, in order.

    Attributes:
        calls: the calls.
        ahead: send all calls at once, instead of each after the result of the previous one. This saves time
            if the process is remote, but the code can read later calls and return them.
    """

    calls: tuple[Call, ...]
    ahead: bool = False


@dataclass(frozen=True, slots=True)
class Script:
    """Run the source as a script that reads ``stdin``, and return its standard output.

    Attributes:
        stdin: its input.
        any_exit: whether it may end with any exit code, instead of only 0.
    """

    stdin: str = ""
    any_exit: bool = False


@dataclass(frozen=True, slots=True)
class Check:
    """Run the caller's check code in a second sandboxed process that calls the code under test by value.

    Attributes:
        setup: code that is executed first in the checker's process; its errors are the caller's fault.
        statements: statements that are executed one after the other; each has one result, ``Returned(None)``
            or ``Raised``.
        proxies: maps names in the checker's namespace to functions of the source.
    """

    setup: str
    statements: tuple[str, ...]
    proxies: dict[str, str]


@dataclass(frozen=True, slots=True)
class Job:
    """Untrusted source code and what to do with it.

    Attributes:
        source: the code.
        mode: what to do with it.
        before: code that is executed before the source, in the same namespace.
        scope: names in scope before both; ``"contest"``: those that judges of programming contests import
            (scope.py).
    """

    source: str
    mode: Calls | Script | Check
    before: str = ""
    scope: Literal["", "contest"] = ""


@dataclass(frozen=True, slots=True)
class Returned:
    """A call returned a value made of exact builtin types."""

    value: Any


@dataclass(frozen=True, slots=True)
class Raised:
    """A call raised an exception.

    Attributes:
        type_names: class names, from the exception's class to ``"BaseException"``.
        message: ``str(exception)``, truncated.
        trace: the traceback within the source, truncated.
    """

    type_names: tuple[str, ...]
    message: str
    trace: str = ""


@dataclass(frozen=True, slots=True)
class Opaque:
    """A call returned something that is not a value: a generator, an object of a class, a cycle."""

    type_name: str


Result: TypeAlias = Returned | Raised | Opaque


@dataclass(frozen=True, slots=True)
class Outcome:
    """The outcome of a run.

    Attributes:
        status: how it ended; ``"ok"`` means that all results arrived, not that they are correct.
        values: the results so far, in order.
        stdout: standard output as UTF-8, with invalid bytes replaced, up to the limit.
        stderr: likewise standard error.
        error: a traceback, or a line of explanation; empty when the status is ``"ok"``.
        seconds: from the start of the code to its last result.
        last_call: for a check: its last call of the code under test, and the result of that call, if any.
        if_repeated: for an ``infra_error`` that the code may have caused: the status that applies if every
            run of this code ends in this way while other code runs well.
    """

    status: Status
    values: tuple[Result, ...] = ()
    stdout: str = ""
    stderr: str = ""
    error: str = ""
    seconds: float = 0.0
    last_call: tuple[Call, Result | None] | None = None
    if_repeated: Status | None = None


class SandboxSession(Protocol):
    """A Python interpreter that keeps its variables between calls."""

    async def run(self, code: str, wall_s: float | None = None) -> Outcome:
        """Execute code; the value of a last expression is returned as ``Returned(repr)``.

        Args:
            code: statements; the names that they bind remain.
            wall_s: time limit of this call, in seconds; ``None``: the limit of the session per call.
        """
        ...

    async def close(self) -> None:
        """End the interpreter; a second call does nothing."""
        ...


@runtime_checkable
class Sandbox(Protocol):
    """A place where untrusted Python runs. It can be used from any thread and any event loop."""

    async def run(self, job: Job, limits: SandboxLimits | None = None) -> Outcome:
        """Run one job in its own process.

        This never raises because of the code; a failure of the sandbox has the status ``infra_error``.
        """
        ...

    async def session(self, limits: SandboxLimits | None = None, session_s: float = 600.0) -> SandboxSession:
        """Start an interpreter that keeps its state.

        Args:
            limits: ``wall_s`` applies to each call, the other limits to the whole session.
            session_s: maximum duration of the session, in seconds.

        Raises:
            SandboxUnavailable: the interpreter could not start.
        """
        ...

    async def close(self) -> None:
        """End all processes; a second call does nothing."""
        ...
