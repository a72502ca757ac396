"""How the hosts of a run reach each other."""

from __future__ import annotations

import fcntl
import os
import socket
import struct

from areal.errors import UserError

_SIOCGIFADDR = 0x8915
_COLLECTIVES = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")
"""Variables by which torch's collectives know the network interface."""


def join_network(interface: str | None, address: str) -> str:
    """Have collectives of this process and its children use a network interface; return its IPv4 address.

    Args:
        interface: its name; None: the one that has ``address``.
        address: of this host, or its name, if no interface is named.

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
    # By themselves they look up the host's name, for which /etc/hosts may give an address of this host alone.
    for name in [name for name, own in found.items() if own == address]:
        for variable in _COLLECTIVES:
            os.environ.setdefault(variable, name)
    return address


def _address(interface: str) -> str | None:
    request = struct.pack("256s", interface.encode()[:15])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        try:
            return socket.inet_ntoa(fcntl.ioctl(any_socket.fileno(), _SIOCGIFADDR, request)[20:24])
        except OSError:  # it has none
            return None


def is_free(address: str, port: int) -> bool:
    """Whether a port of this host can be listened at."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        try:
            probe.bind((address, port))
        except OSError:
            return False
    return True
