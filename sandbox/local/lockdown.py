"""What the process of one run gives up before it sees the code: in order, and for good."""

from __future__ import annotations

import math
import os
import resource
import struct
import sys
from typing import NamedTuple

from areal.lifetime import kill_with_parent

from ..guest import PLACES
from . import landlock, libc, namespaces, seccomp

_RATIONED = (
    resource.RLIMIT_CPU,
    resource.RLIMIT_AS,
    resource.RLIMIT_NPROC,
    resource.RLIMIT_NOFILE,
    resource.RLIMIT_FSIZE,
)
_LIMIT = libc.buffer(bytes(16))


class Host(NamedTuple):
    """What the zygote knows and its runs need.

    Attributes:
        namespaces: whether the zygote has namespaces of its own, and a run gets some as well.
        landlock: the version of Landlock that is used, 0 where there is none.
        rules: a descriptor of Landlock's rules; ``None`` where there is no Landlock.
        proc: a descriptor of /proc, for the maps of a run's user namespace.
        base_bytes: address space of the zygote.
        filter: closes the filter of system calls that the zygote has; ``None`` if that has none, because each
            run's must name its own process.
        ceilings: the zygote's own limits, which no run can exceed.
    """

    namespaces: bool
    landlock: int
    rules: int | None
    proc: int
    base_bytes: int
    filter: seccomp.Filter | None
    ceilings: dict[int, int]


class Rations(NamedTuple):
    """The limits that the kernel enforces, as they travel to the zygote; units as in SandboxLimits."""

    cpu_s: float
    memory_mb: int
    threads: int
    files: int
    scratch_mb: int


def confine(host: Host, rations: Rations) -> None:
    """Lock this process down.

    Raises:
        OSError: a step failed; the process must end without having run the code.
    """
    # Or a signal to its process group would reach the zygote: a namespace of processes does not prevent that.
    # (A session of its own would cost a group of the scheduler.)
    os.setpgid(0, 0)
    if host.namespaces:
        # Of its own users, because the kernel counts threads by user and namespace.
        libc.unshare(libc.CLONE_NEWUSER | libc.CLONE_NEWNS)
        namespaces.write_maps(host.proc, "self", namespaces.INNER_ID, namespaces.INNER_ID)
        namespaces.mount_scratch(rations.scratch_mb)
    else:
        # Without a process namespace that ends with the zygote.
        kill_with_parent()
        os.chdir("/")
    _ration(host, rations)
    if host.rules is not None:
        landlock.impose(host.rules)
    close_from(PLACES)
    libc.drop_capabilities()
    host.filter.install() if host.filter else seccomp.Filter(seccomp.program(own_pid=os.getpid())).install()


def close_from(first: int) -> None:
    """Close every descriptor from ``first`` on."""
    libc.syscall("close_range", first, 0x7FFFFFFF, 0, step="close_range")


def close_from_but(first: int, kept: int) -> None:
    """Close every descriptor from ``first`` on but one."""
    for low, high in ((first, kept - 1), (kept + 1, 0x7FFFFFFF)):
        if low <= high:
            libc.syscall("close_range", low, high, 0, step="close_range")


def _ration(host: Host, rations: Rations) -> None:
    wanted = (
        math.ceil(rations.cpu_s),
        host.base_bytes + (rations.memory_mb << 20),
        rations.threads,
        rations.files,
        rations.scratch_mb << 20,
    )
    for name, value in zip(_RATIONED, wanted, strict=True):
        if value < 0:
            raise OSError(f"a limit of {value}")
        _limit(name, min(value, host.ceilings[name]), host.ceilings[name])


def _limit(name: int, value: int, ceiling: int = sys.maxsize) -> None:
    """Set a limit of this process, or of none if the value is negative."""
    # At the soft limit of processor time comes SIGXCPU, which says why; SIGKILL, at the hard one, does not.
    hard = min(value + 1, ceiling) if name == resource.RLIMIT_CPU else value
    _LIMIT.raw = struct.pack("=qq", value, hard)
    # Not by resource.setrlimit: what a run has used already costs it less than what it has not.
    libc.syscall("prlimit64", 0, name, _LIMIT if value >= 0 else None, None, step="limit")


def rehearse() -> None:
    """Go through some steps of ``confine`` without effect (zygote.py says why)."""
    for name in _RATIONED:
        _limit(name, -1)
    close_from(0x7FFFFFF0)


def ration_zygote() -> dict[int, int]:
    """Set the limits that all runs have alike, which they inherit; return the ceilings of the others."""
    for name, value in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_MEMLOCK, 0),
        (resource.RLIMIT_MSGQUEUE, 0),
        (resource.RLIMIT_SIGPENDING, 256),
    ):
        _, hard = resource.getrlimit(name)
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(name, (value, value))
    limits = {name: resource.getrlimit(name)[1] for name in _RATIONED}
    return {name: sys.maxsize if hard == resource.RLIM_INFINITY else hard for name, hard in limits.items()}
