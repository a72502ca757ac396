"""Hosts of a Ray cluster that a run holds, each with all of its GPUs, or with all of its CPU cores."""

from __future__ import annotations

import logging
import math
import os
import re
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import ray
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group

from areal.errors import UserError
from areal.workers.cluster import Survey

T = TypeVar("T")

_NO_CLIENT = (
    "run areal on a host of the cluster, and set ray.address to auto or to host:port of the head node; from "
    "another machine, use: ray job submit -- areal train ..."
)
_LOOK = 1.0
"""Interval in seconds of checks for hosts."""
_TRY = 5.0
"""Seconds after which other hosts are tried, if there are more than the run needs."""


@dataclass(frozen=True, slots=True)
class RayHost:
    """A host of a Ray cluster.

    Attributes:
        address: its address in Ray.
        gpus: number of its GPUs in Ray.
        cores: number of its CPU cores in Ray.
        node: Ray's name for it, which changes if it leaves and comes back.
    """

    address: str
    gpus: int
    cores: int
    node: str = ""

    @property
    def bundle(self) -> dict[str, float]:
        """The resources that a run holds: its GPUs, with a core for each, or all cores."""
        cores = min(self.gpus, self.cores) if self.gpus else self.cores
        wanted = {"GPU": self.gpus, "CPU": cores, self.pin: 0.001}
        return {name: number for name, number in wanted.items() if number}

    @property
    def pin(self) -> str:
        """A Ray resource of which only this host has one."""
        return f"node:{self.address}"

    def __str__(self) -> str:
        """Its address and its resources, for the terminal."""
        return f"{self.address} ({_count(self.gpus, 'GPU')}, {_count(self.cores, 'CPU core')})"


@dataclass(frozen=True, slots=True)
class HeldHost:
    """A host that a run holds, and its bundle in Ray's placement group."""

    host: RayHost
    group: PlacementGroup
    bundle: int = 0


@dataclass(frozen=True, slots=True)
class Reservation:
    """Hosts that a run holds.

    Attributes:
        hosts: the hosts; that of this process comes first, if it is among them.
        group: Ray's placement group, whose bundles are the hosts in this order.
        joined: whether this process joined Ray for the reservation.
    """

    hosts: tuple[RayHost, ...]
    group: PlacementGroup
    joined: bool

    def release(self) -> None:
        """Release the hosts."""
        remove_placement_group(self.group)
        if self.joined:
            ray.shutdown()


def reserve(
    address: str,
    gpus: bool | None = None,
    count: int | None = None,
    patience: float = 30.0,
    cpu_hosts: int = 0,
) -> Reservation:
    """Hold hosts of a Ray cluster; either all or none.

    Args:
        address: ``auto``, or the ``host:port`` of its head.
        gpus: whether to hold hosts with GPUs; None: if there are any.
        count: number of hosts; None: all available ones.
        patience: seconds for Ray to answer, and again for enough hosts to be available and free.
        cpu_hosts: number of hosts without a GPU in addition to those with GPUs.

    Raises:
        UserError: the cluster does not exist, does not have enough hosts, or others hold them.
    """
    joined = not ray.is_initialized()
    if joined:
        _join(address, patience)
    else:
        _check_joined(address)
    try:
        return Reservation(*_hold(gpus, count, cpu_hosts, patience), joined)
    except BaseException:
        if joined:
            ray.shutdown()
        raise


def survey(
    gpus: bool, held: Sequence[RayHost], reserved: Collection[str], gone: Collection[str] = ()
) -> Survey:
    """Return the current hosts of the cluster.

    Args:
        gpus: whether the run needs hosts with GPUs.
        held: hosts that the run holds.
        reserved: addresses of hosts that Ray keeps for the run, even if they have left and come back.
        gone: nodes that are gone, even if Ray has not noticed yet.
    """
    there, free = [host for host in _alive() if host.node not in gone], ray.available_resources()
    deadlines: dict[str, int] = ray._private.state.state.get_draining_nodes()  # 0: there is none
    names = Counter(host.address for host in there)
    known, now = {host.address for host in held}, time.time()
    return Survey(
        free=tuple(
            host.address
            for host in there
            if (host.gpus if gpus else host.cores)
            and names[host.address] == 1  # an old one may exist for a moment after a restart
            and host.address not in known
            and host.node not in deadlines
            and (host.address in reserved or free.get(host.pin, 0) >= 1)
        ),
        draining={
            host.address: max(0.0, deadline / 1000 - now) if deadline else math.inf
            for host in held
            if (deadline := deadlines.get(host.node)) is not None
        },
        gone=tuple(host.address for host in held if host.node not in {each.node for each in there}),
    )


def find(address: str) -> RayHost | None:
    """Return the host of the cluster with this address, if it exists."""
    return next((host for host in _alive() if host.address == address), None)


def hold_another(host: RayHost) -> HeldHost | None:
    """Hold one more host; None: others hold a part of it."""
    group = placement_group([host.bundle])
    if group.wait(_TRY):
        return HeldHost(host, group)
    remove_placement_group(group)
    return None


def _join(address: str, patience: float) -> None:
    """Connect to Ray on a thread, because Ray would try forever, and the run handles signals itself."""
    if address.startswith("ray://"):
        raise UserError(f"ray.address={address}: {_NO_CLIENT}")
    logging.getLogger("ray").setLevel(logging.ERROR)
    try:
        within(patience, partial(ray.init, address, configure_logging=False))
        return
    except TimeoutError:
        reason = f"no answer within {patience:g} s"
    except (ConnectionError, RuntimeError, ValueError, AssertionError) as failure:
        reason = " ".join(str(failure).split())[:300]
    advice = "check that Ray is running on this host (`ray status`), and that the address is the head node's"
    if (
        "RAY_AUTH_MODE" not in os.environ
    ):  # without this variable, Ray uses a token only for a cluster that it finds itself
        advice += "; if the cluster requires a token, set RAY_AUTH_MODE=token"
    if "Version mismatch" in reason:
        advice = "run areal with the Python and the Ray with which the cluster was started"
    raise UserError(f"ray.address={address}: {reason}; {advice}")


def _check_joined(address: str) -> None:
    """Check that Ray, if this process has already joined it, is the requested cluster.

    Raises:
        UserError: it is another cluster, or was joined with Ray Client.
    """
    if ray.util.client.ray.is_connected():
        raise UserError(f"this process is connected to Ray through Ray Client; {_NO_CLIENT}")
    joined = ray.get_runtime_context().gcs_address
    if address != "auto" and _resolved(address) != _resolved(joined):
        raise UserError(
            f"ray.address={address}, but this process has already joined the cluster at {joined} "
            "(ray.init); remove ray.address, or call ray.shutdown() first"
        )


def _resolved(address: str) -> tuple[str, str]:
    host, _, port = address.rpartition(":")
    with suppress(OSError):
        host = socket.gethostbyname(host)
    return host, port


def within(seconds: float, work: Callable[[], T]) -> T:
    """Return the result of ``work``, which runs on its own thread, because Ray's calls may never end.

    Raises:
        TimeoutError: it takes longer; its result is then ignored.
    """
    done: Future[T] = Future()

    def run() -> None:
        try:
            done.set_result(work())
        except BaseException as failure:  # noqa: BLE001 (it belongs to the caller)
            done.set_exception(failure)

    threading.Thread(target=run, name="areal-ray", daemon=True).start()
    return done.result(seconds)


def _hold(
    gpus: bool | None, count: int | None, cpu_hosts: int, patience: float
) -> tuple[tuple[RayHost, ...], PlacementGroup]:
    """Hold the largest hosts; others replace those that turn out to be gone, or held by others."""
    deadline, chosen, tried = time.monotonic() + patience, list[RayHost](), Counter[str]()
    while time.monotonic() < deadline:
        found, beside = _hosts(gpus), _beside(gpus, cpu_hosts)
        if len(found) < (count or 1) or _twice(found) or len(beside) < cpu_hosts:
            time.sleep(_LOOK)
            continue
        chosen = [*_choose(found, count, tried), *_choose(beside, cpu_hosts, tried)]
        tried.update(host.address for host in chosen)
        all_chosen = len(chosen) == len(found) + len(beside)
        tries_end = deadline if all_chosen else min(deadline, time.monotonic() + _TRY)
        group = placement_group([host.bundle for host in chosen], strategy="STRICT_SPREAD")
        while time.monotonic() < tries_end and set(chosen) <= {*_hosts(gpus), *_beside(gpus, cpu_hosts)}:
            if group.wait(_LOOK):
                return tuple(chosen), group
        remove_placement_group(group)
    if not chosen and (there := len(_beside(gpus, cpu_hosts))) < cpu_hosts:
        raise UserError(
            f"ray.cpu_hosts={cpu_hosts}, but the Ray cluster has {_count(there, 'host')} without a GPU; add "
            "hosts to it, or decrease ray.cpu_hosts"
        )
    raise UserError(_not_free(chosen) if chosen else _twice(_hosts(gpus)) or _too_few(gpus, count))


def _choose(found: list[RayHost], count: int | None, tried: Mapping[str, int]) -> list[RayHost]:
    own, free = ray.util.get_node_ip_address(), ray.available_resources()

    def busy(host: RayHost) -> tuple[int, bool]:
        return tried[host.address], free.get(host.pin, 0) < 1  # runs hold a small amount of its pin

    def in_order(host: RayHost) -> tuple[bool, list[int], str]:
        # By number, so that 10.0.0.10 comes after 10.0.0.9.
        return host.address != own, [int(part) for part in re.findall(r"\d+", host.address)], host.address

    largest = sorted(found, key=lambda host: (busy(host), -host.gpus, -host.cores, in_order(host)))
    return sorted(largest[:count], key=in_order)


def _beside(gpus: bool | None, cpu_hosts: int) -> list[RayHost]:
    """Return the hosts without a GPU, if some are requested in addition to those with GPUs; none on CPUs."""
    if not cpu_hosts or gpus is False or not _hosts(True):
        return []
    return [host for host in _hosts(False) if not host.gpus]


def _alive() -> list[RayHost]:
    return [
        RayHost(node["NodeManagerAddress"], int(has.get("GPU", 0)), int(has.get("CPU", 0)), node["NodeID"])
        for node in ray.nodes()
        if node["Alive"] and (has := node["Resources"])
    ]


def _hosts(gpus: bool | None) -> list[RayHost]:
    found = _alive()
    if by_ipv6 := [host.address for host in found if ":" in host.address]:
        raise UserError(
            f"Ray knows host {by_ipv6[0]} by an IPv6 address, but workers communicate over IPv4; pass its "
            "IPv4 address to `ray start` as --node-ip-address"
        )
    if gpus is None:
        gpus = any(host.gpus for host in found)
    return sorted((host for host in found if (host.gpus if gpus else host.cores)), key=str)


def _twice(hosts: Sequence[RayHost]) -> str:
    """Return which host Ray lists twice, as it does for a moment after a restart; empty: none."""
    addresses = [host.address for host in hosts]
    twice = next((address for address in addresses if addresses.count(address) > 1), "")
    return (
        twice
        and f"Ray was started twice on host {twice}; start it once on each host (`ray stop` ends all "
        "instances)"
    )


def _too_few(gpus: bool | None, count: int | None) -> str:
    fit, all_hosts = _hosts(gpus), [*_hosts(True), *_hosts(False)]
    missing = (count or 1) - len(fit)
    return (
        f"the Ray cluster is too small: the run needs {_count(count or 1, 'host')} with "
        f"{'GPUs' if gpus else 'CPU cores'}{' (ray.hosts)' if count else ''}; the cluster has "
        f"{_listed(all_hosts)}; {_count(missing, 'host')} missing; add hosts to "
        f"it{', or decrease ray.hosts' if len(fit) else ''}"
    )


def _not_free(hosts: Sequence[RayHost]) -> str:
    free, missing = ray.available_resources(), []
    for name, one in (("GPU", "GPU"), ("CPU", "CPU core")):
        lacking = sum(host.bundle.get(name, 0) for host in hosts) - free.get(name, 0)
        if lacking > 0:
            missing.append(_count(int(lacking), one))
    there = f"{_count(int(free.get('GPU', 0)), 'GPU')} and {_count(int(free.get('CPU', 0)), 'CPU core')}"
    return (
        f"the Ray cluster has no room now: the run needs {_listed(hosts)}, each as a whole; {there} are "
        "free in total; missing: "
        f"{' and '.join(missing) or 'resources on one host, which other jobs hold'}; wait for other jobs "
        "(`ray status`), or decrease ray.hosts"
    )


def _listed(hosts: Sequence[Any]) -> str:
    return ", ".join(dict.fromkeys(map(str, hosts))) or "no host with a GPU or a CPU core"


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}{'s' * (number != 1)}"
