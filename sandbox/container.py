"""A sandbox of containers, one per run, with docker or podman, and with gVisor if it is installed."""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import subprocess
import time
import uuid
from collections.abc import Sequence

from . import tender
from .interface import SandboxLimits, SandboxUnavailable
from .pool import Pool
from .process import FROM_OUTSIDE
from .remote import LinkState, RemoteRun

DEFAULT_IMAGE = "python:3.11-slim"
_COMMANDS = ("docker", "podman")
_GVISOR = "runsc"
_NOBODY = 65534
_ASK_S = 20.0
_SEND_S = 20.0
_END_S = 2.0
_CHUNK = 1 << 16
_MAX_ARRIVED = 64 << 20
"""Number of bytes that are received while something is being sent."""
_OVERHEAD_MB = 64
"""Memory of a container in addition to its limit: the interpreter twice, and the scratch folder."""


def container_sandbox(
    size: int | None = None,
    image: str = DEFAULT_IMAGE,
    command: str | None = None,
    runtime: str | None = None,
) -> Pool:
    """Return a sandbox of containers.

    Args:
        size: number of concurrent runs; default: the number of CPUs available to this process.
        image: an image with a ``python3`` of at least 3.10; it is not pulled automatically.
        command: ``"docker"`` or ``"podman"``; default: the first one that works.
        runtime: the container runtime; default: gVisor's if it is installed.

    Raises:
        SandboxUnavailable: no container engine answers, or it does not have the image.
    """
    return Pool(ContainerBackend(image, command, runtime), size)


class ContainerBackend:
    """Starts processes in containers (process.Backend); see container_sandbox."""

    def __init__(self, image: str, command: str | None = None, runtime: str | None = None) -> None:
        self._command = command or find_engine()
        info = ask_engine(self._command, "info", "--format", "{{json .}}")
        if not ask_engine(self._command, "image", "inspect", "--format", "{{.Id}}", image):
            raise SandboxUnavailable(f"{self._command} does not have the image {image}; pull it first")
        known = json.loads(info or "").get("Runtimes") or {}
        self._runtime = runtime or (_GVISOR if _GVISOR in known else None)
        self._image = image
        self._links: set[_ContainerLink] = set()

    @property
    def level(self) -> str:
        """Return ``"gvisor"``, with its own kernel, or ``"container"``, which shares the kernel of the
        host."""
        return "gvisor" if self._runtime == _GVISOR else "container"

    def open(
        self, limits: SandboxLimits, first: bytes, stdin: bytes = b"", *, cut_output: bool = False
    ) -> RemoteRun:
        """Start a container; see process.Backend."""
        name = f"areal-{uuid.uuid4().hex}"
        arguments = [self._command, "run", *self._options(name, limits), self._image]
        link = _ContainerLink(self._command, name, [*arguments, "python3", "-I", "-c", tender.LOADER])
        self._links = {other for other in self._links if other.alive} | {link}
        try:
            run = RemoteRun(link, limits, stdin, cut_output)
            run.await_ready()
        except SandboxUnavailable as error:
            link.close()
            raise SandboxUnavailable(f"{error} {link.complaint()}".strip()) from None
        run.send(first)
        return run

    def close(self) -> None:
        """Remove every container."""
        for link in list(self._links):
            link.close()

    def _options(self, name: str, limits: SandboxLimits) -> list[str]:
        memory = f"{limits.memory_mb + limits.scratch_mb + _OVERHEAD_MB}m"
        scratch = f"/tmp:rw,noexec,nosuid,size={limits.scratch_mb}m"
        options = [
            *("--rm", "--interactive", "--name", name, "--pull", "never", "--log-driver", "none"),
            *("--network", "none", "--read-only", "--tmpfs", scratch),
            *("--user", f"{_NOBODY}:{_NOBODY}", "--cap-drop", "ALL", "--security-opt", "no-new-privileges"),
            *("--memory", memory, "--memory-swap", memory, "--cpus", "1", "--workdir", "/tmp"),
            *("--pids-limit", str(limits.threads + 4), "--ulimit", "core=0"),
        ]
        return options if self._runtime is None else [*options, "--runtime", self._runtime]


class _ContainerLink:
    """The standard streams of a container (remote.Link), which has ``send_s`` seconds to read a message."""

    def __init__(self, command: str, name: str, arguments: Sequence[str], send_s: float = _SEND_S) -> None:
        self._command = command
        self._send_s = send_s
        self._name = name
        try:
            self._process = subprocess.Popen(
                arguments,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                bufsize=0,
                start_new_session=True,
            )
        except OSError as error:  # this host has no more processes, descriptors or memory
            raise SandboxUnavailable(f"cannot start {command}: {error}") from error
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._stdin, self._stdout = self._process.stdin, self._process.stdout
        os.set_blocking(self._stdin.fileno(), False)
        self._arrived = bytearray()
        self._ended = False
        self._closed = False

    @property
    def alive(self) -> bool:
        return not self._closed

    def send(self, data: bytes) -> None:
        """Send bytes, and receive meanwhile, because both ends could otherwise wait for each other."""
        end = time.monotonic() + self._send_s
        unsent = memoryview(data)
        while unsent:
            poll = select.poll()
            poll.register(self._stdin, select.POLLOUT)
            if not self._ended and len(self._arrived) < _MAX_ARRIVED:
                poll.register(self._stdout, select.POLLIN)
            left = end - time.monotonic()
            ready = {descriptor for descriptor, _ in poll.poll(1000 * left)} if left > 0 else set()
            if not ready:
                raise SandboxUnavailable(
                    f"the container has not accepted its input within {self._send_s:g} s"
                )
            if self._stdout.fileno() in ready:
                self._read()
            if self._stdin.fileno() in ready:
                try:
                    unsent = unsent[os.write(self._stdin.fileno(), unsent[:_CHUNK]) :]
                except OSError as error:
                    raise SandboxUnavailable(f"the container does not accept input: {error}") from None

    def receive(self, timeout_s: float) -> bytes | None:
        """Return the output of the container."""
        if not self._arrived and not self._ended:
            poll = select.poll()
            poll.register(self._stdout, select.POLLIN)
            if not poll.poll(max(0.0, timeout_s) * 1000):
                return None
            self._read()
        data = bytes(self._arrived)
        self._arrived.clear()
        return data

    def _read(self) -> None:
        data = os.read(self._stdout.fileno(), _CHUNK)
        self._arrived += data
        self._ended = not data

    def state(self) -> LinkState:
        """Return the state of the container; it is lost if the engine's client was killed on this host.

        Its end without a report may be the engine's doing, whatever the code with which the client ended: 125
        to 127 are the engine's, 137 and 143 anyone's.
        """
        if self._ended:
            with contextlib.suppress(subprocess.TimeoutExpired):  # it closes its output just before it ends
                self._process.wait(_END_S)
        if (code := self._process.poll()) is not None:
            return "lost" if -code in FROM_OUTSIDE else "unclear"
        running = ask_engine(self._command, "inspect", "--format", "{{.State.Running}}", self._name)
        return "unclear" if self._ended or running in (None, "false") else "well"

    def complaint(self) -> str:
        """Return the last line that the engine wrote; the container has ended."""
        assert self._process.stderr is not None
        os.set_blocking(self._process.stderr.fileno(), False)
        text = self._process.stderr.read() or b""
        return (text.decode("utf-8", "replace").strip().splitlines() or [""])[-1]

    def close(self) -> None:
        """Kill the container; raises SandboxUnavailable if the engine does not confirm its end."""
        if self._closed:
            return
        self._closed = True
        # The tender ends when its input does; the engine's kill is for one that has been stopped.
        with contextlib.suppress(OSError):
            self._stdin.close()
        end = time.monotonic() + _ASK_S
        with contextlib.suppress(subprocess.TimeoutExpired, OSError):
            subprocess.run(
                [self._command, "kill", self._name], capture_output=True, timeout=_ASK_S, check=False
            )
        try:
            self._process.wait(max(0.0, end - time.monotonic()))
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            raise SandboxUnavailable(f"cannot remove the container {self._name}") from None
        finally:
            self._stdout.close()


def find_engine() -> str:
    """Return the first container engine that answers; raises SandboxUnavailable if none does."""
    complaints = []
    for command in _COMMANDS:
        if shutil.which(command) is None:
            complaints.append(f"{command} is not installed")
        elif ask_engine(command, "info", "--format", "{{json .}}"):
            return command
        else:
            complaints.append(f"{command} does not answer")
    raise SandboxUnavailable(f"no container engine is available: {', '.join(complaints)}")


def ask_engine(*arguments: str, seconds: float = _ASK_S) -> str | None:
    """Return what a command prints; None if it fails."""
    try:
        done = subprocess.run(arguments, capture_output=True, text=True, timeout=seconds, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
