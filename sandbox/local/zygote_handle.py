"""The host's end of a zygote: it starts the zygote, requests runs, and checks whether it lives."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
from dataclasses import asdict, dataclass
from typing import Any

from areal.host_limits import HostLimits
from areal.starting import main_of, start_process

from ..interface import SandboxLimits, SandboxUnavailable
from .evidence import Evidence
from .run import LocalRun

_START_S = 60.0
_COMMAND = main_of("areal.sandbox.local.zygote")


@dataclass(frozen=True, slots=True)
class Profile:
    """The preparations of a zygote.

    Attributes:
        level: ``"private"``, with namespaces, or ``"confined"``, without them.
        preload: modules to import in advance.
        packages: folders of installed packages that runs may import.
        landlock: maximum version of Landlock to use; ``None``: the kernel's own.
    """

    level: str
    preload: tuple[str, ...] = ()
    packages: tuple[str, ...] = ()
    landlock: int | None = None


class ZygoteHandle:
    """A running zygote.

    Raises:
        SandboxUnavailable: it could not be started; the message names the step that failed.
    """

    def __init__(self, profile: Profile) -> None:
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        # The kernel kills the keeper with this process, though not before the keeper has become another user;
        # the keeper also watches this descriptor.
        host = os.pidfd_open(os.getpid())
        options = {**asdict(profile), "control": theirs.fileno(), "host": host}
        self._process = start_process(
            [sys.executable, "-I", "-S", "-B", "-X", "utf8", "-c", _COMMAND, json.dumps(options)],
            # Otherwise each thread would reserve 64 MiB, and the memory limit would apply before that of
            # threads.
            env={"MALLOC_ARENA_MAX": "2"},
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            pass_fds=(theirs.fileno(), host),
            # Ctrl-C of the terminal is for the host process.
            start_new_session=True,
        )
        theirs.close()
        os.close(host)
        hello = self._hello()
        self.level: str = hello["level"]
        self.landlock: int = hello["landlock"]

    def _hello(self) -> dict[str, Any]:
        self._control.settimeout(_START_S)
        try:
            message = self._control.recv(1 << 16)
        except TimeoutError:
            message = b""
        hello = json.loads(message) if message else {}
        assert self._process.stderr is not None
        if "level" not in hello:
            self.close()
            lines = self._process.stderr.read().decode(errors="replace").splitlines()
            raise SandboxUnavailable(hello.get("error") or (lines or ["it did not start"])[-1])
        self._process.stderr.close()
        self._control.settimeout(None)
        return hello

    @property
    def alive(self) -> bool:
        """Whether the zygote is running."""
        return self._process.poll() is None

    @property
    def pid(self) -> int:
        """Return the process number of the keeper."""
        return self._process.pid

    def open(
        self, limits: SandboxLimits, first: bytes, stdin: bytes, cut_output: bool, host: HostLimits
    ) -> LocalRun:
        """Start a run.

        Raises:
            SandboxUnavailable: the run could not be locked down.
            OSError: the zygote is gone, or this process has no descriptors left.
        """
        rations = {
            **{"cpu_s": limits.processor_s, "memory_mb": limits.memory_mb, "threads": limits.threads},
            **{"files": limits.files, "scratch_mb": limits.scratch_mb},
        }
        with contextlib.ExitStack() as theirs, contextlib.ExitStack() as kept:
            ours, ends = [], []
            for writing in (True, False, False, True, False):
                read, write = os.pipe()
                ours.append(write if writing else read)
                ends.append(read if writing else write)
                kept.callback(os.close, ours[-1])
                theirs.callback(os.close, ends[-1])
            control, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            kept.enter_context(control)
            theirs.enter_context(other)
            socket.send_fds(self._control, [json.dumps(rations).encode()], [*ends, other.fileno()])
            kept.pop_all()
        evidence = Evidence(host, limits, isolated=self.level != "confined")
        run = LocalRun(control, ours, stdin, limits, cut_output, self.kill, evidence)
        run.send(first)
        try:
            run.await_ready()
        except SandboxUnavailable:
            run.stop()
            raise
        return run

    def kill(self) -> None:
        """Kill the keeper, with which the kernel ends the zygote and all its runs."""
        self._process.kill()
        self._process.wait()

    def close(self) -> None:
        """End the zygote and all its runs; return when the keeper reports that they are gone."""
        self._control.close()
        try:
            self._process.wait(_START_S)
        except subprocess.TimeoutExpired:
            self.kill()
