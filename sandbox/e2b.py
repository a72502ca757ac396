"""A sandbox of virtual machines at E2B (https://e2b.dev), one per run, with the package e2b-code-interpreter.

The machine has no network, ends with the run, and would end by itself if this process could not end it. The
SDK raises the same exception for a run that takes too long, a slow request and a lost machine. This module
therefore uses its own clock, and asks whether the machine is running. Only events on a running machine, over
a working connection, are the fault of the code under test.
"""

from __future__ import annotations

import contextlib
import importlib
import math
import queue
import shlex
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any, TypeVar

from . import tender
from .interface import SandboxLimits, SandboxUnavailable
from .pool import Pool
from .remote import LinkState, RemoteRun

_SPARE_S = 60
"""Seconds that a machine lives beyond the limits of its run."""
_REQUEST_S = 30.0
_START_S = 30.0
_ASK_S = 10.0
_LATE_S = 2.0
"""Seconds beyond its limit after which a request is abandoned."""
_MAX_ARRIVED = 256
"""Maximum number of output chunks, of about 32 KiB each, that wait to be received."""
_DEFAULT_SIZE = 16
T = TypeVar("T")


def e2b_sandbox(size: int = _DEFAULT_SIZE, template: str | None = None, api_key: str | None = None) -> Pool:
    """Return a sandbox of E2B machines.

    Args:
        size: number of concurrent runs; accounts have a limit, too.
        template: the template of the machine, with a ``python3`` of at least 3.10; default: E2B's code
            interpreter.
        api_key: key of the account; default: the environment variable E2B_API_KEY.

    Raises:
        SandboxUnavailable: the package e2b-code-interpreter is not installed.
    """
    return Pool(E2BBackend(template, api_key), size)


class E2BBackend:
    """Starts processes on machines of their own (process.Backend); see e2b_sandbox."""

    def __init__(self, template: str | None = None, api_key: str | None = None) -> None:
        _sdk()
        self._template = template
        self._api_key = api_key
        self._links: set[_MachineLink] = set()
        self._lock = threading.Lock()

    def open(
        self, limits: SandboxLimits, first: bytes, stdin: bytes = b"", *, cut_output: bool = False
    ) -> RemoteRun:
        """Start a machine; see process.Backend."""
        link = _MachineLink(self._machine(limits))
        with self._lock:
            self._links = {other for other in self._links if other.alive} | {link}
        try:
            link.start()
            run = RemoteRun(link, limits, stdin, cut_output)
            run.await_ready()
        except SandboxUnavailable:
            link.close()
            raise
        run.send(first)
        return run

    def close(self) -> None:
        """End every machine."""
        with self._lock:
            links, self._links = self._links, set()
        for link in links:
            link.close()

    def _machine(self, limits: SandboxLimits) -> Any:
        sdk = _sdk()
        seconds = math.ceil(max(limits.wall_s, limits.processor_s)) + _SPARE_S
        return _ask(
            "E2B did not provide a machine",
            _REQUEST_S,
            sdk.Sandbox.create,
            self._template,
            timeout=seconds,
            allow_internet_access=False,
            api_key=self._api_key,
        )


class _MachineLink:
    """The standard streams of the tender (remote.Link) on a machine; takes ownership of the SDK's Sandbox."""

    def __init__(self, machine: Any) -> None:
        self._machine = machine
        self._handle: Any = None
        self._arrived: queue.Queue[bytes] = queue.Queue(_MAX_ARRIVED)
        self._started = threading.Event()
        self._broken = ""
        self._ended = False
        self._closed = False

    @property
    def alive(self) -> bool:
        """Whether the machine is still in use."""
        return not self._closed

    def start(self) -> None:
        """Start the tender; raises SandboxUnavailable if the machine does not start it."""
        threading.Thread(target=self._listen, name="e2b-output", daemon=True).start()
        if not self._started.wait(_START_S):
            raise SandboxUnavailable(f"the machine has not started the sandbox within {_START_S:g} s")
        if self._handle is None:
            raise SandboxUnavailable(self._broken)

    def _listen(self) -> None:
        """Run the tender and pass on its output, on a thread, because the SDK's call blocks."""
        command = f"exec python3 -I -c {shlex.quote(tender.LOADER)}"
        try:
            with _border("the machine does not start the sandbox"):
                # Without the SDK's time limit, which could not be distinguished from other failures.
                self._handle = self._machine.commands.run(
                    command, background=True, stdin=True, timeout=0, retain_output=False
                )
                self._started.set()
                for stdout, _, _ in self._handle:
                    if stdout:
                        # Non-ASCII output is not from the tender, and decoding rejects it.
                        self._pass_on(stdout.encode("utf-8", "replace"))
        except SandboxUnavailable as error:
            self._broken = str(error)
        finally:
            self._started.set()
            self._pass_on(b"")

    def _pass_on(self, data: bytes) -> None:
        """Pass data to the receiver, which may be slow; further data wait at the machine."""
        while not self._closed:
            with contextlib.suppress(queue.Full):
                return self._arrived.put(data, timeout=1.0)

    def send(self, data: bytes) -> None:
        """Send bytes."""
        _ask("the machine does not accept input", _REQUEST_S, self._send, data)

    def _send(self, data: bytes, request_timeout: float) -> None:
        # If the tender has ended, its earlier output must still be read.
        with contextlib.suppress(importlib.import_module("e2b.exceptions").NotFoundException):
            self._handle.send_stdin(data, request_timeout=request_timeout)

    def receive(self, timeout_s: float) -> bytes | None:
        """Return the output of the tender."""
        if self._ended:
            return b""
        try:
            data = self._arrived.get(timeout=timeout_s) if timeout_s > 0 else self._arrived.get_nowait()
        except queue.Empty:
            return None
        self._ended = not data
        return data

    def state(self) -> LinkState:
        """Return the state of connection and machine; the code there may end both, because it is root."""
        if self._ended and self._broken:
            return "unclear"
        try:
            running = _ask("the machine does not answer", _ASK_S, self._machine.is_running)
        except SandboxUnavailable:
            return "unclear"
        return "well" if running else "unclear"

    def close(self) -> None:
        """Release the machine. An unreachable machine ends by itself, at the time set at its start."""
        if self._closed:
            return
        self._closed = True
        with contextlib.suppress(SandboxUnavailable):
            _ask("cannot stop the machine", _REQUEST_S, self._machine.kill)


def _sdk() -> Any:
    try:
        return importlib.import_module("e2b_code_interpreter")
    except ImportError:
        raise SandboxUnavailable(
            "E2B requires its package; install it with pip install e2b-code-interpreter"
        ) from None


def _ask(complaint: str, seconds: float, call: Callable[..., T], *args: Any, **kwargs: Any) -> T:
    """Make a request with the SDK, and wait for the reply for a limited time.

    The SDK gets the same limit, but applies it to each piece of a reply, and a server may send many pieces.

    Raises:
        SandboxUnavailable: the request failed, or there was no reply in time; the request is then abandoned.
    """
    reply: Future[T] = Future()

    def ask() -> None:
        try:
            with _border(complaint):
                reply.set_result(call(*args, request_timeout=seconds, **kwargs))
        except SandboxUnavailable as error:
            reply.set_exception(error)

    # Not a thread of a pool, because the interpreter waits for those at its end.
    try:
        threading.Thread(target=ask, name="e2b-request", daemon=True).start()
    except RuntimeError as error:
        raise SandboxUnavailable(f"{complaint}: {error}") from error
    try:
        return reply.result(seconds + _LATE_S)
    except TimeoutError:
        raise SandboxUnavailable(f"{complaint}: no reply in {seconds + _LATE_S:g} s") from None


@contextlib.contextmanager
def _border(complaint: str) -> Iterator[None]:
    """Convert all exceptions of the SDK in the context to SandboxUnavailable.

    The SDK raises its own exceptions, lets those of its libraries pass, which change between versions, and
    also raises the class Exception itself.
    """
    try:
        yield
    except Exception as error:
        raise SandboxUnavailable(f"{complaint}: {error or type(error).__name__}") from error
