"""What the process of one run gives up before it sees the code: in order, and for good."""

from __future__ import annotations

import math
import os
import resource
import signal
import sys
from typing import NamedTuple

from . import landlock, libc, namespaces, seccomp, syscalls

# Where the ends of the pipes lie in the process of a run.
STDIN, STDOUT, STDERR, INCOMING, OUTGOING = range(5)
PLACES = 5


class Host(NamedTuple):
    """What the zygote knows and its runs need.

    Attributes:
        namespaces: whether the zygote has namespaces of its own, and a run gets some as well.
        rules: a descriptor of Landlock's rules; ``None`` where there is no Landlock.
        proc: a descriptor of /proc, for the maps of a run's user namespace.
        base_bytes: address space of the zygote.
        filter: the filter of system calls; ``None`` if it must name the process, and is made by each run.
    """

    namespaces: bool
    rules: int | None
    proc: int
    base_bytes: int
    filter: seccomp.Filter | None


class Rations(NamedTuple):
    """The limits that the kernel enforces, as they travel to the zygote; units as in Limits."""

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
    if host.namespaces:
        # Of its own users, because the kernel counts threads by user and namespace.
        libc.unshare(libc.CLONE_NEWUSER | libc.CLONE_NEWNS)
        namespaces.write_maps(host.proc, "self", namespaces.INNER_ID, namespaces.INNER_ID)
        namespaces.mount_scratch(rations.scratch_mb)
    else:
        os.chdir("/")
    _ration(host, rations)
    libc.prctl(libc.PR_SET_PDEATHSIG, signal.SIGKILL)
    libc.prctl(libc.PR_SET_NO_NEW_PRIVS, 1)
    if host.rules is not None:
        landlock.impose(host.rules)
    close_from(PLACES)
    libc.drop_capabilities()
    filter_ = host.filter or seccomp.Filter(seccomp.program(own_pid=os.getpid()))
    filter_.install()


def close_from(first: int) -> None:
    """Close every descriptor from ``first`` on."""
    libc.syscall(syscalls.required("close_range"), first, 0x7FFFFFFF, 0, step="close_range")


def open_streams() -> None:
    """Make the interpreter's standard streams anew."""
    sys.stdin = os.fdopen(STDIN, encoding="utf-8", errors="replace")
    sys.stdout = os.fdopen(STDOUT, "w", encoding="utf-8", errors="replace")
    sys.stderr = os.fdopen(STDERR, "w", encoding="utf-8", errors="replace")
    sys.__stdin__, sys.__stdout__, sys.__stderr__ = sys.stdin, sys.stdout, sys.stderr  # type: ignore[misc]


def _ration(host: Host, rations: Rations) -> None:
    seconds = math.ceil(rations.cpu_s)
    scratch = rations.scratch_mb << 20
    for name, value in (
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_AS, host.base_bytes + (rations.memory_mb << 20)),
        (resource.RLIMIT_NPROC, rations.threads),
        (resource.RLIMIT_NOFILE, rations.files),
        (resource.RLIMIT_FSIZE, scratch),
    ):
        _limit(name, value)


def ration_zygote() -> None:
    """Set the limits that all runs have alike; they inherit them."""
    for name in (resource.RLIMIT_CORE, resource.RLIMIT_MEMLOCK, resource.RLIMIT_MSGQUEUE):
        _limit(name, 0)
    _limit(resource.RLIMIT_SIGPENDING, 256)


def _limit(name: int, value: int) -> None:
    """Set a limit, or leave a lower one that cannot be raised."""
    _, most = resource.getrlimit(name)
    value = value if most == resource.RLIM_INFINITY else min(value, most)
    resource.setrlimit(name, (value, value))
