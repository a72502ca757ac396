"""A locked-down Python that forks one process per run.

There are three processes in a chain. The host starts the *keeper*, which builds the private view of the
machine; it ends, and everything with it, when the host process ends. The *zygote*, its child, is the first
process of a process namespace; it has imported what most programs import, and waits. Each *run* is a fork of
it and the first process of its own namespace. When a run is killed, the kernel kills all processes that it
started, and it can only be waited for when they are gone.

The zygote never reads a job: it passes the ends of the pipes to the run, which reads the job after its
lockdown.
"""

from __future__ import annotations

import contextlib
import fcntl
import gc
import importlib
import io
import json
import os
import resource
import select
import signal
import socket
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple, NoReturn

from areal.lifetime import kill_with_parent
from areal.sandbox import frames, guest

from . import landlock, layout, libc, lockdown, namespaces, seccomp

# Imported once, so that few runs have to import them; a run could import them anyway. Modules are left out if
# they cost every fork more than they save the runs that need them: large libraries (hashlib, decimal), and
# those that act in each child of a fork (random, threading).
PRELOAD = (
    *("abc", "ast", "bisect", "collections.abc", "contextlib", "copy", "datetime", "enum", "functools"),
    *("heapq", "io", "itertools", "json", "math", "operator", "os", "re", "string", "struct", "sys", "time"),
    *("traceback", "types", "typing"),
)
_REHEARSALS = 20
"""Enough repetitions for the interpreter to specialize the bytecode (it does so at the eighth execution)."""
_READY = frames.pack("ready")
_ORDERS = {b"s": signal.SIGSTOP, b"c": signal.SIGCONT}
"""Operations on a run besides ending it."""
_BASE_UID = 0x70000000
"""If this process is root: the run's user outside, plus a process number. It owns nothing."""
_FALLBACK_UID, _FALLBACK_COUNT = 61184, 4096
"""The same in a container that only knows 16 bits of users."""

_ENVIRONMENT = {
    **{"HOME": layout.SCRATCH, "TMPDIR": layout.SCRATCH, "PATH": "/nonexistent", "LANG": "C.UTF-8"},
    # A preloaded NumPy must not start threads, because they would not survive the fork.
    **{"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"},
}


class _Run(NamedTuple):
    """A forked run: its process, a descriptor of it, and the socket to its waiter."""

    pid: int
    process: int
    control: int


def main() -> NoReturn:
    """Run the keeper; the only argument is the options as JSON (zygote_handle.py)."""
    options = json.loads(sys.argv[1])
    control = socket.socket(fileno=_move_up(options["control"]))
    host_process = _move_up(options["host"])
    # The places of a run's pipes are reserved from the start, so that no other descriptor gets them.
    null = os.open(os.devnull, os.O_RDWR)
    for place in (guest.STDIN, guest.STDOUT, guest.INCOMING, guest.OUTGOING):
        os.dup2(null, place)
    os.environ.clear()
    os.environ.update(_ENVIRONMENT)
    try:
        host = _isolate(options)
    except OSError as error:
        control.send(json.dumps({"error": error.strerror or str(error)}).encode())
        os._exit(1)
    # Not earlier, because a change of user ends it. A process that stopped this one has also stopped its
    # watch.
    kill_with_parent()
    keeper = os.pidfd_open(os.getpid())
    zygote = os.fork()
    if zygote == 0:
        os.close(host_process)
        _Zygote(control, keeper, host).serve([*PRELOAD, *options["preload"]])
    control.close()
    _keep(zygote, host_process)


def _keep(zygote: int, host_process: int) -> NoReturn:
    """Wait until the zygote or the host process ends; the other one then ends, too."""
    poll = select.poll()
    for descriptor in (host_process, os.pidfd_open(zygote)):
        poll.register(descriptor, select.POLLIN)
    poll.poll()
    with contextlib.suppress(ProcessLookupError):
        os.kill(zygote, signal.SIGKILL)
    # It can only be waited for when all its runs are gone.
    os.waitpid(zygote, 0)
    os._exit(0)


def _move_up(descriptor: int) -> int:
    """Move a descriptor away from the places of a run's pipes."""
    moved = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 16)
    os.close(descriptor)
    return moved


def _isolate(options: dict[str, Any]) -> lockdown.Host:
    """Build the private view of the machine; raises OSError if a step that the level requires fails."""
    proc = _move_up(os.open("/proc", os.O_PATH | os.O_DIRECTORY))
    # The kernel ends this process and its runs first when memory runs out.
    namespaces.write(proc, "self/oom_score_adj", "1000")
    libraries = layout.standard_library()
    readable = [*libraries, *layout.system_libraries()]
    packages = options["packages"]
    sys.path[:] = [path for path in sys.path if path.startswith(tuple(libraries))]
    private = options["level"] != "confined"
    if private:
        _enter_namespaces(proc, readable, libraries, packages)
        readable += [layout.PACKAGES] if packages else []
        sys.path += [layout.PACKAGES] if packages else []
    else:
        outer = unused_uid(proc)
        if outer is not None:
            become(outer)
        if not all(os.access(folder, os.R_OK | os.X_OK) for folder in libraries):
            raise OSError(f"only root can read the standard library in {libraries}")
        readable += packages
        sys.path += sorted({os.path.dirname(package) for package in packages})
    abi = landlock.version(options["landlock"])
    if not private and not abi:
        raise OSError("without namespaces, the sandbox requires Landlock, which this kernel does not have")
    writable = [layout.SCRATCH_PLACE] if private else []
    rules = landlock.ruleset(abi, readable, writable, layout.DEVICES) if abi else None
    filter_ = seccomp.Filter(seccomp.closing()) if private else None
    return lockdown.Host(private, abi, rules and _move_up(rules), proc, _address_space(proc), filter_, {})


def _enter_namespaces(proc: int, readable: list[str], libraries: list[str], packages: list[str]) -> None:
    outer = unused_uid(proc)
    if outer is None:
        namespaces.enter_user_namespace(proc, os.geteuid(), os.getegid(), namespaces.PRIVATE)
        socket.sethostname("sandbox")
        namespaces.build_root(readable, libraries, packages)
        return
    # Root builds first, while it may still enter folders that are closed to all others.
    libc.unshare(namespaces.PRIVATE)
    socket.sethostname("sandbox")
    namespaces.build_root(readable, libraries, packages)
    os.setgroups([])
    namespaces.enter_user_namespace(proc, outer, outer, 0)
    become(namespaces.INNER_ID)


def become(uid: int) -> None:
    """Change user and group permanently."""
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    # The change has made this process's files in /proc inaccessible to it; its runs must write their maps
    # there.
    libc.prctl(libc.PR_SET_DUMPABLE, 1)


def unused_uid(proc: int) -> int | None:
    """Return a user that owns nothing, for root to become; ``None`` for a plain user, who stays.

    The kernel does not limit the threads of the machine's root, even inside a namespace.

    Raises:
        OSError: this is the machine's root in a namespace without another user.
    """
    if os.geteuid() != 0:
        return None
    ranges = [tuple(map(int, line.split())) for line in _read(proc, "self/uid_map").splitlines()]
    for wanted in (_BASE_UID + os.getpid(), _FALLBACK_UID + os.getpid() % _FALLBACK_COUNT):
        if any(first <= wanted < first + count for first, _, count in ranges):
            return wanted
    if all(outer != 0 for first, outer, _ in ranges if first == 0):
        return None
    raise OSError("root in this namespace is root of the machine, and the namespace has no other user")


def _address_space(proc: int) -> int:
    """Return the bytes of address space of this process."""
    return int(_read(proc, "self/statm").split()[0]) * resource.getpagesize()


def _read(proc: int, path: str) -> str:
    with open(path, opener=lambda path, flags: os.open(path, flags, dir_fd=proc)) as file:
        return file.read()


class _Zygote:
    """The process that forks the runs; requests come to ``control``, each with the ends of a run's pipes."""

    def __init__(self, control: socket.socket, keeper: int, host: lockdown.Host) -> None:
        self._control = control
        self._keeper = keeper
        self._host = host
        self._runs: dict[int, _Run] = {}
        self._paused: set[int] = set()
        self._held_up: dict[int, dict[str, float]] = {}
        self._poll = select.poll()

    def serve(self, preload: Sequence[str]) -> NoReturn:
        """Fork runs until the host closes the control socket."""
        kill_with_parent()
        self._exit_if_alone()
        processes = _move_up(os.open("self/ns/pid", os.O_RDONLY, dir_fd=self._host.proc))
        for name in preload:
            importlib.import_module(name)
        ceilings = lockdown.ration_zygote()
        self._channel = _rehearse()
        self._host = self._host._replace(base_bytes=_address_space(self._host.proc), ceilings=ceilings)
        # A huge page remains until the last of its addresses is unmapped, which exceeds what the limit
        # counts.
        libc.prctl(libc.PR_SET_THP_DISABLE, 1)
        libc.prctl(libc.PR_SET_NO_NEW_PRIVS, 1)
        if self._host.namespaces:
            seccomp.Filter(seccomp.program(building=True)).install()
        gc.collect()
        libc.trim_heap()
        # Frozen objects are never visited again, so the runs do not copy their pages.
        gc.freeze()
        strong = "namespaces" if self._host.rules is None else "full"
        level = strong if self._host.namespaces else "confined"
        self._control.send(json.dumps({"level": level, "landlock": self._host.landlock}).encode())
        self._poll.register(self._control, select.POLLIN)
        while True:
            ready = {descriptor for descriptor, _ in self._poll.poll()}
            for descriptor in ready & self._runs.keys():
                # Ending one run removes its second descriptor as well.
                if descriptor in self._runs:
                    self._attend(descriptor)
            # Last, because a new run may get the number of a descriptor that has just been closed.
            if self._control.fileno() in ready:
                self._start(processes)

    def _exit_if_alone(self) -> None:
        """End if the keeper ended before its death could be signaled to this process."""
        poll = select.poll()
        poll.register(self._keeper, select.POLLIN)
        if poll.poll(0):
            os._exit(0)
        os.close(self._keeper)

    def _start(self, processes: int) -> None:
        """Fork the run that the next message requests."""
        message, descriptors, _, _ = socket.recv_fds(self._control, 4096, 8)
        if not message:
            os._exit(0)
        *pipes, own = descriptors
        rations = lockdown.Rations(**json.loads(message))
        try:
            pid = self._fork(processes, pipes, rations)
        except OSError as error:
            os.write(own, json.dumps({"error": str(error)}).encode())
            os.close(own)
            return
        finally:
            for descriptor in pipes:
                os.close(descriptor)
        run = _Run(pid, os.pidfd_open(pid), own)
        for descriptor in (run.process, own):
            self._runs[descriptor] = run
            self._poll.register(descriptor, select.POLLIN)

    def _fork(self, processes: int, pipes: list[int], rations: lockdown.Rations) -> int:
        if self._host.namespaces:
            libc.unshare(libc.CLONE_NEWPID)
        try:
            pid = os.fork()
            if pid == 0:
                _be_run(self._host, self._channel, pipes, rations)
            return pid
        finally:
            if self._host.namespaces:
                # Back to our own namespace, otherwise the next process namespace could not be created.
                libc.setns(processes, libc.CLONE_NEWPID)

    def _attend(self, descriptor: int) -> None:
        """Stop, continue or kill a run as its waiter requests; kill it if that is gone; report its end."""
        run = self._runs[descriptor]
        if descriptor != run.process:
            sign = _ORDERS.get(os.read(descriptor, 1), signal.SIGKILL)
            if sign == signal.SIGKILL:
                self._held_up[run.pid] = self._held(run)
                self._poll.unregister(descriptor)
            else:
                self._paused.add(run.pid)
            os.kill(run.pid, sign)
            return
        _, status, usage = os.wait4(run.pid, 0)
        report = {"status": status, "cpu_s": usage.ru_utime + usage.ru_stime}
        report |= self._held_up.pop(run.pid, {})
        self._paused.discard(run.pid)
        with contextlib.suppress(OSError):
            os.write(run.control, json.dumps(report).encode())
        for descriptor in (run.process, run.control):
            del self._runs[descriptor]
            with contextlib.suppress(KeyError):
                self._poll.unregister(descriptor)
            os.close(descriptor)

    def _held(self, run: _Run) -> dict[str, float]:
        """Return what delayed a run: a stop by others, and seconds of waiting for a processor."""
        found = {"stopped": 0.0, "delayed_s": 0.0}
        with contextlib.suppress(OSError):
            # Also a run that has been continued since. Runs that we paused ourselves are not checked.
            moments = os.WSTOPPED | os.WCONTINUED | os.WNOHANG
            if run.pid not in self._paused:
                found["stopped"] = float(os.waitid(os.P_PID, run.pid, moments) is not None)
            # Its number in the host's procfs.
            info = _read(self._host.proc, f"self/fdinfo/{run.process}").splitlines()
            [number] = [line.split()[1] for line in info if line.startswith("Pid:")]
            # A run with threads or children may have waited for these.
            alone = "\nThreads:\t1\n" in _read(self._host.proc, f"{number}/status")
            if alone and not _read(self._host.proc, f"{number}/task/{number}/children"):
                waited_ns = _read(self._host.proc, f"{number}/schedstat").split()[1]
                found["delayed_s"] = int(waited_ns) / 1e9
        return found


def _rehearse() -> guest.Channel:
    """Do what most runs do, so that the caches and counters that it changes do not change in each run.

    A page that a run changes must be copied for it, and this is most of the cost of a run.

    Returns:
        The channel of every run: like the standard streams, it has been opened on a pipe, and a run finds its
        own pipes in the same places.
    """
    incoming, outgoing = os.pipe()
    for place in range(guest.PLACES):
        os.dup2(incoming if place in (guest.STDIN, guest.INCOMING) else outgoing, place)
    guest.prepare()
    channel = guest.Channel(os.fdopen(guest.INCOMING, "rb"), guest.OUTGOING)
    null = os.open(os.devnull, os.O_RDWR)
    for _ in range(_REHEARSALS):
        lockdown.rehearse()
        script = (
            frames.pack("calls", ["def f(x): return x", "", ""], False),
            frames.pack("call", ["f", ""], (0,), {}),
            frames.pack("call", ["missing", ""], (), {}),
        )
        with contextlib.suppress(EOFError):
            guest.converse(guest.Channel(io.BytesIO(b"".join(script)), null))
    del sys.modules["solution"]
    for descriptor in (incoming, outgoing):
        os.close(descriptor)
    for place in range(guest.PLACES):
        os.dup2(null, place)
    os.close(null)
    return channel


def _be_run(
    host: lockdown.Host, channel: guest.Channel, pipes: list[int], rations: lockdown.Rations
) -> NoReturn:
    """Lock down, report it, and hand over to the guest."""
    try:
        for place, descriptor in enumerate(pipes):
            os.dup2(descriptor, place)
        try:
            lockdown.confine(host, rations)
        except (OSError, ValueError) as error:
            channel.send("unlocked", str(error))
            os._exit(1)
        os.write(guest.OUTGOING, _READY)
        guest.serve(channel)
    finally:
        # Nothing may return to the zygote's loop.
        os._exit(1)
