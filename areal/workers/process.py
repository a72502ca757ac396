"""Workers in processes of their own, on this host.

Each is a new interpreter (:mod:`areal.workers.process_main`) with the environment that is given to it.
Nothing of our own process changes for that, so that several start side by side. Calls and answers cross a
socket pair. A worker dies with the process that started it.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import socket
import sys
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Generic, Protocol, TypeVar

from areal.errors import WorkerLost
from areal.workers.handle import CLOSED
from areal.workers.messages import Messages, packed, unpacked

W = TypeVar("W")

_DRAIN = 1.0
"""Seconds for the last answers of a process that has ended; a child of it may hold the socket open."""


async def launch(
    name: str, environment: Mapping[str, str], factory: Any, *args: Any, **kwargs: Any
) -> ProcessHandle[Any]:
    """Start a worker in a process of its own (see :class:`areal.workers.handle.Launch`)."""
    ours, theirs = socket.socketpair()
    process = LocalProcess(await spawn(name, {**os.environ, **environment}, theirs))
    handle = ProcessHandle[Any](name, process, await Messages.over(ours))
    await handle.make(factory, *args, **kwargs)
    return handle


async def spawn(name: str, environment: Mapping[str, str], end: socket.socket) -> asyncio.subprocess.Process:
    """Start the process of a worker on this host; it dies with the thread that does this.

    Args:
        name: of the worker.
        environment: all variables that it has.
        end: of the connection to its handle; from here on it is the worker's alone.
    """
    # Our modules are found where ours were; no script of the user's runs again, as it would with
    # multiprocessing: this __main__ is no file.
    code = (
        f"import sys; sys.path[:] = {[path for path in sys.path if isinstance(path, str)]!r}; "
        "from areal.workers.process_main import main; "
        f"main({end.fileno()}, {os.getpid()}, {name!r})"
    )
    with end:
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-c", code),
            stdin=asyncio.subprocess.DEVNULL,
            env=environment,
            pass_fds=[end.fileno()],
            start_new_session=True,
        )


class WorkerProcess(Protocol):
    """The process of a worker: its number, and its host, which is empty if it is this one."""

    pid: int
    host: str

    async def wait(self) -> str:
        """Return how it has ended, in a few words, once it has."""
        ...

    def kill(self) -> None:
        """End it at once."""
        ...


class LocalProcess:
    """A process on this host."""

    host = ""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.pid, self._process = process.pid, process

    async def wait(self) -> str:
        """Return how it has ended, in a few words, once it has."""
        code = await self._process.wait()
        return f"{signal.Signals(-code).name}, exit code {code}" if code < 0 else f"exit code {code}"

    def kill(self) -> None:
        """End it at once."""
        with suppress(ProcessLookupError):
            self._process.kill()


class ProcessHandle(Generic[W]):
    """A worker in a process of its own; see :class:`areal.workers.handle.Handle`.

    Attributes:
        pid: of its process, on its host.
    """

    def __init__(self, name: str, process: WorkerProcess, messages: Messages) -> None:
        self.name, self.host, self.pid = name, process.host, process.pid
        self.ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._process, self._messages = process, messages
        self._numbers = itertools.count()
        self._answers: dict[int, asyncio.Future[Any]] = {}
        self._closing = False
        self._listening = asyncio.create_task(self._listen(), name=f"answers of {name}")
        self._watching = asyncio.create_task(self._watch(), name=f"end of {name}")

    async def make(self, factory: Any, *args: Any, **kwargs: Any) -> None:
        """Make the worker: the first call. If it cannot be made, its process ends."""
        try:
            await self._answer_to(packed((factory, args, kwargs)))
        except BaseException:
            self.kill()
            await asyncio.wait([self.ended])  # to be cancelled here, too, leaves it
            raise

    async def call(self, method: Any, *args: Any, **kwargs: Any) -> Any:
        """Call a method of the worker and return its result."""
        return await self._answer_to(packed((method, args, kwargs)))

    async def _answer_to(self, content: bytes) -> Any:
        if self.ended.done():
            raise self._lost()
        number = next(self._numbers)
        answer = self._answers[number] = asyncio.get_running_loop().create_future()
        self._messages.send("call", number, content)
        try:
            return await answer
        finally:
            del self._answers[number]
            if answer.cancelled():
                self._messages.send("cancel", number)

    async def _listen(self) -> None:
        while (message := await self._messages.receive()) is not None:
            kind, number, body = message
            answer = self._answers.get(number)
            if answer is None or answer.done():  # nobody waits for it any more
                continue
            try:
                content = unpacked(body)
            except (ImportError, AttributeError) as unknown:  # a class that is not found here
                kind, content = "error", unknown
            if kind == "error":
                answer.set_exception(content)
            else:
                answer.set_result(content)

    async def _watch(self) -> None:
        reason = await self._process.wait()
        await asyncio.wait([self._listening], timeout=_DRAIN)
        self._listening.cancel()
        self._messages.close()
        self.ended.set_result(CLOSED if self._closing else reason)
        for answer in self._answers.values():
            if not answer.done():
                answer.set_exception(self._lost())

    def _lost(self) -> WorkerLost:
        return WorkerLost(f"{self.name} ended: {self.ended.result()}")

    def kill(self) -> None:
        """End the process at once."""
        self._process.kill()

    async def close(self, grace: float = 5.0) -> None:
        """End the process, in order if that takes no longer than ``grace`` seconds."""
        if not self.ended.done():
            self._closing = True
            self._messages.send("end", 0)
        try:
            await asyncio.wait([self.ended], timeout=grace)
        finally:
            self.kill()
        await self._watching
