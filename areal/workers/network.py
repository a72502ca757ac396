"""The network between the hosts of a run."""

from __future__ import annotations

import fcntl
import os
import socket
import struct

from areal.errors import UserError

_SIOCGIFADDR = 0x8915
_COLLECTIVES = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")
"""Variables that select the network interface of torch's collectives."""


def join_network(interface: str | None, address: str) -> str:
    """Let collectives of this process and its children use a network interface; return its IPv4 address.

    Args:
        interface: its name; None: the interface that has ``address``.
        address: address or name of this host, if no interface is named.

    Raises:
        UserError: this host has no such interface, or its name has no address.
    """
    found = {name: own for _, name in socket.if_nameindex() if (own := _address(name)) is not None}
    if interface is not None:
        if interface not in found:
            raise UserError(
                f"ray.interface={interface}, but host {address} has no such network interface with an IPv4 "
                f"address; choose one of {', '.join(found)}"
            )
        os.environ |= dict.fromkeys(_COLLECTIVES, interface)
        return found[interface]
    try:
        address = socket.gethostbyname(address)
    except OSError as error:
        raise UserError(
            f"host {address} cannot resolve its own name ({error.strerror}); pass its IPv4 address to `ray "
            "start` as --node-ip-address"
        ) from error
    # By default they look up the host's name, for which /etc/hosts may give a loopback address.
    for name in [name for name, own in found.items() if own == address]:
        for variable in _COLLECTIVES:
            os.environ.setdefault(variable, name)
    return address


def _address(interface: str) -> str | None:
    request = struct.pack("256s", interface.encode()[:15])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        try:
            return socket.inet_ntoa(fcntl.ioctl(any_socket.fileno(), _SIOCGIFADDR, request)[20:24])
        except OSError:  # it has no address
            return None


def is_free(address: str, port: int) -> bool:
    """Return whether a port of this host is free for listening."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        try:
            probe.bind((address, port))
        except OSError:
            return False
    return True
