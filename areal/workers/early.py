"""Processes for workers that will be started soon: meanwhile they import what those need.

A run's process imports and checks for seconds before it can say what its workers are made from. Their own
imports take longer than that, and need nothing that it finds out. A worker that is started under the name for
which a process is ready takes it over (:mod:`areal.workers.process`).
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
    """A process that imports, and then waits to be taken over.

    Args:
        popen: it.
        end: of the connection to it.
        stacks: descriptor of the file for its stacks.
    """

    def __init__(self, popen: subprocess.Popen[bytes], end: socket.socket, stacks: int) -> None:
        self.pid, self.end, self.stacks, self._popen = popen.pid, end, stacks, popen

    @property
    def returncode(self) -> int | None:
        """How it ended, once somebody has waited for that."""
        return self._popen.returncode

    async def wait(self) -> int:
        """Return how it ended, once it has."""
        thread = CallThread("areal-end")
        try:
            return await thread.run(self._popen.wait)
        finally:
            thread.end()

    def runs(self) -> bool:
        """Return whether it has not ended."""
        return self._popen.poll() is None

    def wake(self, changed: Mapping[str, str], gone: Sequence[str]) -> None:
        """Have it serve calls, with the output and the places of modules that we have now.

        Args:
            changed: variables of its environment that are new or others.
            gone: those that it has no more.
        """
        content = pickle.dumps((list(sys.path), dict(changed), list(gone)))
        socket.send_fds(self.end, [_LENGTH.pack(len(content))], [1, 2])
        self.end.sendall(content)

    def close(self) -> None:
        """End it."""
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
    """Processes that are there before their workers; those that no worker takes over end with the block."""

    def __init__(self) -> None:
        self._ready: dict[str, _Ready] = {}

    def add(self, name: str, environment: Mapping[str, str], process: EarlyProcess) -> None:
        """Take in a process that was just started.

        Args:
            name: of the worker that is to have it.
            environment: variables that it has besides our own.
            process: it.
        """
        self._ready[name] = _Ready(process, dict(environment), dict(os.environ))

    def take(self, name: str, environment: Mapping[str, str]) -> EarlyProcess | None:
        """Return the process for a worker, which serves calls from now on.

        Args:
            name: of the worker.
            environment: variables that it has besides our own.

        Returns:
            The process; None: there is none, or it has ended, or has another environment.
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
    """Import modules, and wait until this process is taken over, or nobody needs it any more.

    Args:
        end: of the connection to the process that started this one.
        modules: what is imported; what is not installed is left out.
    """
    for module in modules:
        with suppress(ImportError):  # who needs it says so
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
    """Print to these from now on, and there what was printed so far."""
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
