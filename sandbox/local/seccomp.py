"""The system calls that code under test may make: a filter that is written here, instruction by instruction.

Allowed are calls that a Python program needs to compute, to use threads and to use its own small folder.
Others are refused with EPERM, so that a program that tries them (to fork, to open a socket) gets an
exception. Calls that no such program ever makes, and every call through a foreign table of numbers, kill the
process.
"""

from __future__ import annotations

import ctypes
import platform
import struct
from collections.abc import Iterable

from . import libc, syscalls

_ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_X32_BIT = 0x40000000

ALLOW = 0x7FFF0000
KILL = 0x80000000
_ERRNO = 0x00050000
REFUSE = _ERRNO | 1  # EPERM
ABSENT = _ERRNO | 38  # ENOSYS: the C library then uses the older call
IGNORE = _ERRNO  # success, without an effect

# Instructions of the classic Berkeley Packet Filter.
_LOAD = 0x20
_JUMP = 0x05
_JUMP_EQUAL = 0x15
_JUMP_AT_LEAST = 0x35
_JUMP_ANY_BIT = 0x45
_RETURN = 0x06

# Offsets in struct seccomp_data; both architectures are little-endian, so the low half of an argument comes
# first.
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16

# The flags with which the C libraries (glibc, musl) start a thread. With fewer, a thread would have its own
# table of descriptors, and each table could hold further pipes and sockets.
_THREADS = (0x003D0F00, 0x007D0F00)
_AF_UNIX = 1
_STREAMS = (0x1, 0x801, 0x80001, 0x80801)  # SOCK_STREAM, with SOCK_NONBLOCK, SOCK_CLOEXEC, both
_CLOSE_KINDS = (0, 4)  # CLOSE_RANGE_CLOEXEC; CLOSE_RANGE_UNSHARE gives a separate table of descriptors
# TCGETS, TIOCGWINSZ, FIONREAD, FIONBIO, FIONCLEX, FIOCLEX: calls of opening a file or a pipe.
_IOCTLS = (0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451)
_PRCTLS = (15, 16)  # PR_SET_NAME, PR_GET_NAME
# F_DUPFD, F_GETFD, F_SETFD, F_GETFL, F_SETFL, F_DUPFD_CLOEXEC, F_GETPIPE_SZ. Not F_SETPIPE_SZ, because the
# kernel's memory for pipes is shared by all of a user's processes. Nor locks, because their number is
# unlimited, and any process that can open the same file of the standard library sees them.
_FCNTLS = (0, 1, 2, 3, 4, 1030, 1032)
_MAP_SHARED, _MAP_ANONYMOUS, _MAP_HUGETLB = 0x1, 0x20, 0x40000
_RLIMIT_CPU = 0

_NEW_NAMESPACES = 0x7E020080  # CLONE_NEWUSER, NEWNS, NEWPID, NEWNET, NEWIPC, NEWUTS, NEWCGROUP, NEWTIME
_FAMILIES = (1, 2, 10, 16)  # AF_UNIX, AF_INET, AF_INET6, AF_NETLINK

_SET_MODE_FILTER = 1

Instruction = tuple[int, int, int, int]


def program(
    machine: str | None = None, own_pid: int | None = None, building: bool = False
) -> list[Instruction]:
    """Return the whole filter as (code, jump if true, jump if false, constant).

    Args:
        machine: ``"x86_64"`` or ``"aarch64"``; default: this machine.
        own_pid: without a process namespace, the only process that may be signaled.
        building: also allow the calls that start a run; ``closing`` then forbids them.
    """
    groups = (syscalls.FILES, syscalls.MEMORY, syscalls.THREADS, syscalls.IDENTITY, syscalls.WAITING)
    rules = {name: [_verdict(ALLOW)] for group in groups for name in group}
    rules |= {name: [_verdict(KILL)] for name in syscalls.ATTACKS}
    rules |= _by_arguments(own_pid)
    if building:
        rules |= {name: [_verdict(ALLOW)] for name in (*syscalls.STARTING, "prlimit64")}
    return _assemble(machine or platform.machine(), rules, REFUSE)


def closing(machine: str | None = None) -> list[Instruction]:
    """Return a short filter that turns the one for building into the whole one.

    The cost of installing a filter grows with its length. The zygote therefore installs the long one, which
    its runs inherit, and each run only installs this one.
    """
    decided = _by_arguments(None)
    others = {name: [_verdict(KILL if name in syscalls.ATTACKS else REFUSE)] for name in syscalls.STARTING}
    rules = {name: decided.get(name, body) for name, body in others.items()}
    rules["prlimit64"] = decided["prlimit64"]
    return _assemble(machine or platform.machine(), rules, ALLOW)


def shell_program(machine: str | None = None) -> list[Instruction]:
    """Return the filter of a machine (machine_init.py), in which any program may run.

    It refuses calls that no capability protects and that reach beyond the machine: new namespaces, other
    processes' memory, sockets to a hypervisor, and interfaces of the kernel that are rarely used and often
    attacked.
    """
    refuse = [_verdict(REFUSE)]
    rules = dict.fromkeys(syscalls.ATTACKS, refuse)
    rules["clone"] = [*_load_low(0), (_JUMP_ANY_BIT, 0, 1, _NEW_NAMESPACES), *refuse, _verdict(ALLOW)]
    # Its flags are in memory; the C library then uses the older call.
    rules["clone3"] = [_verdict(ABSENT)]
    rules["socket"] = _one_of(0, _FAMILIES)
    # Only for this process, because the first process must keep its limits.
    rules["prlimit64"] = _one_of(0, (0,))
    return _assemble(machine or platform.machine(), rules, ALLOW)


def _assemble(machine: str, rules: dict[str, list[Instruction]], default: int) -> list[Instruction]:
    """Return a filter that decides by name; ``default`` applies to all other calls."""
    start = [
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_JUMP_EQUAL, 1, 0, _ARCHITECTURES[machine]),
        _verdict(KILL),
        (_LOAD, 0, 0, _NUMBER),
    ]
    if machine == "x86_64":
        start += [(_JUMP_AT_LEAST, 0, 1, _X32_BIT), _verdict(KILL)]
    numbers = {name: syscalls.number(name, machine) for name in rules}
    decisions = {number: rules[name] for name, number in numbers.items() if number is not None}
    return start + _search(_ranges(decisions, [_verdict(default)]))


def _ranges(
    decisions: dict[int, list[Instruction]], default: list[Instruction]
) -> list[tuple[int, list[Instruction]]]:
    """Return the start of each range of numbers with the same decision."""
    found = [(0, decisions.get(0, default))]
    for number in range(1, max(decisions) + 2):
        body = decisions.get(number, default)
        if body != found[-1][1]:
            found.append((number, body))
    return found


def _search(ranges: list[tuple[int, list[Instruction]]]) -> list[Instruction]:
    """Return a binary search, because the kernel evaluates the filter for every number at installation."""
    if len(ranges) == 1:
        return ranges[0][1]
    middle = len(ranges) // 2
    below, above = _search(ranges[:middle]), _search(ranges[middle:])
    return [(_JUMP_AT_LEAST, 0, 1, ranges[middle][0]), (_JUMP, 0, 0, len(below)), *below, *above]


def _by_arguments(own_pid: int | None) -> dict[str, list[Instruction]]:
    """Return the decisions on calls that depend on arguments."""
    rules = {
        # A thread shares everything with its process; anything else is a fork.
        "clone": _one_of(0, _THREADS),
        # Its flags are in memory, which a filter cannot read.
        "clone3": [_verdict(ABSENT)],
        # Only a connected pair: a datagram can go to any named socket, and a message could carry descriptors.
        "socketpair": [*_load_low(0), (_JUMP_EQUAL, 1, 0, _AF_UNIX), _verdict(REFUSE), *_one_of(1, _STREAMS)],
        "sendto": _if_null(4),
        "ioctl": _one_of(1, _IOCTLS),
        "prctl": _one_of(0, _PRCTLS),
        # The kernel kills at the limit of CPU time, as the host does. If code could lower the limit, it could
        # make itself look like a run that the host has killed.
        "prlimit64": [
            *(*_load_low(0), (_JUMP_EQUAL, 1, 0, 0), _verdict(REFUSE)),
            *(*_load_low(1), (_JUMP_EQUAL, 1, 0, _RLIMIT_CPU), _verdict(ALLOW)),
            *_if_null(2, IGNORE),
        ],
        "fcntl": _one_of(1, _FCNTLS),
        "close_range": _one_of(2, _CLOSE_KINDS),
        "mmap": _MAPPING,
    }
    if own_pid is not None:
        rules |= {
            "kill": _one_of(0, (own_pid,)),
            "tgkill": _one_of(0, (own_pid,)),
            "tkill": [_verdict(REFUSE)],
        }
    return rules


def _one_of(argument: int, values: Iterable[int]) -> list[Instruction]:
    """Allow the call if the low half of an argument is one of ``values``.

    The kernel itself treats these arguments as 32-bit integers, so the high half has no effect.
    """
    body = _load_low(argument)
    for value in values:
        body += [(_JUMP_EQUAL, 0, 1, value), _verdict(ALLOW)]
    return [*body, _verdict(REFUSE)]


def _if_null(argument: int, otherwise: int = REFUSE) -> list[Instruction]:
    """Allow the call if an argument, a pointer, is null."""
    halves = (*_load_low(argument), (_JUMP_EQUAL, 1, 0, 0), _verdict(otherwise))
    above = ((_LOAD, 0, 0, _ARGUMENTS + 8 * argument + 4), *halves[1:])
    return [*halves, *above, _verdict(ALLOW)]


def _load_low(argument: int) -> list[Instruction]:
    return [(_LOAD, 0, 0, _ARGUMENTS + 8 * argument)]


def _verdict(value: int) -> Instruction:
    return (_RETURN, 0, 0, value)


_MAPPING = [
    *_load_low(3),
    (_JUMP_ANY_BIT, 3, 0, _MAP_HUGETLB),
    (_JUMP_ANY_BIT, 0, 1, _MAP_SHARED),
    (_JUMP_ANY_BIT, 1, 0, _MAP_ANONYMOUS),
    _verdict(ALLOW),
    _verdict(REFUSE),
]
"""Shared memory without a file keeps all its pages when all except one are unmapped, so no limit of the
address space covers it; huge pages belong to the machine."""


class Filter:
    """A filter from ``program`` or ``closing``, in the kernel's form."""

    def __init__(self, instructions: list[Instruction]) -> None:
        code = b"".join(struct.pack("<HBBI", *instruction) for instruction in instructions)
        self._code = ctypes.create_string_buffer(code, len(code))
        header = struct.pack("@HP", len(instructions), ctypes.addressof(self._code))
        self._header = ctypes.create_string_buffer(header, len(header))

    def install(self) -> None:
        """Apply the filter to this process permanently; requires no_new_privs."""
        libc.syscall("seccomp", _SET_MODE_FILTER, 0, self._header, step="seccomp filter")
