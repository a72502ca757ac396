"""A machine in a container, with docker or podman (machine.Machine)."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import select
import subprocess
import time
import uuid
from collections.abc import Mapping
from pathlib import Path

from .container import ask_engine, find_engine
from .interface import SandboxUnavailable
from .machine import LONGEST, MachineFull, MachineLimits, Ran, as_argument

_COPY_S = 120.0
_SMALL_S = 30.0
_CHUNK = 1 << 16
_KILL = "kill -9 -1"
"""Everything in the container except its first process, which no signal from inside can end."""


def build_image(folder: Path, seconds: float, command: str | None = None) -> str:
    """Return the name of the image from a folder's Dockerfile; the same files are built only once.

    Raises:
        SandboxUnavailable: there is no container engine, or it fails to build the image.
    """
    engine = command or find_engine()
    content = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            content.update(f"{path.relative_to(folder).as_posix()}\0{path.stat().st_mode}\0".encode())
            content.update(hashlib.sha256(path.read_bytes()).digest())
    name = f"areal-task:{content.hexdigest()[:24]}"
    if ask_engine(engine, "image", "inspect", "--format", "{{.Id}}", name) is None:
        try:
            done = subprocess.run(
                [engine, "build", "--quiet", "--tag", name, str(folder)],
                capture_output=True,
                text=True,
                errors="replace",
                timeout=seconds,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise SandboxUnavailable(f"cannot build {folder / 'Dockerfile'}: {error}") from error
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
            raise SandboxUnavailable(f"cannot build {folder / 'Dockerfile'}: {last}")
    return name


class ContainerMachine:
    """A container of an image (machine.Machine); commands run as the image's user.

    Args:
        image: an image that the engine already has; it is not pulled.
        limits: limits of its resources.
        command: ``"docker"`` or ``"podman"``; default: the first one that works.

    Raises:
        SandboxUnavailable: there is no container engine, or it fails to start the container.
    """

    def __init__(self, image: str, limits: MachineLimits | None = None, command: str | None = None) -> None:
        limits = limits or MachineLimits()
        self._engine = command or find_engine()
        self._closed = False
        if not ask_engine(self._engine, "image", "inspect", "--format", "{{.Id}}", image):
            raise SandboxUnavailable(
                f"{self._engine} does not have the image {image}; pull it first ({self._engine} pull {image})"
            )
        self._name = f"areal-{uuid.uuid4().hex}"
        memory = f"{limits.memory_mb}m"
        options = [
            *("--detach", "--name", self._name, "--pull", "never", "--log-driver", "none"),
            *("--network", "bridge" if limits.network else "none", "--security-opt", "no-new-privileges"),
            *("--memory", memory, "--memory-swap", memory, "--cpus", f"{limits.cpus:g}"),
            *("--pids-limit", str(limits.processes), "--ulimit", "core=0", "--entrypoint", "sleep"),
        ]
        started = self._client("run", *options, image, "infinity", seconds=_COPY_S)
        if started.code:
            self.close()
            last = (started.output.strip().splitlines() or ["no reason given"])[-1]
            raise SandboxUnavailable(f"{self._engine} does not start a container of {image}: {last}")

    def run(
        self,
        command: str,
        seconds: float,
        folder: str | None = None,
        variables: Mapping[str, str] | None = None,
    ) -> Ran:
        """Run a command with bash; see machine.Machine. At its limit, it ends with all other processes."""
        options = [f"--env={name}={value}" for name, value in (variables or {}).items()]
        options += [f"--workdir={folder}"] if folder else []
        ran = self._client("exec", *options, self._name, "bash", "-c", as_argument(command), seconds=seconds)
        if ran.late:
            self._inside(_KILL)
        elif ran.code:
            self._check_alive()
        return ran

    def put(self, source: Path, target: str) -> None:
        """Copy a file, or the content of a folder; see machine.Machine."""
        self._inside(f"mkdir -p '{target if source.is_dir() else Path(target).parent.as_posix()}'")
        copied = self._client(
            "cp", f"{source}/." if source.is_dir() else str(source), f"{self._name}:{target}", seconds=_COPY_S
        )
        if copied.code:
            self._check_alive()
            raise MachineFull((copied.output.strip().splitlines() or [f"{target} does not accept files"])[-1])

    def read(self, path: str) -> str | None:
        """Return the beginning of a file."""
        found = self._inside(f"test -f '{path}' && head -c {LONGEST} '{path}'")
        return None if found.code else found.output

    def settle(self, *folders: str) -> None:
        """Kill all processes, and recreate folders."""
        self._inside(_KILL)
        for folder in folders:
            done = self._inside(f"rm -rf '{folder}' && mkdir -p '{folder}'")
            if done.code:
                raise MachineFull(f"cannot recreate {folder}: {done.output.strip()[-200:]}")

    def close(self) -> None:
        """Remove the container."""
        if not self._closed:
            self._closed = True
            ask_engine(self._engine, "rm", "--force", self._name, seconds=_COPY_S)

    def _inside(self, command: str) -> Ran:
        """Run one of areal's own commands."""
        ran = self._client("exec", self._name, "bash", "-c", command, seconds=_SMALL_S)
        if ran.late:
            raise SandboxUnavailable("the container does not answer")
        if ran.code:
            self._check_alive()
        return ran

    def _check_alive(self) -> None:
        """Raise SandboxUnavailable if the container failed, rather than a command in it."""
        if ask_engine(self._engine, "inspect", "--format", "{{.State.Running}}", self._name) != "true":
            raise SandboxUnavailable("the container has ended")

    def _client(self, *arguments: str, seconds: float) -> Ran:
        """Run the engine's client, and return the beginning of its output."""
        began = time.monotonic()
        try:
            process = subprocess.Popen(
                [self._engine, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        except OSError as error:  # no processes, descriptors or memory are left
            if error.errno == errno.E2BIG:  # only the command of a run can be this long
                return Ran(126, f"bash: {error.strerror}\n")
            raise SandboxUnavailable(f"cannot start {self._engine}: {error}") from error
        output = bytearray()
        assert process.stdout is not None
        with process.stdout as stream:
            poll = select.poll()
            poll.register(stream, select.POLLIN)
            while (left := began + seconds - time.monotonic()) > 0:
                if poll.poll(left * 1000):
                    if not (data := os.read(stream.fileno(), _CHUNK)):
                        break
                    output += data[: max(0, LONGEST - len(output))]
            late = False
            try:
                process.wait(max(0.0, began + seconds - time.monotonic()))
            except subprocess.TimeoutExpired:
                late = True
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                process.wait()
        return Ran(process.returncode, output.decode("utf-8", "replace"), late, time.monotonic() - began)
