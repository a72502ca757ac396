"""Processes that import the modules of workers before the workers are started.

A run's process imports and checks for seconds before it knows the arguments of its workers. The workers' own
imports take longer than that, and do not depend on these arguments. If a process is ready under the name of a
worker, the worker takes it over when it is started (:mod:`areal.workers.process`).
"""

from __future__ import annotations

import importlib
import os
import pickle
import socket
import struct
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from areal.threads import CallThread

_LENGTH = struct.Struct(">Q")


class EarlyProcess:
    """A process that imports modules, and then waits to be taken over.

    Args:
        popen: the process.
        end: end of the connection to it.
        stacks: descriptor of the file for its stacks.
    """

    def __init__(self, popen: subprocess.Popen[bytes], end: socket.socket, stacks: int) -> None:
        self.pid, self.end, self.stacks, self._popen = popen.pid, end, stacks, popen

    @property
    def returncode(self) -> int | None:
        """Exit code, once it is known."""
        return self._popen.returncode

    async def wait(self) -> int:
        """Wait for the end of the process, and return its exit code."""
        thread = CallThread("areal-end")
        try:
            return await thread.run(self._popen.wait)
        finally:
            thread.end()

    def runs(self) -> bool:
        """Return whether it is running."""
        return self._popen.poll() is None

    def wake(self, changed: Mapping[str, str], gone: Sequence[str]) -> None:
        """Let it serve calls, with the current output and module paths of this process.

        Args:
            changed: environment variables that are new or changed.
            gone: environment variables that were removed.
        """
        content = pickle.dumps((list(sys.path), dict(changed), list(gone)))
        socket.send_fds(self.end, [_LENGTH.pack(len(content))], [1, 2])
        self.end.sendall(content)

    def close(self) -> None:
        """End the process."""
        self._popen.kill()
        self._popen.wait()
        self.end.close()
        os.close(self.stacks)


@dataclass(frozen=True, slots=True)
class _Ready:
    process: EarlyProcess
    environment: dict[str, str]
    ours: dict[str, str]


class EarlyProcesses:
    """Processes that exist before their workers; those that no worker takes over end with the block."""

    def __init__(self) -> None:
        self._ready: dict[str, _Ready] = {}

    def add(self, name: str, environment: Mapping[str, str], process: EarlyProcess) -> None:
        """Add a process that was just started.

        Args:
            name: name of its later worker.
            environment: its environment variables in addition to our own.
            process: the process.
        """
        self._ready[name] = _Ready(process, dict(environment), dict(os.environ))

    def take(self, name: str, environment: Mapping[str, str]) -> EarlyProcess | None:
        """Return the process for a worker, which serves calls from now on.

        Args:
            name: name of the worker.
            environment: its environment variables in addition to our own.

        Returns:
            The process; None: there is none, or it has ended, or has a different environment.
        """
        if (ready := self._ready.pop(name, None)) is None:
            return None
        if ready.environment != environment or not ready.process.runs():
            ready.process.close()
            return None
        now = {name: value for name, value in os.environ.items() if name not in environment}
        changed = {name: value for name, value in now.items() if ready.ours.get(name) != value}
        gone = [name for name in ready.ours if name not in now and name not in environment]
        try:
            ready.process.wake(changed, gone)
        except OSError:  # it has just ended
            ready.process.close()
            return None
        return ready.process

    def __enter__(self) -> EarlyProcesses:
        return self

    def __exit__(self, *error: Any) -> None:
        for ready in self._ready.values():
            ready.process.close()
        self._ready.clear()


def import_and_wait(end: socket.socket, modules: Sequence[str]) -> None:
    """Import modules, and wait until this process is taken over or no longer needed.

    Args:
        end: end of the connection to the process that started this one.
        modules: modules to import; those that are not installed are skipped.
    """
    for module in modules:
        with suppress(ImportError):  # the code that needs it reports it
            importlib.import_module(module)
    head, descriptors, _, _ = socket.recv_fds(end, _LENGTH.size, 2)
    if not head:
        os._exit(0)
    paths, changed, gone = pickle.loads(_received(end, *_LENGTH.unpack(head)))
    sys.path[:] = paths
    os.environ.update(changed)
    for name in gone:
        os.environ.pop(name, None)
    _print_to(descriptors)


def _received(end: socket.socket, count: int) -> bytes:
    content = b""
    while len(content) < count:
        if not (more := end.recv(count - len(content))):
            os._exit(0)
        content += more
    return content


def _print_to(descriptors: Sequence[int]) -> None:
    """Redirect output to these descriptors, including what was printed so far."""
    sys.stdout.flush()
    sys.stderr.flush()
    so_far = os.dup(2)
    for own, descriptor in zip((1, 2), descriptors, strict=True):
        os.dup2(descriptor, own)
        os.close(descriptor)
    os.lseek(so_far, 0, os.SEEK_SET)
    while text := os.read(so_far, 2**16):
        os.write(2, text)
    os.close(so_far)
