"""Messages between a process and its worker: pickles over a socket, with kind, call number and length."""

from __future__ import annotations

import asyncio
import pickle
import socket
import struct
from typing import Any, Literal

Kind = Literal["call", "cancel", "end", "answer", "error", "beat"]

_KINDS: tuple[Kind, ...] = ("call", "cancel", "end", "answer", "error", "beat")
_HEAD = struct.Struct(">BQQ")
READ_AHEAD = 2**22
"""Number of bytes that are read in advance."""


class Messages:
    """One end of the socket; only this event loop may use it. Sending never blocks."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    @classmethod
    async def over(cls, end: socket.socket) -> Messages:
        """Use an end of a socket pair, or of a connection."""
        return cls(*await asyncio.open_connection(sock=end, limit=READ_AHEAD))

    def send(self, kind: Kind, number: int, body: bytes = b"") -> None:
        """Send a message about a call; if it does not arrive, the process has ended."""
        self._writer.write(_HEAD.pack(_KINDS.index(kind), number, len(body)))
        if body:
            self._writer.write(body)

    async def receive(self) -> tuple[Kind, int, bytes] | None:
        """Return the next message; None: the other end is closed."""
        try:
            kind, number, length = _HEAD.unpack(await self._reader.readexactly(_HEAD.size))
            return _KINDS[kind], number, await self._reader.readexactly(length)
        except (asyncio.IncompleteReadError, ConnectionError):
            return None

    async def flush(self) -> None:
        """Wait until everything is passed to the kernel."""
        transport: Any = self._writer.transport
        transport.set_write_buffer_limits(0)
        await self._writer.drain()

    def close(self) -> None:
        """Close this end."""
        self._writer.close()


def packed(content: Any) -> bytes:
    """Return a pickle."""
    return pickle.dumps(content, pickle.HIGHEST_PROTOCOL)


def unpacked(body: bytes) -> Any:
    """Load a pickle. Both ends belong to this run."""
    return pickle.loads(body)
