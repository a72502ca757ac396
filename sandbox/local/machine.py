"""A machine on this host: namespaces, its own root, no network (machine_init.py is its inside)."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from areal.starting import main_of, start_process

from ..interface import SandboxUnavailable
from ..machine import LONGEST, MachineFull, MachineLimits, Ran, as_argument
from .machine_init import CHUNK, LENGTH, PATH

_COMMAND = main_of("areal.sandbox.local.machine_init")
_START_S = 60.0
_ANSWER_S = 60.0
"""Seconds beyond the limit of a command in which the machine must answer."""
_VARIABLES = {
    **{"HOME": "/root", "LANG": "C.UTF-8", "USER": "root", "TMPDIR": "/tmp", "TERM": "dumb"},
    "PATH": PATH,
}
FOLDER = "/app"
"""Default folder of commands."""


class LocalMachine:
    """A machine with this host's own programs (machine.Machine), which are read-only in it.

    Args:
        limits: limits of its resources.

    Raises:
        SandboxUnavailable: this host does not support it, or a network was requested.
    """

    def __init__(self, limits: MachineLimits | None = None) -> None:
        limits = limits or MachineLimits()
        if sys.platform != "linux":
            raise SandboxUnavailable("a local machine requires Linux")
        if limits.network:
            raise SandboxUnavailable("a local machine has no network")
        self._control, theirs = socket.socketpair()
        options = {
            "control": theirs.fileno(),
            "memory_mb": limits.memory_mb,
            "storage_mb": limits.storage_mb,
            "processes": limits.processes,
        }
        self._process = start_process(
            [sys.executable, "-I", "-S", "-B", "-X", "utf8", "-c", _COMMAND, json.dumps(options)],
            env={},
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            pass_fds=(theirs.fileno(),),
            start_new_session=True,
        )
        theirs.close()
        try:
            self._answer(_START_S)
        except (SandboxUnavailable, MachineFull) as error:
            lines = self._complaint()
            self.close()
            raise SandboxUnavailable(f"cannot start a machine: {(lines or [str(error)])[-1]}") from None

    def run(
        self,
        command: str,
        seconds: float,
        folder: str | None = None,
        variables: Mapping[str, str] | None = None,
    ) -> Ran:
        """Run a command with bash; see machine.Machine."""
        found = self._ask(
            seconds,
            do="run",
            command=as_argument(command),
            seconds=seconds,
            folder=folder or FOLDER,
            variables={**_VARIABLES, **(variables or {})},
            longest=LONGEST,
        )
        output = base64.b64decode(found["output"]).decode("utf-8", "replace")
        return Ran(found["code"], output, found["late"], found["seconds"])

    def put(self, source: Path, target: str) -> None:
        """Copy a file, or the content of a folder; see machine.Machine."""
        for path in [source] if source.is_file() else sorted(source.rglob("*")):
            if path.is_file():
                data = base64.b64encode(path.read_bytes()).decode("ascii")
                place = target if path == source else f"{target}/{path.relative_to(source).as_posix()}"
                self._ask(0, do="put", path=place, data=data, mode=path.stat().st_mode & 0o777 | 0o444)

    def read(self, path: str) -> str | None:
        """Return the beginning of a file."""
        data = self._ask(0, do="read", path=path, longest=LONGEST)["data"]
        return None if data is None else base64.b64decode(data).decode("utf-8", "replace")

    def settle(self, *folders: str) -> None:
        """Kill all processes, and recreate folders."""
        self._ask(0, do="settle", folders=folders)

    def close(self) -> None:
        """End the machine; the kernel ends all its processes with the first one."""
        self._control.close()
        try:
            self._process.wait(_START_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stderr is not None:
            self._process.stderr.close()

    def _ask(self, wait_s: float, **message: Any) -> dict[str, Any]:
        text = json.dumps(message).encode("ascii")
        try:
            self._control.settimeout(_ANSWER_S)
            self._control.sendall(LENGTH.pack(len(text)) + text)
            return self._answer(wait_s + _ANSWER_S)
        except OSError as error:
            raise SandboxUnavailable(f"the machine has ended: {error}") from error

    def _answer(self, seconds: float) -> dict[str, Any]:
        deadline = time.monotonic() + seconds
        size = LENGTH.unpack(self._exactly(LENGTH.size, deadline))[0]
        found: dict[str, Any] = json.loads(self._exactly(size, deadline))
        if "error" in found:
            raise MachineFull(found["error"])
        return found

    def _exactly(self, size: int, deadline: float) -> bytes:
        data = bytearray()
        while len(data) < size:
            self._control.settimeout(max(0.01, deadline - time.monotonic()))
            try:
                piece = self._control.recv(min(CHUNK, size - len(data)))
            except OSError as error:
                raise SandboxUnavailable(f"the machine does not answer: {error}") from error
            if not piece:
                raise SandboxUnavailable("the machine has ended")
            data += piece
        return bytes(data)

    def _complaint(self) -> list[str]:
        with contextlib.suppress(OSError):
            self._control.shutdown(socket.SHUT_RDWR)
        try:
            self._process.wait(_START_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
        assert self._process.stderr is not None
        os.set_blocking(self._process.stderr.fileno(), False)
        return (self._process.stderr.read() or b"").decode(errors="replace").splitlines()
