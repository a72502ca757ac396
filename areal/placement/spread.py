"""Selects hosts for an engine that is too large for one: as few as possible, with equal worker counts."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

from areal.placement.inventory import Device, Host


def spread_groups(devices: Sequence[Device], size: int) -> list[tuple[Device, ...]]:
    """Return groups of GPUs with the same number on each of their hosts; empty if there is no such group.

    Args:
        devices: available GPUs, the best first.
        size: number of GPUs in a group.
    """
    for count in range(2, size + 1):
        if size % count:
            continue
        each, found = size // count, []
        free: dict[str, list[Device]] = {}
        for device in devices:
            free.setdefault(device.host, []).append(device)
        while len(hosts := [host for host in free if len(free[host]) >= each]) >= count:
            chosen = hosts[:count]
            found.append(tuple(itertools.chain(*(free[host][:each] for host in chosen))))
            for host in chosen:
                del free[host][:each]
        if found:
            return found
    return []


def next_hosts(hosts: Sequence[Host], names: Iterator[str], workers: int) -> tuple[str, ...]:
    """Return the hosts of an engine on CPUs: the next one, or as few as have a core for each worker.

    Args:
        hosts: all hosts.
        names: names of hosts, in a circle.
        workers: number of workers of the engine.
    """
    cores = max(host.cores for host in hosts)
    fits = (n for n in range(1, len(hosts) + 1) if workers % n == 0 and workers // n <= cores)
    return tuple(next(names) for _ in range(next(fits, 1)))
