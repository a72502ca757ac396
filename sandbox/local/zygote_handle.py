"""The host's end of one zygote: it starts it, asks it for runs, and sees whether it lives."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..interface import SandboxLimits, SandboxUnavailable
from .run import LocalRun

_START_S = 60.0
_ROOT = Path(__file__).absolute().parents[3]
"""The folder from which this code is imported as ``areal.sandbox``; the package itself may be a link."""
_COMMAND = (
    # The package without its __init__, which imports what the interpreter of a run need not have.
    "import sys, types; package = sys.modules['areal'] = types.ModuleType('areal'); "
    f"package.__path__ = [{str(_ROOT / 'areal')!r}]; sys.path.append({str(_ROOT)!r}); "
    "from areal.sandbox.local.zygote import main; main()"
)


@dataclass(frozen=True, slots=True)
class Profile:
    """What a zygote prepares.

    Attributes:
        level: ``"private"``, with namespaces, or ``"confined"``, without.
        preload: modules to import in advance.
        packages: folders of installed packages that runs may import.
        landlock: the version of Landlock to use at most; ``None`` is the kernel's own.
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
        # A signal at the parent's death would come at the death of the *thread* that starts the keeper,
        # so the keeper watches a descriptor of this process.
        host = os.pidfd_open(os.getpid())
        options = {**asdict(profile), "control": theirs.fileno(), "host": host}
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-B", "-X", "utf8", "-c", _COMMAND, json.dumps(options)],
            # Or each thread would reserve 64 MiB, and the limit on memory would bind before that on threads.
            env={"MALLOC_ARENA_MAX": "2"},
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            pass_fds=(theirs.fileno(), host),
            # The terminal's Ctrl-C is for the host process.
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
        """Say whether the zygote still runs."""
        return self._process.poll() is None

    @property
    def pid(self) -> int:
        """Return the process number of the keeper."""
        return self._process.pid

    def open(self, limits: SandboxLimits, first: bytes, stdin: bytes, cut_output: bool) -> LocalRun:
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
        run = LocalRun(control, ours, stdin, limits, cut_output, self.kill)
        run.send(first)
        try:
            run.await_ready()
        except SandboxUnavailable:
            run.stop()
            raise
        return run

    def kill(self) -> None:
        """End the zygote and every run of it by force: the kernel does it when the keeper is gone."""
        self._process.kill()
        self._process.wait()

    def close(self) -> None:
        """End the zygote and every run of it; return when the keeper says that they are gone."""
        self._control.close()
        try:
            self._process.wait(_START_S)
        except subprocess.TimeoutExpired:
            self.kill()
