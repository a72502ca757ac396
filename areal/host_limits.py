"""The kernel's counters of limits of this host, as opposed to the limits of a program.

A killed process cannot tell who killed it. The kernel's counters can: they increase when the out-of-memory
killer kills a process in the control group of this process (or on the whole host, if there is no group), and
when the group's limit on processes and threads refuses one.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple


class HostCounts(NamedTuple):
    """The counters at one moment.

    Attributes:
        oom_kills: processes that the kernel's out-of-memory killer has killed.
        threads_refused: processes and threads that could not start because of a limit of a control group.
    """

    oom_kills: int
    threads_refused: int


class HostLimits:
    """Reads the counters of the control group of this process, in version 1 or 2 of control groups.

    Args:
        proc: where procfs is mounted.
        cgroups: where control groups are mounted.
    """

    def __init__(self, proc: Path = Path("/proc"), cgroups: Path = Path("/sys/fs/cgroup")) -> None:
        self._oom: list[Path] = []
        self._threads: list[Path] = []
        for line in _text(proc / "self/cgroup").splitlines():
            _, controllers, path = line.split(":", 2)
            for controller in controllers.split(","):
                if controller in ("", "memory", "pids"):
                    self._find(_root(cgroups, controller), path)
        self._oom = self._oom or [proc / "vmstat"]

    def _find(self, root: Path, path: str) -> None:
        own = root / path.strip("/")
        # In a container the path may be the host's, while the mount shows the container's own group alone.
        group = own if own.is_dir() else root
        for name in ("memory.events", "memory.oom_control"):
            if "oom_kill " in _text(group / name):
                self._oom.append(group / name)
        # The group whose limit was hit counts the refusal. It may be any group above this one.
        above = [group, *(parent for parent in group.parents if parent.is_relative_to(root))]
        self._threads += [parent / "pids.events" for parent in above if (parent / "pids.events").exists()]

    def read(self) -> HostCounts:
        """Return the counters; counters that this host does not have are 0."""
        oom_kills = sum(_value(file, "oom_kill") for file in self._oom)
        return HostCounts(oom_kills, sum(_value(file, "max") for file in self._threads))


def _root(cgroups: Path, controller: str) -> Path:
    """Return where the hierarchy of a controller is mounted; in version 2 the controller has no name."""
    if controller:
        return cgroups / controller
    unified = cgroups / "unified"
    return unified if unified.is_dir() else cgroups


def _text(file: Path) -> str:
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:  # this kernel has no such file, or does not let this process read it
        return ""
    try:
        return os.read(descriptor, 1 << 16).decode("ascii", "replace")
    finally:
        os.close(descriptor)


def _value(file: Path, name: str) -> int:
    """Return the number after a name, in lines of a name and a number."""
    for line in _text(file).splitlines():
        key, _, number = line.partition(" ")
        if key == name:
            return int(number)
    return 0
