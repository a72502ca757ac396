"""Messages as frames: four bytes of length, then one encoded list whose first element names its kind.

Used on both sides; nothing but the standard library.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any, BinaryIO

from . import codec

HEADER = struct.Struct(">I")


class BadFrame(ValueError):
    """What arrived is not a message that the protocol allows here."""


class TooLong(BadFrame):
    """More bytes arrived, or were announced, than the limit on results allows."""


def pack(kind: str, *parts: Any) -> bytes:
    """Return one message as a frame; raises NotAValue if a part is not made of builtin types."""
    body = codec.encode([kind, *parts])
    return HEADER.pack(len(body)) + body


def unpack(body: bytes, decode: Callable[[bytes], Any] = codec.decode) -> tuple[str, list[Any]]:
    """Return the kind and the parts of a message.

    Raises:
        BadFrame: it is not a list that starts with a string, or cannot be decoded.
    """
    try:
        message = decode(body)
    except codec.BadEncoding as error:
        raise BadFrame(str(error)) from None
    if type(message) is not list or not message or type(message[0]) is not str:
        raise BadFrame("a message is a list that starts with its kind")
    return message[0], message[1:]


def read(stream: BinaryIO) -> tuple[str, list[Any]] | None:
    """Return the next message of a blocking stream from a trusted writer; ``None`` at its end."""
    header = stream.read(HEADER.size)
    if len(header) < HEADER.size:
        return None
    return unpack(stream.read(HEADER.unpack(header)[0]), codec.decode_trusted)


class FrameSplitter:
    """Cuts the bytes of an untrusted stream into frames, and counts them.

    Args:
        limit: bytes that the whole stream may have.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._total = 0
        self._pending = bytearray()

    def feed(self, data: bytes) -> None:
        """Take in what was read; raises TooLong if the stream has passed its limit."""
        self._total += len(data)
        if self._total > self._limit:
            raise TooLong(f"more than {self._limit} bytes of results")
        self._pending += data

    def next(self) -> bytes | None:
        """Return the body of the next complete frame, or ``None``; raises TooLong if one is to be that."""
        if len(self._pending) < HEADER.size:
            return None
        (length,) = HEADER.unpack_from(self._pending)
        if length > self._limit:
            raise TooLong(f"a frame of {length} bytes")
        end = HEADER.size + length
        if len(self._pending) < end:
            return None
        body = bytes(self._pending[HEADER.size : end])
        del self._pending[:end]
        return body

    @property
    def partial(self) -> bool:
        """Say whether the stream stopped within a frame."""
        return bool(self._pending)
