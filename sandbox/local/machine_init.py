"""The first process of a local machine (machine.py): it runs commands, and receives and returns files.

It sees its own root: the host's ``/usr`` and parts of ``/etc``, read-only, and memory for everything else.
Programs, libraries and settings are on mounts, which nothing in the machine can write, move or remove;
otherwise a command could leave another bash, or ``/etc/ld.so.preload``, for the tests. The process has
namespaces of users, processes, mounts, network, IPC and names, no capability, and a filter of system calls.
It communicates with its host by messages, each a length and JSON. When the host is gone, so is the socket,
and everything ends.
"""

from __future__ import annotations

import base64
import contextlib
import errno
import fcntl
import json
import os
import resource
import select
import signal
import socket
import stat
import struct
import sys
import time
from collections.abc import Callable
from typing import Any, NoReturn

from areal.lifetime import kill_with_parent

from . import astray, libc, lockdown, namespaces, seccomp, zygote

CHUNK = 1 << 16
LENGTH = struct.Struct(">Q")
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_HOST, _EMPTY = "/host", "/empty"
_VISIBLE = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
"""Folders of programs and libraries; on most hosts all except the first are links into it."""
_SETTINGS = (
    *("/etc/ld.so.cache", "/etc/ld.so.conf", "/etc/ld.so.conf.d", "/etc/alternatives", "/etc/localtime"),
    *("/etc/ssl/certs", "/etc/ssl/openssl.cnf", "/etc/mime.types", "/etc/services", "/etc/protocols"),
)
_AS_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_DEVICES = ("/dev/null", "/dev/zero", "/dev/urandom", "/dev/random", "/dev/full")
_FOLDERS = ("/app", "/root", "/tmp", "/var/tmp", "/home", "/opt", "/workspace", "/data", "/dev/shm")
_OWN = {"/tests": 64, "/solution": 64, "/logs": 64}
"""Folders in which nothing else can create files, and their sizes in MiB."""
_NO_FILE = (errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.ELOOP, errno.ENXIO, errno.ENAMETOOLONG)
_ACCOUNTS = "root:x:{0}:{0}:root:/root:/bin/bash\nnobody:x:65534:65534:nobody:/:/bin/false\n"
_GROUPS = "root:x:{0}:\nnogroup:x:65534:\n"
_HOSTS = "127.0.0.1 localhost machine\n::1 localhost\n"


def main() -> NoReturn:
    """Run the machine; the only argument is the options as JSON (machine.py)."""
    options = json.loads(sys.argv[1])
    control = socket.socket(fileno=options["control"])
    os.environ.clear()
    try:
        _isolate(options)
    except OSError as error:
        _send(control, {"error": str(error)})
        os._exit(1)
    # From now on, commands control the places where this process found its modules.
    sys.meta_path.clear()
    kill_with_parent()
    first = os.fork()
    if first:
        control.close()
        os.waitpid(first, 0)
        os._exit(0)
    kill_with_parent()
    # The first process of a namespace ignores signals from inside, except those that it handles.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    _Machine(control, options).serve()


def _isolate(options: dict[str, Any]) -> None:
    """Enter namespaces and build the root; raises OSError."""
    proc = os.open("/proc", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    namespaces.write(proc, "self/oom_score_adj", "1000")
    outer = zygote.unused_uid(proc)
    if outer is None:
        namespaces.enter_user_namespace(proc, os.geteuid(), os.getegid(), namespaces.PRIVATE)
        _build_root(options["storage_mb"], namespaces.INNER_ID)
    else:
        # As for runs: root builds first, while it has permission.
        libc.unshare(namespaces.PRIVATE)
        _build_root(options["storage_mb"], outer)
        os.setgroups([])
        namespaces.enter_user_namespace(proc, outer, outer, 0)
        zygote.become(namespaces.INNER_ID)
    os.close(proc)


def _build_root(size_mb: int, owner: int) -> None:
    """Create the machine's files; everything that is not bound from the host is memory of the owner."""
    socket.sethostname("machine")
    _start_loopback()
    libc.mount("", "/", "", libc.MS_REC | libc.MS_PRIVATE)
    resolved = {path: os.path.realpath(path) for path in _VISIBLE if os.path.exists(path)}
    flags, mine = libc.MS_NOSUID | libc.MS_NODEV, f"uid={owner},gid={owner},mode=755"
    libc.mount("tmpfs", "/tmp", "tmpfs", flags, f"size={size_mb}m,nr_inodes=200k,{mine}")
    os.mkdir(f"/tmp{_HOST}")
    root, host = libc.buffer(b"/tmp\0"), libc.buffer(f"/tmp{_HOST}\0".encode())
    libc.syscall("pivot_root", root, host, step="pivot_root")
    os.chdir("/")
    os.mkdir(_EMPTY)
    for path in _VISIBLE:
        # A link could be replaced, and a missing path created; a folder with a mount on it cannot be changed.
        namespaces.bind(_HOST + resolved[path] if path in resolved else _EMPTY, path)
    os.rmdir(_EMPTY)
    for path in _SETTINGS:
        if os.path.islink(_HOST + path):
            os.makedirs(os.path.dirname(path), exist_ok=True)
            os.symlink(os.readlink(_HOST + path), path)
        elif os.path.exists(_HOST + path):
            namespaces.bind(_HOST + path, path)
    for path in _DEVICES:
        namespaces.make_target(_HOST + path, path)
        libc.mount(_HOST + path, path, "", libc.MS_BIND)
    inner = namespaces.INNER_ID
    texts = {"passwd": _ACCOUNTS.format(inner), "group": _GROUPS.format(inner), "hosts": _HOSTS}
    for name, text in texts.items():
        with open(f"/etc/{name}", "w") as file:
            file.write(text)
    for path in _FOLDERS:
        os.makedirs(path, exist_ok=True)
        os.chown(path, owner, owner)
    libc.mount("/dev/shm", "/dev/shm", "", libc.MS_BIND)
    for path in ("/etc", "/dev"):
        libc.mount(path, path, "", libc.MS_BIND | libc.MS_REC)
        namespaces.seal(path)
    for path, own_mb in _OWN.items():
        os.mkdir(path)
        libc.mount("tmpfs", path, "tmpfs", flags, f"size={own_mb}m,nr_inodes=20k,{mine}")
    astray.close(PATH, {*_VISIBLE, "/etc", "/dev", *_OWN})
    libc.unmount(_HOST)
    os.rmdir(_HOST)


def _start_loopback() -> None:
    """Start the only network, from the machine to itself."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        up_and_running = struct.pack("16sH14s", b"lo", 0x41, b"")
        fcntl.ioctl(any_socket, 0x8914, up_and_running)  # SIOCSIFFLAGS


class _Machine:
    """The first process; it has no other thread, and does one thing at a time."""

    def __init__(self, control: socket.socket, options: dict[str, Any]) -> None:
        self._control = control
        self._limits = {
            resource.RLIMIT_AS: options["memory_mb"] << 20,
            resource.RLIMIT_NPROC: options["processes"],
            resource.RLIMIT_NOFILE: 1024,
            resource.RLIMIT_CORE: 0,
        }
        self._known: dict[str, Callable[..., dict[str, Any]]] = {
            "run": self.run,
            "put": self.put,
            "read": self.read,
            "settle": self.settle,
        }

    def serve(self) -> NoReturn:
        """Process the messages."""
        self._control.set_inheritable(False)  # a command that inherited it could answer for this process
        lockdown.close_from_but(3, self._control.fileno())
        libc.drop_capabilities()
        libc.prctl(libc.PR_SET_DUMPABLE, 0)
        libc.prctl(libc.PR_SET_NO_NEW_PRIVS, 1)
        seccomp.Filter(seccomp.shell_program()).install()
        _send(self._control, {})
        while True:
            message = _receive(self._control)
            if message is None:
                os._exit(0)
            try:
                reply = self._known[message.pop("do")](**message)
            except OSError as error:
                reply = {"error": str(error)}
            _send(self._control, reply)

    def run(
        self, command: str, seconds: float, folder: str, variables: dict[str, str], longest: int
    ) -> dict[str, Any]:
        """Run a command with bash until it ends or exceeds its limit; then stop its remaining processes."""
        _signal_all(signal.SIGCONT)
        began = time.monotonic()
        read, write = os.pipe()
        try:
            child = os.fork()
        except OSError as error:  # the maximum number of processes exists here, stopped
            os.close(read)
            os.close(write)
            text = base64.b64encode(f"bash: fork: {error.strerror}\n".encode()).decode("ascii")
            return {"code": 126, "output": text, "late": False, "seconds": 0.0}
        if child == 0:
            self._become_command(command, folder, variables, write)
        os.close(write)
        process = os.pidfd_open(child)
        try:
            output, late = self._take(read, process, began + seconds, longest)
        finally:
            os.close(read)
        if late:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        os.close(process)
        self._reap()
        _signal_all(signal.SIGSTOP)
        return {
            "code": os.waitstatus_to_exitcode(status),
            "output": base64.b64encode(output).decode("ascii"),
            "late": late,
            "seconds": time.monotonic() - began,
        }

    def _become_command(self, command: str, folder: str, variables: dict[str, str], write: int) -> NoReturn:
        try:
            os.setsid()
            os.dup2(write, 1)
            os.dup2(write, 2)
            for number in (signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores these
                signal.signal(number, signal.SIG_DFL)
            os.chdir(folder)
            for name, value in self._limits.items():
                resource.setrlimit(name, (value, value))
            os.execve("/bin/bash", ["bash", "-c", command], variables)
        except OSError as error:
            os.write(2, f"bash: {error}\n".encode("utf-8", "replace"))
        finally:
            os._exit(126)

    def _take(self, read: int, process: int, deadline: float, longest: int) -> tuple[bytes, bool]:
        """Return the output of a command, and whether it exceeded its time limit."""
        os.set_blocking(read, False)
        output = bytearray()
        poll = select.poll()
        for descriptor in (read, process, self._control.fileno()):
            poll.register(descriptor, select.POLLIN if descriptor != self._control.fileno() else 0)
        while True:
            ready = {d for d, _ in poll.poll(max(0.0, deadline - time.monotonic()) * 1000)}
            if self._control.fileno() in ready:  # the host is gone
                os._exit(0)
            if not ready:
                return bytes(output), True
            if read in ready and not self._drain(read, output, longest):
                poll.unregister(read)
            if process in ready:
                self._drain(read, output, longest)
                return bytes(output), False
            if time.monotonic() > deadline:
                return bytes(output), True

    def _drain(self, read: int, output: bytearray, longest: int) -> bool:
        """Read the available output, and keep the beginning; return whether more may come."""
        for _ in range(16):
            try:
                data = os.read(read, CHUNK)
            except BlockingIOError:
                return True
            if not data:
                return False
            output += data[: max(0, longest - len(output))]
        return True

    def _reap(self) -> None:
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                continue

    def put(self, path: str, data: str, mode: int) -> dict[str, Any]:
        """Write a file."""
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(base64.b64decode(data))
        os.chmod(path, mode)
        return {}

    def read(self, path: str, longest: int) -> dict[str, Any]:
        """Return the beginning of a regular file."""
        try:
            # Opening a pipe would block.
            descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            if error.errno in _NO_FILE:
                return {"data": None}
            raise
        try:
            ordinary = stat.S_ISREG(os.fstat(descriptor).st_mode)
            data = os.pread(descriptor, longest, 0) if ordinary else None
        finally:
            os.close(descriptor)
        return {"data": None if data is None else base64.b64encode(data).decode("ascii")}

    def settle(self, folders: list[str]) -> dict[str, Any]:
        """Kill all other processes, and recreate folders as empty ones."""
        for _ in range(100):  # a process that is just being forked may be missed
            try:
                os.kill(-1, signal.SIGKILL)
            except ProcessLookupError:
                break
            self._reap()
            time.sleep(0.01)
        for folder in folders:
            if os.path.lexists(folder) and not stat.S_ISDIR(os.lstat(folder).st_mode):
                os.unlink(folder)
            os.makedirs(folder, exist_ok=True)
            os.chmod(folder, 0o755)
            _empty(folder)
        return {}


def _empty(folder: str) -> None:
    """Remove the content of a folder, however deep, long-named or unreadable it is.

    Its subfolders are moved up and emptied in turn, so that no path becomes long, and no descriptor is kept.
    """
    top = os.open(folder, _AS_FOLDER)
    try:
        while names := os.listdir(top):
            for name in names:
                if not stat.S_ISDIR(os.lstat(name, dir_fd=top).st_mode):
                    os.unlink(name, dir_fd=top)
                    continue
                os.chmod(name, 0o700, dir_fd=top)
                inner = os.open(name, _AS_FOLDER, dir_fd=top)
                try:
                    for below in os.listdir(inner):
                        if stat.S_ISDIR(os.lstat(below, dir_fd=inner).st_mode):
                            os.chmod(below, 0o700, dir_fd=inner)  # otherwise it could not be moved
                            os.rename(below, os.urandom(16).hex(), src_dir_fd=inner, dst_dir_fd=top)
                        else:
                            os.unlink(below, dir_fd=inner)
                finally:
                    os.close(inner)
                os.rmdir(name, dir_fd=top)
    finally:
        os.close(top)


def _signal_all(number: int) -> None:
    """Send a signal to all other processes of the machine."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(-1, number)


def _send(control: socket.socket, message: dict[str, Any]) -> None:
    text = json.dumps(message).encode("ascii")
    control.sendall(LENGTH.pack(len(text)) + text)


def _receive(control: socket.socket) -> dict[str, Any] | None:
    """Return the next message; None: the host is gone."""
    head = _exactly(control, LENGTH.size)
    if head is None:
        return None
    text = _exactly(control, LENGTH.unpack(head)[0])
    return None if text is None else dict(json.loads(text))


def _exactly(control: socket.socket, size: int) -> bytes | None:
    data = bytearray()
    while len(data) < size:
        piece = control.recv(min(CHUNK, size - len(data)))
        if not piece:
            return None
        data += piece
    return bytes(data)
