"""Workers in separate processes, on this host.

Each is a new interpreter (:mod:`areal.workers.process_main`) with its own environment. Our own process does
not change for it, so several can start concurrently. Calls and answers use a socket pair. A worker dies with
the process that started it.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import weakref
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Generic, Protocol, TypeVar

from areal.errors import WorkerFrozen, WorkerLost, how_ended
from areal.workers.answers import Caller
from areal.workers.early import EarlyProcess, EarlyProcesses
from areal.workers.guard import BEAT, Guard
from areal.workers.handle import CLOSED, Launch
from areal.workers.messages import Messages, unpacked
from areal.workers.vitals import Vitals, read_family, stacks_file, take_stacks

W = TypeVar("W")

_FIRST = "AREAL_WORKER"
_DRAIN = 1.0
"""Seconds for the last answers of a process that has ended; a child of it may keep the socket open."""
_END = 20.0
"""Seconds for a killed process to end; its host may be gone, or the disk that it waits for."""


async def launch(
    name: str, environment: Mapping[str, str], factory: Any, *args: Any, **kwargs: Any
) -> ProcessHandle[Any]:
    """Start a worker in a separate process (see :class:`areal.workers.handle.Launch`)."""
    return await _launch(Guard(), name, environment, factory, *args, **kwargs)


def launch_guarded(guard: Guard, early: EarlyProcesses | None = None) -> Launch:
    """Return a launcher of workers that a guard watches; each uses its early process if there is one."""
    return partial(_launch, guard, early=early)


def start_early(
    early: EarlyProcesses, name: str, environment: Mapping[str, str], modules: Sequence[str]
) -> None:
    """Start the process of a worker before the worker, if possible; it imports modules in the meantime.

    Args:
        early: receives the process.
        name: name of the worker.
        environment: its environment variables in addition to our own.
        modules: modules to import; those that are not installed are skipped.
    """
    ours, theirs = socket.socketpair()
    output = os.memfd_create("early output")  # the destination of the worker's output is not known yet
    stacks = stacks_file()
    try:
        with theirs:
            options = _options(name, {**os.environ, **environment}, theirs, stacks, modules)
            process = subprocess.Popen(**options, stdout=output, stderr=output)
    except OSError:  # no memory, or no more processes; the worker then starts without it
        ours.close()
        os.close(stacks)
        return
    finally:
        os.close(output)
    early.add(name, environment, EarlyProcess(process, ours, stacks))


async def _launch(
    guard: Guard,
    name: str,
    environment: Mapping[str, str],
    factory: Any,
    *args: Any,
    early: EarlyProcesses | None = None,
    **kwargs: Any,
) -> ProcessHandle[Any]:
    ready = None if early is None else early.take(name, environment)
    messages, process = await (_start(name, environment) if ready is None else _take_over(ready))
    handle = ProcessHandle[Any](name, process, messages, guard)
    await handle.make(factory, *args, **kwargs)
    return handle


async def _start(name: str, environment: Mapping[str, str]) -> tuple[Messages, LocalProcess]:
    ours, theirs = socket.socketpair()
    # First, because once a process exists, a cancellation must not come before its handle, which ends it.
    messages = await Messages.over(ours)
    try:
        return messages, await spawn(name, {**os.environ, **environment}, theirs)
    except BaseException:
        messages.close()
        raise


async def _take_over(ready: EarlyProcess) -> tuple[Messages, LocalProcess]:
    try:
        return await Messages.over(ready.end), LocalProcess(ready, ready.stacks)
    except BaseException:
        ready.close()
        raise


async def spawn(name: str, environment: Mapping[str, str], end: socket.socket) -> LocalProcess:
    """Start the process of a worker on this host; it dies with the thread that does this.

    Args:
        name: name of the worker.
        environment: all of its environment variables.
        end: end of the connection to its handle; from now on it belongs to the worker.
    """
    stacks = stacks_file()
    try:
        with end:
            options = _options(name, environment, end, stacks)
            arguments = options.pop("args")
            process = await asyncio.create_subprocess_exec(*arguments, **options)
    except BaseException:
        os.close(stacks)
        raise
    return LocalProcess(process, stacks)


def _options(
    name: str,
    environment: Mapping[str, str],
    end: socket.socket,
    stacks: int,
    modules: Sequence[str] = (),
) -> dict[str, Any]:
    """Return the arguments of :class:`subprocess.Popen` for the process of a worker."""
    # Modules are found in the same places as ours. The user's script does not run again, as it would with
    # multiprocessing, because this __main__ is not a file.
    code = (
        f"import sys; sys.path[:] = {[path for path in sys.path if isinstance(path, str)]!r}; "
        "from areal.workers.process_main import main; "
        f"main({end.fileno()}, {os.getpid()}, {name!r}, {stacks}, {tuple(modules)!r})"
    )
    return {
        "args": (sys.executable, "-P", "-c", code),
        "stdin": subprocess.DEVNULL,
        # If unchanged, the first variable marks the position of the process's name.
        "env": {_FIRST: ""} | dict(environment) | {_FIRST: name},
        "pass_fds": [end.fileno(), stacks],
        "start_new_session": True,
    }


class WorkerProcess(Protocol):
    """The process of a worker, with its number and its host, which is empty for this host."""

    pid: int
    host: str

    async def wait(self) -> str:
        """Wait for its end, and briefly return how it ended."""
        ...

    async def look(self) -> list[Vitals]:
        """Return the kernel's data on it and on its descendants; empty: there is none."""
        ...

    async def stacks(self, forced: bool) -> str:
        """Return the stacks of it and of its descendants; see :func:`areal.workers.vitals.take_stacks`."""
        ...

    def kill(self) -> None:
        """End the process at once."""
        ...


class LocalProcess:
    """A process on this host.

    Args:
        stacks: the file to which it writes its stacks.
    """

    host = ""

    def __init__(self, process: asyncio.subprocess.Process | EarlyProcess, stacks: int) -> None:
        self.pid, self._process, self._stacks = process.pid, process, stacks
        weakref.finalize(self, os.close, stacks)

    async def wait(self) -> str:
        """Wait for its end, and briefly return how it ended."""
        return how_ended(await self._process.wait())

    async def look(self) -> list[Vitals]:
        """Return the kernel's data on it and on its descendants; empty: there is none."""
        return read_family(self.pid)

    async def stacks(self, forced: bool) -> str:
        """Return the stacks of it and of its descendants; see :func:`areal.workers.vitals.take_stacks`."""
        return await take_stacks(self.pid, self._stacks, forced)

    def kill(self) -> None:
        """End the process at once."""
        # asyncio's own kill() may take the exit code from the thread that waits for it.
        if self._process.returncode is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)


class ProcessHandle(Generic[W]):
    """A worker in a separate process; see :class:`areal.workers.handle.Handle`.

    Args:
        guard: the guard that watches it.

    Attributes:
        pid: number of its process, on its host.
        pulse: its signs of life.
    """

    def __init__(self, name: str, process: WorkerProcess, messages: Messages, guard: Guard) -> None:
        self.name, self.host, self.pid = name, process.host, process.pid
        self.ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.pulse = guard.pulse()
        self._process, self._messages, self._guard = process, messages, guard
        self._calls = Caller(messages)
        self._closing = self._frozen = False
        self._listening = asyncio.create_task(self._listen(), name=f"answers of {name}")
        self._watching = asyncio.create_task(self._watch(), name=f"end of {name}")
        guard.workers.append(self)

    async def make(self, factory: Any, *args: Any, **kwargs: Any) -> None:
        """Create the worker with the first call. If it cannot be created, its process ends."""
        try:
            await self.call(factory, *args, **kwargs)
            self.pulse.starting = False
        except BaseException:
            self.kill()
            await asyncio.wait([self.ended])  # a cancellation here leaves the process
            raise

    async def call(self, method: Any, *args: Any, **kwargs: Any) -> Any:
        """Call a method of the worker and return its result."""
        if self.ended.done():
            raise self._lost()
        return await self._calls.call(method, *args, **kwargs)

    @property
    def owes(self) -> int:
        """Number of calls that it has not answered yet."""
        return self._calls.waiting

    async def _listen(self) -> None:
        while (message := await self._messages.receive()) is not None:
            kind, number, body = message
            if kind == "beat":
                self.pulse.hear(unpacked(body))
            else:
                self.pulse.hear()
                self._calls.take(kind, number, body)

    async def _watch(self) -> None:
        reason = await self._end()
        await asyncio.wait([self._listening], timeout=_DRAIN)
        self._listening.cancel()
        self._messages.close()
        self._guard.workers.remove(self)
        self.ended.set_result(CLOSED if self._closing else reason)
        self._calls.fail(self._lost)

    async def _end(self) -> str:
        """Wait for the end of the process, and end it if it is frozen; return the reason."""
        end = asyncio.ensure_future(self._process.wait())
        frozen = ""
        while not frozen and not (await asyncio.wait([end], timeout=BEAT))[0]:
            if not self._closing:
                frozen = await self.pulse.look(self._process)
        if not frozen:
            return end.result()
        self._frozen = True
        self._listening.cancel()  # it may run once more when its stacks are taken, but nobody waits for that
        report = asyncio.ensure_future(self._guard.report(self, frozen))
        await asyncio.wait([end, report], return_when=asyncio.FIRST_COMPLETED)
        self.kill()
        frozen += await report
        await asyncio.wait([end], timeout=_END)
        end.cancel()
        return frozen

    async def stacks(self, forced: bool) -> str:
        """Return the stacks of the process and its descendants, line by line; empty if there are none.

        Args:
            forced: whether a process that still runs may crash because of it.
        """
        try:
            return await asyncio.wait_for(self._process.stacks(forced), _END)
        except TimeoutError:
            return ""

    def _lost(self) -> WorkerLost:
        kind = WorkerFrozen if self._frozen else WorkerLost
        return kind(f"{self.name} ended: {self.ended.result()}")

    def kill(self) -> None:
        """End the process at once."""
        self._process.kill()

    async def close(self, grace: float = 5.0) -> None:
        """End the process; shut it down gracefully if that takes no longer than ``grace`` seconds."""
        if not self.ended.done():
            self._closing = True
            self._messages.send("end", 0)
        try:
            await asyncio.wait([self.ended], timeout=grace)
        finally:
            self.kill()
        await asyncio.wait([self._watching], timeout=_END)
