"""Landlock: restricts which files can be opened, regardless of mounts, and forbids the network."""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Iterable

from . import libc

_VERSION_FLAG = 1
_RULE_PATH_BENEATH = 1

# The file rights of each version of the interface, as one mask.
_RIGHTS = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 4: (1 << 15) - 1, 5: (1 << 16) - 1}
_READ = 1 << 2 | 1 << 3  # read a file, list a folder
_EXECUTE = 1 << 0
_FILE_RIGHTS = 1 << 1 | 1 << 2  # write, read: the rights of a rule on a device
_REFER = 1 << 13
_SPECIAL = 1 << 6 | 1 << 9 | 1 << 10 | 1 << 11  # make devices, sockets, pipes
_IOCTL = 1 << 15
_NETWORK = 3  # bind and connect TCP, since version 4
_SCOPES = 3  # abstract sockets and signals stay inside, since version 6


def version(max_version: int | None = None) -> int:
    """Return the version of the kernel's interface, 0 if there is none.

    The list in /sys/kernel/security may be absent although the calls work, so only a call can tell.

    Args:
        max_version: maximum version, to simulate an older kernel.
    """
    try:
        found = libc.syscall("landlock_create_ruleset", None, 0, _VERSION_FLAG, step="landlock")
        return found if max_version is None else min(found, max_version)
    except OSError as error:
        if error.errno in (errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM):
            return 0
        raise


def ruleset(abi: int, readable: Iterable[str], writable: Iterable[str], devices: Iterable[str]) -> int:
    """Return a descriptor of a rule set, which can be imposed any number of times.

    Args:
        abi: the result of ``version``, at least 1.
        readable: folders and files that can be read.
        writable: folders in which regular files and folders can be created, including mounts below them.
        devices: device files that can be read and written.
    """
    handled = _RIGHTS[min(abi, 5)]
    attributes = struct.pack("<QQQ", handled, _NETWORK, _SCOPES)
    size = 8 if abi < 4 else 16 if abi < 6 else 24
    given = libc.buffer(attributes)
    descriptor = libc.syscall("landlock_create_ruleset", given, size, 0, step="landlock ruleset")
    for path in readable:
        _allow(descriptor, path, _READ if os.path.isdir(path) else 1 << 2)
    for path in writable:
        _allow(descriptor, path, handled & ~(_EXECUTE | _SPECIAL | _REFER | _IOCTL))
    for path in devices:
        _allow(descriptor, path, _FILE_RIGHTS)
    return descriptor


def impose(ruleset: int) -> None:
    """Confine this process permanently; requires no_new_privs."""
    libc.syscall("landlock_restrict_self", ruleset, 0, step="landlock restrict")


def _allow(ruleset: int, path: str, rights: int) -> None:
    descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        rule, step = libc.buffer(struct.pack("<Qi", rights, descriptor)), f"landlock rule for {path}"
        libc.syscall("landlock_add_rule", ruleset, _RULE_PATH_BENEATH, rule, 0, step=step)
    finally:
        os.close(descriptor)
