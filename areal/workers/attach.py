"""Workers that are called from other processes than the one that started them.

The process that started a worker has it listen (``address = await handle.call(listen, handle.name, host)``)
and hands the address on; ``await attach(address)`` gives any process of the run, on any host, a handle of the
same worker. Only async methods are called so: plain ones have the worker's main thread, which is the first
process's. Whoever comes shows a token before anything that it sends is read. An attached handle ends with its
connection; the end, and the health, of the worker itself are the first process's business.
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
"""Seconds for a connection to come about."""
_listening = set[asyncio.Server]()


@dataclass(frozen=True, slots=True)
class Address:
    """Where a worker listens.

    Attributes:
        name: of the worker.
        host: an address or a name, as other processes reach it.
        token: without which a connection is closed.
    """

    name: str
    host: str
    port: int
    token: bytes


async def listen(worker: Any, name: str, host: str) -> Address:
    """Have a worker listen until its process ends; this runs in its process.

    Args:
        name: of the worker.
        host: the address of a network interface there.
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
    """Answer the calls of one connection until it is closed; what is in flight then is cancelled."""

    async def run(number: int, method: Any, /, *args: Any, **kwargs: Any) -> Any:
        if not inspect.iscoroutinefunction(method):
            raise TypeError(f"{method} is not async: only the process that started {name} calls it")
        return await calls.call(method, *args, **kwargs)

    callee = Callee(name, messages, run)
    while (message := await messages.receive()) is not None:
        callee.take(*message)
    callee.cancel()


async def attach(address: Address) -> Connection[Any]:
    """Return a handle of a worker that listens.

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

    To kill or close it closes the connection, and leaves the worker as it is.
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
        """Close the connection; whoever waits for an answer gets WorkerLost."""
        self._listening.cancel()
        self._end("its connection was closed here")

    async def close(self, grace: float = 5.0) -> None:
        """Close the connection."""
        self._listening.cancel()
        self._end(CLOSED)
