"""Persistent commands: processes that start once and run one episode after another.

For each episode, a process receives a line of JSON on its standard input::

    {"task": "…", "base_url": "http://127.0.0.1:…/v1", "api_key": "sk-areal-…"}

and, when it is done, writes one of these to its standard output::

    {"answer": "…"}    the action in the environment, whose reward counts
    {"reward": 0.5}    the reward; the environment makes no step
    {"error": "…"}     this episode has failed; the process continues

All other output belongs on standard error. If a process ends, hangs or writes anything else, its episode
fails. areal then kills the process with everything that it started, and starts a new one for the next
episode. When areal ends or is killed, the standard input ends.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import math
import os
import socket
import tempfile
from asyncio import FIRST_COMPLETED
from asyncio.subprocess import Process
from contextlib import ExitStack
from dataclasses import replace
from typing import IO

from areal.agents.commands import (
    LOOK,
    MAX_OUTPUT,
    ProgramFailed,
    ended,
    environment,
    flooded,
    kill_group,
    late,
)
from areal.agents.interface import Endpoint
from areal.host_limits import HostLimits

_NO_KEY = "each-task-has-a-key-of-its-own"
"""The key in the environment of the process, so that no program uses a real key of the user by accident."""
_MAX_SHOWN = 80
"""Number of characters of an invalid line that a message shows."""


class StayingCommands:
    """Up to ``count`` processes of a command; each is started when an episode finds no free one.

    Args:
        words: the words of the command line.
        host: counts the processes that the kernel kills.
    """

    def __init__(self, words: list[str], count: int, host: HostLimits) -> None:
        self._words = words
        self._host = host
        self._slots = asyncio.Semaphore(count)
        self._free: list[_Staying] = []

    async def run(self, task: str, at: Endpoint, time_limit: float) -> str | float:
        """Run one episode when a process is free; return its answer or reward.

        Raises:
            ProgramFailed: the process ended, hung for ``time_limit`` seconds (including its start), wrote an
                invalid line, or reported that the episode has failed.
        """
        async with self._slots:
            staying = await self._one(at)
            try:
                line = await staying.ask(task, at, time_limit)
                said = _read(line)
            except BaseException:
                await staying.end()
                raise
            self._free.append(staying)
        if "error" in said:
            raise ProgramFailed(f"the program failed: {said['error']}")
        return said["answer"] if "answer" in said else said["reward"]

    async def _one(self, at: Endpoint) -> _Staying:
        """Return a free process, or a new one."""
        while self._free:
            staying = self._free.pop()  # the one used last, so that no more are started than needed
            if staying.is_ready:
                return staying
            await staying.end()
        return await _Staying.start(self._words, at, self._host)

    async def close(self) -> None:
        """End all processes. No episode may be running."""
        while self._free:
            await self._free.pop().end()


class _Staying:
    """One process."""

    def __init__(
        self,
        process: Process,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        errors: IO[bytes],
        host: HostLimits,
    ) -> None:
        self._process = process
        self._reader = reader
        self._writer = writer
        self._errors = errors
        self._host = host
        # Kill its children while the id of its process group cannot have been reused.
        self._ending = asyncio.ensure_future(process.wait())
        self._ending.add_done_callback(lambda _: kill_group(process.pid))
        # Read at all times, to notice a process that ends or writes without a task before it gets one.
        self._line = asyncio.ensure_future(reader.readline())

    @classmethod
    async def start(cls, words: list[str], at: Endpoint, host: HostLimits) -> _Staying:
        # A socket instead of asyncio's pipes: if a child outlives the process and keeps a pipe open, asyncio
        # does not report the end of the process.
        ours, its = socket.socketpair()
        errors = tempfile.TemporaryFile()  # noqa: SIM115 (it is closed with the process)
        fcntl.fcntl(errors, fcntl.F_SETFL, fcntl.fcntl(errors, fcntl.F_GETFL) | os.O_APPEND)
        with ExitStack() as undone:
            undone.callback(errors.close)
            undone.callback(ours.close)
            with its:
                process = await asyncio.create_subprocess_exec(
                    *words, stdin=its.fileno(), stdout=its.fileno(), stderr=errors, start_new_session=True,
                    env=environment(replace(at, api_key=_NO_KEY)),
                )  # fmt: skip
            undone.callback(kill_group, process.pid)
            reader, writer = await asyncio.open_connection(sock=ours, limit=MAX_OUTPUT)
            undone.pop_all()
        return cls(process, reader, writer, errors, host)

    @property
    def is_ready(self) -> bool:
        """Whether it waits for a task: it has neither ended nor written anything since its last answer."""
        return not self._line.done()

    async def ask(self, task: str, at: Endpoint, time_limit: float) -> bytes:
        """Send it a task; return the line with its answer."""
        kills = self._host.read().oom_kills
        self._errors.truncate(0)  # drop the output of earlier episodes
        given = {"task": task, "base_url": at.base_url, "api_key": at.api_key}
        self._writer.write(json.dumps(given).encode() + b"\n")
        try:
            async with asyncio.timeout(time_limit):
                line = await self._answer()
        except TimeoutError:
            raise late(time_limit, self._errors) from None
        except ValueError:  # longer than the reader's limit
            raise flooded() from None
        if not line.endswith(b"\n"):
            await self._kill()  # it may have closed its output and still be running
            raise ended(self._process.returncode, self._errors, self._host.read().oom_kills > kills)
        self._line = asyncio.ensure_future(self._reader.readline())
        return line

    async def _answer(self) -> bytes:
        """Return its next line; if it has ended, the part that it wrote."""
        while not self._line.done() and not self._ending.done():
            await asyncio.wait({self._line, self._ending}, timeout=LOOK, return_when=FIRST_COMPLETED)
            if os.fstat(self._errors.fileno()).st_size > MAX_OUTPUT:
                raise flooded()
        if not self._line.done():  # its last output may not have arrived, or a child may keep it open
            await asyncio.wait({self._line}, timeout=LOOK)
        try:
            return self._line.result() if self._line.done() else b""
        except ConnectionError:  # it ended before it had read its task
            return b""

    async def _kill(self) -> None:
        if not self._ending.done():
            kill_group(self._process.pid)
        await asyncio.wait({self._ending})

    async def end(self) -> None:
        """Kill it and the processes that it started."""
        self._line.cancel()
        self._writer.transport.abort()
        await self._kill()
        await asyncio.gather(self._line, return_exceptions=True)
        self._errors.close()


def _read(line: bytes) -> dict[str, str | float]:
    """Return the content of a line; raises ProgramFailed if it is invalid."""
    text = line.decode(errors="replace").strip()
    try:
        said = json.loads(text)
    except (ValueError, RecursionError):
        said = None
    if isinstance(said, dict) and len(said) == 1:
        [(name, value)] = said.items()
        if name in ("answer", "error") and isinstance(value, str):
            return {name: value.encode(errors="replace").decode()}
        if name == "reward" and isinstance(value, int | float) and math.isfinite(value):
            return {name: float(value)}
    shown = text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}…"
    raise ProgramFailed(
        f"the program wrote {shown!r}; it must answer a task with one line, "
        '{"answer": "…"}, {"reward": 0.5} or {"error": "…"}, and write all else to standard error'
    )
