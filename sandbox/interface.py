"""What every sandbox offers: jobs in, values out.

Code under test owns its process, so nothing that it says about passing counts. A sandbox therefore never
returns a verdict on untrusted code: it returns the *values* that the code produced, rebuilt from a strict
encoding as exact builtin types, and whoever asked compares them with what it expected. Expected values
never enter the process that runs the code.
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
"""How a run ended. ``infra_error`` alone is our failure: it is retried and never becomes a reward."""


class SandboxUnavailable(RuntimeError):
    """The sandbox cannot be used here, or failed for its own reasons; the code under test is not to blame."""


@dataclass(frozen=True, slots=True)
class SandboxLimits:
    """What one run may use.

    Attributes:
        wall_s: seconds from the moment when the code starts to the last result.
        cpu_s: seconds of processor time; ``None`` is ``wall_s`` plus one second.
        memory_mb: address space beyond what the interpreter itself takes, in MiB.
        threads: threads alive at once.
        files: open file descriptors.
        scratch_mb: size of the writable folder ``/tmp``, and of one file, in MiB.
        output_bytes: bytes of standard output, and as many of standard error.
        result_bytes: bytes of all results together, as encoded.
        source_bytes: bytes of source code; longer code is refused without being run.
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
        """Return the limit on processor time, in seconds."""
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
        otherwise: what is called if the first name of ``function`` is not defined: another path.
    """

    function: str
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    otherwise: str = ""


@dataclass(frozen=True, slots=True)
class Calls:
    """Run the source as a module, then call its functions; one result per call, in order.

    Attributes:
        calls: what is called.
        ahead: send all of them at once, rather than each when the one before it has been answered. It takes
            less time where the process is far away, but the code can read calls to come, and return them.
    """

    calls: tuple[Call, ...]
    ahead: bool = False


@dataclass(frozen=True, slots=True)
class Script:
    """Run the source as a script that reads ``stdin``; its standard output is the result.

    Attributes:
        stdin: what it reads.
        any_exit: whether it may end with ``exit(code)`` whatever the code is, rather than with 0.
    """

    stdin: str = ""
    any_exit: bool = False


@dataclass(frozen=True, slots=True)
class Check:
    """Run the caller's check code in a second sandboxed process that calls the code under test by value.

    Attributes:
        setup: executed first in the checker's process; errors in it are the caller's.
        statements: executed one by one after it; one result each, ``Returned(None)`` or ``Raised``.
        proxies: names of the checker's namespace to the functions of the source that they stand for.
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
        before: executed before it, in the same namespace.
        scope: what is in scope before both: ``"contest"`` is what the judges of programming contests import
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
    """A call raised.

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
    """A call returned something that is no value: a generator, an object of a class, a cycle."""

    type_name: str


Result: TypeAlias = Returned | Raised | Opaque


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run gave.

    Attributes:
        status: how it ended; ``"ok"`` says that every result came, not that any is right.
        values: the results so far, in order.
        stdout: standard output as UTF-8, bytes that are not replaced; up to the limit.
        stderr: likewise standard error.
        error: a traceback, or a line of explanation; empty when the status is ``"ok"``.
        seconds: from the start of the code to its last result.
        last_call: of a check: its last call of the code under test, and what that gave, if it gave anything.
        if_repeated: of an ``infra_error`` that the code may have brought about: what it is if every run of
            this code ends so on a sandbox where other code runs well.
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
        """Execute code; the value of a last expression comes back as ``Returned(repr)``.

        Args:
            code: statements; the names that they bind stay.
            wall_s: seconds for this call; ``None`` is the session's own limit per call.
        """
        ...

    async def close(self) -> None:
        """End the interpreter; a second call does nothing."""
        ...


@runtime_checkable
class Sandbox(Protocol):
    """A place where untrusted Python runs. Safe to use from any thread and any event loop."""

    async def run(self, job: Job, limits: SandboxLimits | None = None) -> Outcome:
        """Run one job in a process of its own.

        Never raises for what the code does; a failure of the sandbox is the status ``infra_error``.
        """
        ...

    async def session(self, limits: SandboxLimits | None = None, session_s: float = 600.0) -> SandboxSession:
        """Start an interpreter that keeps its state.

        Args:
            limits: ``wall_s`` holds for each call, the rest for the whole session.
            session_s: seconds after which the session ends, whatever it does.

        Raises:
            SandboxUnavailable: it could not be started.
        """
        ...

    async def close(self) -> None:
        """End every process; a second call does nothing."""
        ...
