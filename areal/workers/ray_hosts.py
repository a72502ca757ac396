"""Hosts of a Ray cluster, held for a run, each with all of its GPUs, or with all of its CPU cores."""

from __future__ import annotations

import ipaddress
import logging
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group

from areal.errors import UserError

_LOOK = 1.0
"""Seconds after which to look again which hosts there are."""


@dataclass(frozen=True, slots=True)
class RayHost:
    """A host of a Ray cluster.

    Attributes:
        address: by which Ray knows it.
        gpus: that Ray has on it.
        cores: CPU cores that Ray has on it.
    """

    address: str
    gpus: int
    cores: int

    @property
    def bundle(self) -> dict[str, float]:
        """What a run holds of it: its GPUs, with a core for each, or all cores; Ray's ``node:`` pins it."""
        cores = min(self.gpus, self.cores) if self.gpus else self.cores
        wanted = {"GPU": self.gpus, "CPU": cores, f"node:{self.address}": 0.001}
        return {name: number for name, number in wanted.items() if number}

    def __str__(self) -> str:
        """Its address and what it has, for the terminal."""
        return f"{self.address} ({_count(self.gpus, 'GPU')}, {_count(self.cores, 'CPU core')})"


@dataclass(frozen=True, slots=True)
class Reservation:
    """Hosts that a run holds.

    Attributes:
        hosts: the one of this process first, if it is among them.
        group: Ray's placement group, whose bundles are the hosts in this order.
        joined: whether this process joined Ray for it.
    """

    hosts: tuple[RayHost, ...]
    group: PlacementGroup
    joined: bool

    def release(self) -> None:
        """Leave the hosts to others."""
        remove_placement_group(self.group)
        if self.joined:
            ray.shutdown()


def reserve(
    address: str, gpus: bool | None = None, count: int | None = None, patience: float = 30.0
) -> Reservation:
    """Hold hosts of a Ray cluster; all or none.

    Args:
        address: ``auto``, or the ``host:port`` of its head.
        gpus: whether to hold hosts with GPUs; None: if there are any.
        count: how many; None: all that are there.
        patience: seconds for Ray to answer, and again for enough hosts to be there and free.

    Raises:
        UserError: there is no such cluster, or it has not as many hosts, or others hold them.
    """
    joined = not ray.is_initialized()
    if joined:
        _join(address, patience)
    try:
        return Reservation(*_hold(gpus, count, patience), joined)
    except BaseException:
        if joined:
            ray.shutdown()
        raise


def _join(address: str, patience: float) -> None:
    """Connect to Ray, which by itself would try for ever, on a thread: signals are the run's own business."""
    if address.startswith("ray://"):
        raise UserError(
            f"ray.address={address}: areal has to run on a host of the cluster, where its head is auto or "
            "host:port; from elsewhere: ray job submit -- areal train ..."
        )
    failures: list[Exception] = []

    def connect() -> None:
        try:
            ray.init(address, configure_logging=False)
        except (ConnectionError, RuntimeError, ValueError, AssertionError) as failure:
            failures.append(failure)

    logging.getLogger("ray").setLevel(logging.ERROR)
    thread = threading.Thread(target=connect, name="areal-ray", daemon=True)
    thread.start()
    thread.join(patience)
    if thread.is_alive() or failures:
        reason = " ".join(str(failures[0]).split()) if failures else f"no answer within {patience:g} s"
        raise UserError(
            f"ray.address={address}: {reason[:300]}; is Ray started on this host (`ray status`), and is the "
            "address that of the head?"
        )


def _hold(
    gpus: bool | None, count: int | None, patience: float
) -> tuple[tuple[RayHost, ...], PlacementGroup]:
    """Hold the largest hosts; others take the place of those that turn out to be gone."""
    deadline, chosen = time.monotonic() + patience, list[RayHost]()
    while time.monotonic() < deadline:
        if len(found := _hosts(gpus)) < (count or 1):
            time.sleep(_LOOK)
            continue
        chosen = _choose(found, count)
        group = placement_group([host.bundle for host in chosen], strategy="STRICT_SPREAD")
        while time.monotonic() < deadline and set(chosen) <= set(_hosts(gpus)):
            if group.wait(_LOOK):
                return tuple(chosen), group
        remove_placement_group(group)
    raise UserError(_not_free(chosen) if chosen else _too_few(gpus, count))


def _choose(found: list[RayHost], count: int | None) -> list[RayHost]:
    own = ray.util.get_node_ip_address()

    def in_order(host: RayHost) -> tuple[bool, int]:
        return host.address != own, int(ipaddress.ip_address(host.address))

    largest = sorted(found, key=lambda host: (-host.gpus, -host.cores, *in_order(host)))
    return sorted(largest[:count], key=in_order)


def _hosts(gpus: bool | None) -> list[RayHost]:
    found = [
        RayHost(node["NodeManagerAddress"], int(has.get("GPU", 0)), int(has.get("CPU", 0)))
        for node in ray.nodes()
        if node["Alive"] and (has := node["Resources"])
    ]
    if gpus is None:
        gpus = any(host.gpus for host in found)
    return sorted((host for host in found if (host.gpus if gpus else host.cores)), key=str)


def _too_few(gpus: bool | None, count: int | None) -> str:
    fit, all_hosts = _hosts(gpus), [*_hosts(True), *_hosts(False)]
    missing = (count or 1) - len(fit)
    return (
        f"the Ray cluster is too small: {_count(count or 1, 'host')} with {'GPUs' if gpus else 'CPU cores'} "
        f"asked for{' (ray.hosts)' if count else ''}; there: {_listed(all_hosts)}; missing: "
        f"{_count(missing, 'host')}; add hosts to it{', or lower ray.hosts' if len(fit) else ''}"
    )


def _not_free(hosts: Sequence[RayHost]) -> str:
    free, missing = ray.available_resources(), []
    for name, one in (("GPU", "GPU"), ("CPU", "CPU core")):
        lacking = sum(host.bundle.get(name, 0) for host in hosts) - free.get(name, 0)
        if lacking > 0:
            missing.append(_count(int(lacking), one))
    there = f"{_count(int(free.get('GPU', 0)), 'GPU')} and {_count(int(free.get('CPU', 0)), 'CPU core')}"
    return (
        f"the Ray cluster has no room now: {_listed(hosts)} asked for, as a whole; free in all: "
        f"{there}; missing: {' and '.join(missing) or 'what others hold of one host'}; wait for other jobs "
        "(`ray status`), or lower ray.hosts"
    )


def _listed(hosts: Sequence[Any]) -> str:
    return ", ".join(dict.fromkeys(map(str, hosts))) or "no host with a GPU or a CPU core"


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}{'s' * (number != 1)}"
