"""A small machine on which commands run one after the other, and files stay from one to the next.

A sandbox (interface.py) gives values of Python code. A machine is for tasks that are worked on with a shell:
it gives what commands wrote and how they ended. What is on it may be the doing of the code that ran there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True, slots=True)
class MachineLimits:
    """What a machine may use.

    Attributes:
        memory_mb: in MiB; on the local one, address space of each process.
        storage_mb: of the files that it writes, in MiB.
        processes: at once.
        cpus: processors; the local machine has those of its host.
        network: whether it reaches the network.
    """

    memory_mb: int = 2048
    storage_mb: int = 512
    processes: int = 256
    cpus: float = 1.0
    network: bool = False


@dataclass(frozen=True, slots=True)
class Ran:
    """How a command went.

    Attributes:
        code: its exit code; minus a signal's number if one ended it.
        output: what it wrote to standard output and standard error; the beginning, if it is too long.
        late: whether it was ended since it took too long.
        seconds: it took.
    """

    code: int
    output: str
    late: bool = False
    seconds: float = 0.0


class MachineFull(Exception):
    """A file cannot be written: what ran there has left no room, or something else in its place."""


class Machine(Protocol):
    """A machine that runs; its calls block, and are made one at a time.

    All raise SandboxUnavailable where the machine has failed.
    """

    def run(
        self,
        command: str,
        seconds: float,
        folder: str | None = None,
        variables: Mapping[str, str] | None = None,
    ) -> Ran:
        """Run a command by bash; one that cannot be started, as it is too long, ends with 126.

        Args:
            command: what bash is given.
            seconds: after which the command and its children are killed.
            folder: where it runs; None: where the image says.
            variables: of its environment.
        """
        ...

    def put(self, source: Path, target: str) -> None:
        """Copy a file, or what a folder holds into a folder of the machine; raises MachineFull."""
        ...

    def read(self, path: str) -> str | None:
        """Return the beginning of a file; None: there is none."""
        ...

    def settle(self, *folders: str) -> None:
        """Kill all that runs there, and make folders anew, empty; raises MachineFull."""
        ...

    def close(self) -> None:
        """End the machine and all that is on it; a second call does nothing."""
        ...


def as_argument(command: str) -> str:
    """Return a command as a process can be given it: JSON can have zero bytes and halves of characters."""
    return command.replace("\0", "").encode("utf-8", "replace").decode("utf-8")


LONGEST = 1 << 20
"""Bytes that are taken of an output or a file."""
