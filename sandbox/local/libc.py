"""System calls without a Python wrapper; each raises OSError with the step that failed."""

from __future__ import annotations

import ctypes
import os
import struct

from . import syscalls

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long

CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

MS_RDONLY = 1
MS_NOSUID = 2
MS_NODEV = 4
MS_NOEXEC = 8
MS_REMOUNT = 32
MS_BIND = 4096
MS_REC = 16384
MS_PRIVATE = 1 << 18
MNT_DETACH = 2

PR_SET_DUMPABLE = 4
PR_SET_NO_NEW_PRIVS = 38
PR_SET_THP_DISABLE = 41

_CAPABILITY_VERSION_3 = 0x20080522


def _checked(result: int, step: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{step}: {os.strerror(number)}")
    return result


def syscall(name: str, *args: int | ctypes.Array[ctypes.c_char] | None, step: str) -> int:
    """Make a system call that both architectures have; integers are 64 bits, and buffers addresses."""
    words = [ctypes.c_long(arg) if isinstance(arg, int) else arg for arg in args]
    return _checked(_libc.syscall(ctypes.c_long(syscalls.required(name)), *words), step)


def buffer(data: bytes) -> ctypes.Array[ctypes.c_char]:
    """Return bytes as memory that a system call can read."""
    return ctypes.create_string_buffer(data, len(data))


def trim_heap() -> None:
    """Return unused memory to the kernel, if the C library supports it."""
    if hasattr(_libc, "malloc_trim"):
        _libc.malloc_trim(0)


def unshare(flags: int) -> None:
    """Leave the namespaces that ``flags`` name."""
    _checked(_libc.unshare(flags), "unshare")


def setns(descriptor: int, flags: int) -> None:
    """Enter a namespace."""
    _checked(_libc.setns(descriptor, flags), "setns")


def mount(source: str, target: str, kind: str, flags: int, options: str = "") -> None:
    """Mount a file system, or change a mount."""
    result = _libc.mount(
        *(os.fsencode(source), os.fsencode(target), kind.encode()),
        *(ctypes.c_ulong(flags), options.encode() or None),
    )
    _checked(result, f"mount {target}")


def unmount(target: str) -> None:
    """Detach a mount, which disappears when nothing uses it any more."""
    _checked(_libc.umount2(target.encode(), MNT_DETACH), f"umount {target}")


def prctl(option: int, value: int) -> None:
    """Set one attribute of this process."""
    syscall("prctl", option, value, 0, 0, 0, step="prctl")


# Created once, because creating them takes each run as long as the call.
_CAPABILITY_HEADER = buffer(struct.pack("=Ii", _CAPABILITY_VERSION_3, 0))
_NO_CAPABILITIES = buffer(bytes(24))


def drop_capabilities() -> None:
    """Drop every capability of this process."""
    syscall("capset", _CAPABILITY_HEADER, _NO_CAPABILITIES, step="capset")
