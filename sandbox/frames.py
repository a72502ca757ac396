"""Messages as frames: four bytes of length, then an encoded list whose first element names its kind.

Both sides use this module, which only imports the standard library.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any, BinaryIO

from . import codec

HEADER = struct.Struct(">I")


class BadFrame(ValueError):
    """The received data are not a message that the protocol allows at this point."""


def pack(kind: str, *parts: Any) -> bytes:
    """Return a message as a frame; raises NotAValue if a part does not consist of builtin types."""
    body = codec.encode([kind, *parts])
    return HEADER.pack(len(body)) + body


def unpack(body: bytes, decode: Callable[[bytes], Any] = codec.decode) -> tuple[str, list[Any]]:
    """Return the kind and the parts of a message.

    Raises:
        BadFrame: it is not a list that starts with a string, or it cannot be decoded.
    """
    try:
        message = decode(body)
    except codec.BadEncoding as error:
        raise BadFrame(str(error)) from None
    if type(message) is not list or not message or type(message[0]) is not str:
        raise BadFrame("a message is a list that starts with its kind")
    return message[0], message[1:]


def read(stream: BinaryIO) -> tuple[str, list[Any]] | None:
    """Return the next message of a blocking stream from a trusted writer; ``None`` at the end."""
    header = stream.read(HEADER.size)
    if len(header) < HEADER.size:
        return None
    return unpack(stream.read(HEADER.unpack(header)[0]), codec.decode_trusted)
