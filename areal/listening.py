"""The address at which a server listens, for this machine only or for others."""

from __future__ import annotations

import os
import socket

from areal.errors import UserError


def listen(host: str, port: int) -> socket.socket:
    """Listen on an address of this machine.

    Args:
        port: 0: any free port.

    Raises:
        UserError: the address cannot be used.
    """
    if not 0 <= port < 2**16:
        raise UserError(f"--port {port}: give a number from 0 (any free port) to 65535")
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server((str(address[0]), int(address[1])), family=family, backlog=2048)
    except OSError as error:
        # The message of the socket module repeats the address. Errors of name resolution have no errno.
        why = os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror
        raise UserError(f"cannot serve on {host}, port {port}: {why}") from error


def in_url(host: str) -> str:
    """Return a host as it appears in URLs."""
    return f"[{host}]" if ":" in host else host
