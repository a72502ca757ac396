"""The permanent restrictions of a run's process before it sees the code, in order."""

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
    """The zygote's data that its runs need.

    Attributes:
        namespaces: whether the zygote has its own namespaces, and runs get some as well.
        landlock: the version of Landlock in use, 0 if there is none.
        rules: a descriptor of Landlock's rules; ``None`` without Landlock.
        proc: a descriptor of /proc, for the maps of a run's user namespace.
        base_bytes: address space of the zygote.
        filter: closes the zygote's filter of system calls; ``None`` if the zygote has no filter, because each
            run's filter must name its own process.
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
    """The limits that the kernel enforces, as sent to the zygote; units as in SandboxLimits."""

    cpu_s: float
    memory_mb: int
    threads: int
    files: int
    scratch_mb: int


def confine(host: Host, rations: Rations) -> None:
    """Lock this process down.

    Raises:
        OSError: a step failed; the process must end without running the code.
    """
    # Otherwise a signal to its process group would reach the zygote, which a process namespace does not
    # prevent. (A session of its own would cost a group of the scheduler.)
    os.setpgid(0, 0)
    if host.namespaces:
        # With its own user, because the kernel counts threads by user and namespace.
        libc.unshare(libc.CLONE_NEWUSER | libc.CLONE_NEWNS)
        namespaces.write_maps(host.proc, "self", namespaces.INNER_ID, namespaces.INNER_ID)
        namespaces.mount_scratch(rations.scratch_mb)
    else:
        # Without a process namespace, which would end with the zygote.
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
    """Close every descriptor from ``first`` on except one."""
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
    """Set a limit of this process; a negative value changes nothing."""
    # The soft limit of CPU time sends SIGXCPU, which names the reason; SIGKILL at the hard limit does not.
    hard = min(value + 1, ceiling) if name == resource.RLIMIT_CPU else value
    _LIMIT.raw = struct.pack("=qq", value, hard)
    # Not resource.setrlimit, because code that the zygote has already run costs a run less.
    libc.syscall("prlimit64", 0, name, _LIMIT if value >= 0 else None, None, step="limit")


def rehearse() -> None:
    """Run some steps of ``confine`` without effect (zygote.py explains why)."""
    for name in _RATIONED:
        _limit(name, -1)
    close_from(0x7FFFFFF0)


def ration_zygote() -> dict[int, int]:
    """Set the limits that are equal for all runs, which inherit them; return the ceilings of the others."""
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
