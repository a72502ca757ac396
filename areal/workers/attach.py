"""Calls of workers from processes other than the one that started them.

The process that started a worker lets it listen (``address = await handle.call(listen, handle.name, host)``)
and passes on the address; ``await attach(address)`` gives any process of the run, on any host, a handle of
the same worker. Only async methods can be called in this way, because plain ones use the worker's main
thread, which belongs to the first process. A client must show a token before anything that it sends is read.
An attached handle ends with its connection; the end and the health of the worker itself are the
responsibility of the first process.
"""

from __future__ import annotations

import asyncio
import inspect
import secrets
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from areal.errors import WorkerLost
from areal.workers.answers import Callee, Caller
from areal.workers.calls import Dispatcher
from areal.workers.handle import CLOSED
from areal.workers.messages import READ_AHEAD, Messages

W = TypeVar("W")

_TOKEN = 32
_SOON = 30.0
"""Time limit for a connection, in seconds."""
_listening = set[asyncio.Server]()


@dataclass(frozen=True, slots=True)
class Address:
    """The address at which a worker listens.

    Attributes:
        name: name of the worker.
        host: its address or name for other processes.
        token: secret without which a connection is closed.
    """

    name: str
    host: str
    port: int
    token: bytes


async def listen(worker: Any, name: str, host: str) -> Address:
    """Let a worker listen until its process ends; this runs in its process.

    Args:
        name: name of the worker.
        host: address of a network interface of its host.
    """
    token, calls = secrets.token_bytes(_TOKEN), Dispatcher(ThreadPoolExecutor(1))
    await calls.make(lambda: worker)

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            shown = await asyncio.wait_for(reader.readexactly(_TOKEN), _SOON)
        except (TimeoutError, asyncio.IncompleteReadError, ConnectionError):
            shown = b""
        if secrets.compare_digest(shown, token):
            await _serve(name, calls, Messages(reader, writer))
        writer.close()

    server = await asyncio.start_server(accept, host, 0, limit=READ_AHEAD, backlog=1024)
    _listening.add(server)
    return Address(name, host, server.sockets[0].getsockname()[1], token)


async def _serve(name: str, calls: Dispatcher, messages: Messages) -> None:
    """Answer the calls of a connection until it is closed; calls in flight are then cancelled."""

    async def run(number: int, method: Any, /, *args: Any, **kwargs: Any) -> Any:
        if not inspect.iscoroutinefunction(method):
            raise TypeError(f"{method} is not async: only the process that started {name} calls it")
        return await calls.call(method, *args, **kwargs)

    callee = Callee(name, messages, run)
    while (message := await messages.receive()) is not None:
        callee.take(*message)
    callee.cancel()


async def attach(address: Address) -> Connection[Any]:
    """Return a handle of a listening worker.

    Raises:
        WorkerLost: it cannot be reached.
    """
    try:
        async with asyncio.timeout(_SOON):
            reader, writer = await asyncio.open_connection(address.host, address.port, limit=READ_AHEAD)
    except (OSError, TimeoutError) as failure:
        raise WorkerLost(
            f"{address.name} cannot be reached at {address.host}:{address.port}: {failure or 'no answer'}"
        ) from failure
    writer.write(address.token)
    return Connection(address, Messages(reader, writer))


class Connection(Generic[W]):
    """A handle of a worker that another process started; see :class:`areal.workers.handle.Handle`.

    Killing or closing it only closes the connection, and does not affect the worker.
    """

    def __init__(self, address: Address, messages: Messages) -> None:
        self.name, self.host = address.name, address.host
        self.ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._messages, self._calls = messages, Caller(messages)
        self._listening = asyncio.create_task(self._listen(), name=f"answers of {self.name}")

    async def call(self, method: Any, *args: Any, **kwargs: Any) -> Any:
        """Call an async method of the worker and return its result."""
        if self.ended.done():
            raise self._lost()
        return await self._calls.call(method, *args, **kwargs)

    async def _listen(self) -> None:
        while (message := await self._messages.receive()) is not None:
            self._calls.take(*message)
        self._end("its connection was closed")

    def _end(self, reason: str) -> None:
        self._messages.close()
        if self.ended.done():
            return
        self.ended.set_result(reason)
        self._calls.fail(self._lost)

    def _lost(self) -> WorkerLost:
        return WorkerLost(f"{self.name} was lost: {self.ended.result()}")

    def kill(self) -> None:
        """Close the connection; callers that wait for an answer get WorkerLost."""
        self._listening.cancel()
        self._end("its connection was closed here")

    async def close(self, grace: float = 5.0) -> None:
        """Close the connection."""
        self._listening.cancel()
        self._end(CLOSED)
