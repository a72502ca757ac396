"""A private view of the machine: its own users, processes and network, and a root with few files."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterable

from . import layout, libc

INNER_ID = 1000
"""The user and group number inside; outside it maps to a number that owns nothing."""

PRIVATE = libc.CLONE_NEWNS | libc.CLONE_NEWNET | libc.CLONE_NEWIPC | libc.CLONE_NEWUTS | libc.CLONE_NEWCGROUP
_HOST = "/host"
_SCRATCH_MOUNT = f"{layout.SCRATCH_PLACE}/tmp"
_PRIVATE_MOUNT = libc.MS_NOSUID | libc.MS_NODEV

_OCTAL = re.compile(rb"\\([0-7]{3})")
"""Escapes of spaces and similar characters in mountinfo."""
# The flags of a mount that statvfs reports, with those that keep them: an unprivileged remount may drop none.
_KEPT_FLAGS = {8: libc.MS_NOEXEC, 1024: 1024, 2048: 2048, 4096: 1 << 21}


def enter_user_namespace(proc: int, outer_uid: int, outer_gid: int, flags: int) -> None:
    """Enter new user and process namespaces, and those in ``flags``.

    This process keeps its process namespace; its next child is the first process of the new one.

    Args:
        proc: a descriptor of /proc.
        outer_uid: the user outside to whom INNER_ID maps.
        outer_gid: likewise the group.
        flags: additional namespaces, as CLONE_NEW… flags.

    Raises:
        OSError: the kernel refuses.
    """
    entered_read, entered_write = os.pipe()
    process = os.getpid()
    # Only a process outside may map a user other than its own, so a helper remains there for that.
    helper = os.fork()
    if helper == 0:
        code = 1
        with contextlib.suppress(OSError):
            os.close(entered_write)
            if os.read(entered_read, 1):
                # Otherwise a plain user may map no group; namespaces below this one inherit this.
                write(proc, f"{process}/setgroups", "deny")
                write_maps(proc, str(process), outer_uid, outer_gid)
                code = 0
        os._exit(code)
    try:
        os.close(entered_read)
        libc.unshare(libc.CLONE_NEWUSER | libc.CLONE_NEWPID | flags)
        os.write(entered_write, b"x")
    finally:
        os.close(entered_write)
        _, status = os.waitpid(helper, 0)
    if status != 0:
        raise OSError("cannot map the user namespace")


def write_maps(proc: int, process: str, outer_uid: int, outer_gid: int) -> None:
    """Map INNER_ID of a process's user namespace to a user and group of the outer namespace."""
    write(proc, f"{process}/uid_map", f"{INNER_ID} {outer_uid} 1")
    write(proc, f"{process}/gid_map", f"{INNER_ID} {outer_gid} 1")


def write(proc: int, path: str, text: str) -> None:
    """Write a file in /proc, of which ``proc`` is a descriptor."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC, dir_fd=proc)
    try:
        os.write(descriptor, text.encode())
    finally:
        os.close(descriptor)


def build_root(readable: Iterable[str], libraries: Iterable[str], packages: Iterable[str]) -> None:
    """Replace the root by a small read-only one; the mount namespace must be our own.

    Args:
        readable: folders and files that appear under their own names.
        libraries: those among them whose installed packages are hidden.
        packages: folders that appear in layout.PACKAGES.

    Raises:
        OSError: a mount failed.
    """
    libc.mount("", "/", "", libc.MS_REC | libc.MS_PRIVATE)
    links = layout.library_links()
    libc.mount("tmpfs", layout.SCRATCH, "tmpfs", _PRIVATE_MOUNT, "size=1m,mode=755")
    os.mkdir(layout.SCRATCH + _HOST)
    root, host = layout.SCRATCH.encode() + b"\0", (layout.SCRATCH + _HOST).encode() + b"\0"
    libc.syscall("pivot_root", libc.buffer(root), libc.buffer(host), step="pivot_root")
    os.chdir("/")
    for path in readable:
        bind(_HOST + path, path)
    for library in libraries:
        for folder in layout.site_folders(library):
            libc.mount("tmpfs", folder, "tmpfs", _PRIVATE_MOUNT | libc.MS_RDONLY, "size=4k,mode=555")
    for package in packages:
        bind(_HOST + package, f"{layout.PACKAGES}/{os.path.basename(package)}")
    for device in layout.DEVICES:
        make_target(_HOST + device, device)
        libc.mount(_HOST + device, device, "", libc.MS_BIND)
    for link, target in links.items():
        os.symlink(target, link)
    os.makedirs(_SCRATCH_MOUNT)
    os.symlink(_SCRATCH_MOUNT, layout.SCRATCH)
    libc.unmount(_HOST)
    os.rmdir(_HOST)
    libc.mount("", "/", "", libc.MS_REMOUNT | libc.MS_BIND | libc.MS_RDONLY | _PRIVATE_MOUNT)


def bind(source: str, target: str) -> None:
    """Bind a folder or a file of the host read-only, including all mounts below it.

    The host's files, including /proc, must still be at _HOST.
    """
    make_target(source, target)
    libc.mount(source, target, "", libc.MS_BIND | libc.MS_REC)
    with open(f"{_HOST}/proc/self/mountinfo", "rb") as file:
        places = [_OCTAL.sub(lambda found: bytes([int(found[1], 8)]), line.split()[4]) for line in file]
    within = f"{os.path.realpath(target)}/"
    for place in {target, *(place for place in map(os.fsdecode, places) if place.startswith(within))}:
        seal(place)


def seal(place: str) -> None:
    """Make one mount read-only."""
    had = os.statvfs(place).f_flag
    kept = sum(flag for bit, flag in _KEPT_FLAGS.items() if had & bit)
    libc.mount("", place, "", libc.MS_REMOUNT | libc.MS_BIND | libc.MS_RDONLY | _PRIVATE_MOUNT | kept)


def make_target(source: str, target: str) -> None:
    """Create the target of a mount."""
    if os.path.isdir(source):
        os.makedirs(target, exist_ok=True)
    else:
        os.makedirs(os.path.dirname(target), exist_ok=True)
        os.close(os.open(target, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o444))


def mount_scratch(size_mb: int) -> None:
    """Mount our own writable folder, limited in bytes and in files, and change to it."""
    options = f"size={size_mb}m,nr_inodes=4096,mode=700"
    libc.mount("tmpfs", _SCRATCH_MOUNT, "tmpfs", _PRIVATE_MOUNT | libc.MS_NOEXEC, options)
    os.chdir(_SCRATCH_MOUNT)
