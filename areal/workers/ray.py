"""Workers on the hosts of a Ray cluster.

On each host, one Ray actor (:mod:`areal.workers.ray_actor`) holds the devices. It starts each worker in a
separate process, with the same code as :mod:`areal.workers.process` on this host; calls, answers and
cancellations use a TCP connection between that process and this one. A worker on another host therefore
differs from one on this host only in its socket. Ray finds the hosts, keeps other runs off them, distributes
the package, and reports when a host is gone.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

import ray
from ray.exceptions import ActorDiedError, GetTimeoutError, RayError, RayTaskError
from ray.util.placement_group import remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from areal.errors import UserError, WorkerLost
from areal.workers.cluster import ClusterHost, Survey
from areal.workers.guard import Guard
from areal.workers.handle import Launch
from areal.workers.messages import READ_AHEAD, Messages
from areal.workers.network import join_network
from areal.workers.process import ProcessHandle
from areal.workers.ray_actor import END, SOON, HostActor, RemoteProcess
from areal.workers.ray_hosts import HeldHost, Reservation, find, hold_another, survey, within

T = TypeVar("T")

_START = 300.0
"""Seconds for Ray to start an actor, for which it may have to install its runtime_env."""
_HEAD = 30.0
"""Seconds without an answer of the cluster's head; after 60 Ray ends this process without our message."""
_LOOK = 5.0
"""Interval in seconds of the checks of the head."""
_REPORTED = 60.0
"""Seconds within which Ray reports that a host is gone; its own check takes about 15."""
_NOTICED = 5.0
"""Seconds within which all observers of the hosts notice that one is gone."""
_TOKEN = 32
_FORWARDED = ("AREAL_", "GLOO_", "HF_", "NCCL_", "TORCH", "VLLM_")
"""Prefixes of variables that workers inherit from this process, in addition to those of their host."""


class RayCluster:
    """Starts workers on hosts that the run holds.

    Args:
        reservation: reservation of the hosts; :meth:`close` releases it.
        interface: network interface between the hosts; None: that of Ray.

    Attributes:
        hosts: the hosts that are held.

    Raises:
        UserError: areal does not start on one of them.
    """

    def __init__(self, reservation: Reservation, interface: str | None = None) -> None:
        self._reservation = reservation
        self._expected: dict[bytes, asyncio.Future[Messages]] = {}
        self._serving: asyncio.Task[asyncio.Server] | None = None
        self._lost: asyncio.Task[str] | None = None
        group = reservation.group
        self._held = {host.address: HeldHost(host, group, n) for n, host in enumerate(reservation.hosts)}
        self._actors: dict[str, Any] = {}
        self._interface = interface
        self._seen = set[str]()  # hosts on which areal has started
        self._gone = dict[str, float]()  # times since which nodes do not respond, by Ray's names for them
        self.hosts = list[ClusterHost]()
        self._listening, self._closed = socket.socket(), False
        try:
            own = join_network(interface, ray.util.get_node_ip_address())
            self._listening = socket.create_server((own, 0), backlog=1024)
            for held in self._held.values():
                self._actors[held.host.address] = _actor(held)
            self.hosts += [self._found(held) for held in self._held.values()]
        except BaseException:
            self.close()
            raise

    def _found(self, held: HeldHost) -> ClusterHost:
        """Return the description of a host; this is the first request to its actor."""
        name = held.host.address
        try:
            address = self.run(name, join_network, self._interface, name)
        except UserError as failure:
            if not isinstance(died := failure.__cause__, ActorDiedError) or "never ran" not in str(died):
                raise
            # If the head is busy, Ray sometimes gives up an actor that it has just been asked for.
            self._actors[name] = _actor(held)
            address = self.run(name, join_network, self._interface, name)
        self._seen.add(name)
        return ClusterHost(name, held.host.cores, address, held.host.gpus)

    def survey(self) -> Survey:
        """Return the current hosts of the cluster."""
        gpus = any(host.gpus for host in self._reservation.hosts)
        gone = [node for node, since in self._gone.items() if time.monotonic() - since < _REPORTED]
        return survey(gpus, [self._held[host.name].host for host in self.hosts], self._held, gone)

    def _lose(self, name: str) -> None:
        """Record that the actor of a host does not respond: everything on the host counts as ended."""
        if (held := self._held.get(name)) is not None:
            self._gone.setdefault(held.host.node, time.monotonic())

    def hold(self, name: str) -> ClusterHost | None:
        """Hold one more host of the cluster; None: others hold it.

        Raises:
            UserError: areal does not start on it.
        """
        if (host := find(name)) is None:
            return None
        known = self._held.get(name)
        held = hold_another(host) if known is None else replace(known, host=host)
        if held is None:
            return None
        self._held[name], self._actors[name] = held, _actor(held)
        self._seen.discard(name)  # it may have left and come back
        try:
            found = self._found(held)
        except BaseException:
            self.release(name)
            raise
        self.hosts.append(found)
        return found

    def release(self, name: str) -> None:
        """End the remaining workers of a host, and release it."""
        self.hosts = [host for host in self.hosts if host.name != name]
        ray.kill(self._actors[name])
        if self._held[name].group != self._reservation.group:
            # A part of the reservation cannot be returned, so the host is taken again when it comes back.
            remove_placement_group(self._held.pop(name).group)

    def run(self, host: str, function: Callable[..., T], *args: Any) -> T:
        """Call a module-level function by name on a host, with the run's devices visible.

        Raises:
            UserError: the function raised it, or areal does not start on the host.
            WorkerLost: the host is gone.
        """
        try:
            return ray.get(self._actors[host].run.remote(function, *args), timeout=_START)
        except RayTaskError as failure:
            if isinstance(failure.cause, UserError):
                raise failure.cause from None
            raise
        except (RayError, GetTimeoutError) as failure:
            if host in self._seen:
                self._lose(host)
                raise WorkerLost(f"host {host} is gone, or does not answer") from failure
            reason = str(failure).strip().splitlines()[-1][:300]
            raise UserError(
                f"areal does not start on host {host}: {reason}; install areal in Ray's Python there, or "
                "distribute it with Ray's runtime_env"
            ) from failure

    def launch_on(self, host: str, guard: Guard | None = None) -> Launch:
        """Return a launcher of workers on a host, which a guard watches."""
        return partial(self._launch, host, guard or Guard())

    async def _launch(
        self,
        host: str,
        guard: Guard,
        name: str,
        environment: Mapping[str, str],
        factory: Any,
        *args: Any,
        **kwargs: Any,
    ) -> ProcessHandle[Any]:
        pid, messages = await self._start(host, name, environment)
        process = RemoteProcess(self._actors[host], host, pid, self._head(), partial(self._lose, host))
        handle = ProcessHandle[Any](name, process, messages, guard)
        await handle.make(factory, *args, **kwargs)
        return handle

    async def _start(self, host: str, name: str, environment: Mapping[str, str]) -> tuple[int, Messages]:
        if self._serving is None:
            serving = asyncio.start_server(self._accept, sock=self._listening, limit=READ_AHEAD)
            self._serving = asyncio.ensure_future(serving)
        await asyncio.shield(self._serving)
        variables = {key: value for key, value in os.environ.items() if key.startswith(_FORWARDED)}
        token, address = secrets.token_bytes(_TOKEN), self._listening.getsockname()[:2]
        connected = self._expected[token] = asyncio.get_running_loop().create_future()
        try:
            spawn = self._actors[host].spawn.remote(address, token, name, variables | dict(environment))
            pid = await _answer(spawn, name, host)
            async with asyncio.timeout(SOON):
                return pid, await connected
        except (RayTaskError, TimeoutError) as failure:
            raise UserError(
                f"{name} on host {host} cannot reach this process at {':'.join(map(str, address))}: "
                f"{getattr(failure, 'cause', failure)}; if another network interface connects the hosts, "
                "set ray.interface to it"
            ) from failure
        except RayError as failure:
            self._lose(host)
            await asyncio.sleep(_NOTICED)  # the caller may then restart it on another host
            raise WorkerLost(f"{name} did not start: host {host} is gone") from failure
        except asyncio.CancelledError:
            if connected.done() and not connected.cancelled():
                connected.result().close()
            raise
        finally:
            del self._expected[token]  # a process that connects too late is rejected, and ends

    async def watch(self) -> None:
        """Wait until the head of the cluster is lost; raises WorkerLost then."""
        raise WorkerLost(await asyncio.shield(self._head()))

    def _head(self) -> asyncio.Task[str]:
        if self._lost is None:
            self._lost = asyncio.create_task(self._watch_head(), name="head of the Ray cluster")
        return self._lost

    async def _watch_head(self) -> str:
        """Briefly return that the head node no longer responds, or that this cluster is closed."""
        address = ray.get_runtime_context().gcs_address
        host, _, port = address.rpartition(":")
        silent, looked = 0.0, time.monotonic()
        while not self._closed and silent < _HEAD:
            await asyncio.sleep(_LOOK)
            now = time.monotonic()
            # A check takes no longer, unless this process was delayed itself.
            silent, looked = silent + min(now - looked, 2 * _LOOK), now
            with suppress(OSError):
                _, writer = await asyncio.wait_for(asyncio.open_connection(host, int(port)), _LOOK)
                writer.close()
                silent = 0.0
        if self._closed:
            return "its host was released"
        return f"the head of the Ray cluster, {address}, has not answered for {_HEAD:g} s"

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Assign a connection to its worker; nothing is read before it has proved its identity."""
        try:
            token = await asyncio.wait_for(reader.readexactly(_TOKEN), SOON)
        except (TimeoutError, asyncio.IncompleteReadError, ConnectionError):
            token = b""
        if token not in self._expected:
            writer.close()
            return
        self._expected[token].set_result(Messages(reader, writer))

    def close(self) -> None:
        """End the actors with their remaining workers, and release the hosts, once."""
        if self._closed:
            return
        self._closed = True
        if self._serving is not None and not self._serving.get_loop().is_closed():
            self._serving.result().close()
        self._listening.close()
        if self._lost is not None and self._lost.done() and not self._lost.cancelled():
            return  # nobody can release them, and Ray ends this process soon
        with suppress(TimeoutError):  # a head that has just been lost does not respond
            within(END, self._release)

    def _release(self) -> None:
        for actor in self._actors.values():
            ray.kill(actor)
        for held in self._held.values():
            if held.group != self._reservation.group:
                remove_placement_group(held.group)
        self._reservation.release()


def _actor(held: HeldHost) -> Any:
    """Start the actor of a host, as soon as Ray has the host."""
    strategy = PlacementGroupSchedulingStrategy(held.group, held.bundle)
    options = ray.remote(HostActor).options(
        num_cpus=held.host.bundle.get("CPU", 0), num_gpus=held.host.gpus, scheduling_strategy=strategy
    )
    return options.remote([path for path in sys.path if path], os.getcwd())


async def _answer(call: Any, name: str, host: str) -> Any:
    """Return an actor's answer about a worker; raise WorkerLost if there is none."""
    try:
        async with asyncio.timeout(SOON + END):
            return await call
    except RayTaskError:  # it may be a TimeoutError, too
        raise
    except TimeoutError as late:
        line = f"{name} did not start: host {host} has not answered for {SOON + END:g} s"
        raise WorkerLost(line) from late
