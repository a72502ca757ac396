"""A small machine on which commands run one after the other, and files persist between them.

A sandbox (interface.py) returns values of Python code. A machine is for tasks with a shell, and returns the
output and the exit codes of commands. The code that ran on it may have changed anything on it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True, slots=True)
class MachineLimits:
    """Limits of a machine.

    Attributes:
        memory_mb: memory in MiB; for a local machine, address space of each process.
        storage_mb: size of the files that it writes, in MiB.
        processes: maximum number of concurrent processes.
        cpus: number of processors; a local machine has those of its host.
        network: whether it has access to the network.
    """

    memory_mb: int = 2048
    storage_mb: int = 512
    processes: int = 256
    cpus: float = 1.0
    network: bool = False


@dataclass(frozen=True, slots=True)
class Ran:
    """The result of a command.

    Attributes:
        code: its exit code; the negative number of a signal that ended it.
        output: its standard output and standard error; only the beginning, if it is too long.
        late: whether it was ended because it took too long.
        seconds: its duration.
    """

    code: int
    output: str
    late: bool = False
    seconds: float = 0.0


class MachineFull(Exception):
    """A file cannot be written, because code on the machine has left no room, or has blocked the path."""


class Machine(Protocol):
    """A running machine; its calls block, and are made one at a time.

    All calls raise SandboxUnavailable if the machine has failed.
    """

    def run(
        self,
        command: str,
        seconds: float,
        folder: str | None = None,
        variables: Mapping[str, str] | None = None,
    ) -> Ran:
        """Run a command with bash; a command that is too long to be started ends with code 126.

        Args:
            command: the command for bash.
            seconds: time limit, after which the command and its children are killed.
            folder: its current folder; None: that of the image.
            variables: its environment variables.
        """
        ...

    def put(self, source: Path, target: str) -> None:
        """Copy a file, or the content of a folder, to a path of the machine; raises MachineFull."""
        ...

    def read(self, path: str) -> str | None:
        """Return the beginning of a file; None: it does not exist."""
        ...

    def settle(self, *folders: str) -> None:
        """Kill all processes, and recreate folders as empty ones; raises MachineFull."""
        ...

    def close(self) -> None:
        """End the machine with everything on it; a second call does nothing."""
        ...


def as_argument(command: str) -> str:
    """Return a command that can be a process argument; JSON allows zero bytes and lone surrogates."""
    return command.replace("\0", "").encode("utf-8", "replace").decode("utf-8")


LONGEST = 1 << 20
"""Maximum bytes of an output or a file that are read."""
