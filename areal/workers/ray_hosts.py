"""Hosts of a Ray cluster, held for a run, each with all of its GPUs, or with all of its CPU cores."""

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
    "run areal on a host of the cluster, where the address of its head is auto or host:port; from another "
    "machine, use: ray job submit -- areal train ..."
)
_LOOK = 1.0
"""Seconds after which to look again which hosts there are."""
_TRY = 5.0
"""Seconds after which to try other hosts, if there are more than a run wants."""


@dataclass(frozen=True, slots=True)
class RayHost:
    """A host of a Ray cluster.

    Attributes:
        address: by which Ray knows it.
        gpus: that Ray has on it.
        cores: CPU cores that Ray has on it.
        node: Ray's name for it, which is another one after it has left and come back.
    """

    address: str
    gpus: int
    cores: int
    node: str = ""

    @property
    def bundle(self) -> dict[str, float]:
        """What a run holds of it: its GPUs, with a core for each, or all cores."""
        cores = min(self.gpus, self.cores) if self.gpus else self.cores
        wanted = {"GPU": self.gpus, "CPU": cores, self.pin: 0.001}
        return {name: number for name, number in wanted.items() if number}

    @property
    def pin(self) -> str:
        """Ray's resource that only this host has, once."""
        return f"node:{self.address}"

    def __str__(self) -> str:
        """Its address and what it has, for the terminal."""
        return f"{self.address} ({_count(self.gpus, 'GPU')}, {_count(self.cores, 'CPU core')})"


@dataclass(frozen=True, slots=True)
class HeldHost:
    """A host that a run holds, and the bundle of Ray's placement group by which it does."""

    host: RayHost
    group: PlacementGroup
    bundle: int = 0


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
    address: str,
    gpus: bool | None = None,
    count: int | None = None,
    patience: float = 30.0,
    cpu_hosts: int = 0,
) -> Reservation:
    """Hold hosts of a Ray cluster; all or none.

    Args:
        address: ``auto``, or the ``host:port`` of its head.
        gpus: whether to hold hosts with GPUs; None: if there are any.
        count: how many; None: all that are there.
        patience: seconds for Ray to answer, and again for enough hosts to be there and free.
        cpu_hosts: how many hosts without GPU to hold besides those with GPUs.

    Raises:
        UserError: there is no such cluster, or it has not as many hosts, or others hold them.
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
    """Look which hosts the cluster has now.

    Args:
        gpus: whether the run wants hosts with GPUs.
        held: by the run.
        reserved: addresses of hosts that Ray keeps for the run, also when they have left and come back.
        gone: nodes that are, though Ray may not have seen it yet.
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
            and names[host.address] == 1  # an old one may be there for a moment after a restart
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
    """Return a host of the cluster by its address, if it is there."""
    return next((host for host in _alive() if host.address == address), None)


def hold_another(host: RayHost) -> HeldHost | None:
    """Hold one more host; None: others hold some of it."""
    group = placement_group([host.bundle])
    if group.wait(_TRY):
        return HeldHost(host, group)
    remove_placement_group(group)
    return None


def _join(address: str, patience: float) -> None:
    """Connect to Ray, which by itself would try for ever, on a thread: signals are the run's own business."""
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
    advice = "check that Ray is running on this host (`ray status`), and that the address is that of the head"
    if (
        "RAY_AUTH_MODE" not in os.environ
    ):  # Ray uses a token by itself only for a cluster that it finds itself
        advice += " if the cluster requires a token, set RAY_AUTH_MODE=token"
    if "Version mismatch" in reason:
        advice = "run areal with the Python and the Ray with which the cluster was started"
    raise UserError(f"ray.address={address}: {reason}; {advice}")


def _check_joined(address: str) -> None:
    """Check that Ray, which this process has joined already, is what is asked for.

    Raises:
        UserError: it is another cluster, or joined by Ray Client.
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
    """Return what ``work`` returns, which is called on a thread of its own: calls of Ray's may never end.

    Raises:
        TimeoutError: it takes longer; nobody waits for it any more.
    """
    done: Future[T] = Future()

    def run() -> None:
        try:
            done.set_result(work())
        except BaseException as failure:  # noqa: BLE001 (it is the caller's)
            done.set_exception(failure)

    threading.Thread(target=run, name="areal-ray", daemon=True).start()
    return done.result(seconds)


def _hold(
    gpus: bool | None, count: int | None, cpu_hosts: int, patience: float
) -> tuple[tuple[RayHost, ...], PlacementGroup]:
    """Hold the largest hosts; others take the place of those that turn out to be gone, or held by others."""
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
            f"ray.cpu_hosts={cpu_hosts}, but besides the hosts with GPUs the Ray cluster has "
            f"{_count(there, 'host')} without; add hosts to it, or decrease ray.cpu_hosts"
        )
    raise UserError(_not_free(chosen) if chosen else _twice(_hosts(gpus)) or _too_few(gpus, count))


def _choose(found: list[RayHost], count: int | None, tried: Mapping[str, int]) -> list[RayHost]:
    own, free = ray.util.get_node_ip_address(), ray.available_resources()

    def busy(host: RayHost) -> tuple[int, bool]:
        return tried[host.address], free.get(host.pin, 0) < 1  # runs hold a little of its pin

    def in_order(host: RayHost) -> tuple[bool, list[int], str]:
        # By number: 10.0.0.10 comes after 10.0.0.9.
        return host.address != own, [int(part) for part in re.findall(r"\d+", host.address)], host.address

    largest = sorted(found, key=lambda host: (busy(host), -host.gpus, -host.cores, in_order(host)))
    return sorted(largest[:count], key=in_order)


def _beside(gpus: bool | None, cpu_hosts: int) -> list[RayHost]:
    """Return the hosts without GPU, if some are wanted beside those with GPUs; a run on CPUs has none."""
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
    """Say which host Ray has twice, as it has for a moment after a restart; empty: none."""
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
