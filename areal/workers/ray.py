"""Workers on the hosts of a Ray cluster.

On each host one actor of Ray's (:class:`HostActor`) holds the devices. It starts each worker in a process of
its own, by the same code as :mod:`areal.workers.process` does here; calls, answers and cancellation cross a
TCP connection between that process and this one. So a worker on another host differs from one on this host by
its socket alone. Ray finds the hosts, keeps others off them, brings the package there, and says when one is
gone.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

import ray
from ray.exceptions import GetTimeoutError, RayError, RayTaskError
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from areal.errors import UserError, WorkerLost
from areal.workers.cluster import ClusterHost
from areal.workers.handle import Launch
from areal.workers.messages import READ_AHEAD, Messages
from areal.workers.network import join_network
from areal.workers.process import LocalProcess, ProcessHandle, spawn
from areal.workers.ray_hosts import Reservation

T = TypeVar("T")

_SOON = 30.0
"""Seconds for a connection to come about."""
_START = 300.0
"""Seconds for Ray to start an actor, for which it may have to install what its runtime_env names."""
_TOKEN = 32
_FORWARDED = ("AREAL_", "GLOO_", "HF_", "NCCL_", "TORCH", "VLLM_")
"""How variables begin that workers have from this process, besides those of their host."""


class HostActor:
    """Starts workers on its host; an actor of Ray's, with whose end they end."""

    def __init__(self) -> None:
        self._processes: dict[int, LocalProcess] = {}
        # Ray sets it by the cores that an actor asks for; each worker gets its number of threads.
        os.environ.pop("OMP_NUM_THREADS", None)

    async def spawn(
        self,
        run: tuple[str, int],
        token: bytes,
        name: str,
        environment: Mapping[str, str],
        paths: Sequence[str],
        folder: str,
    ) -> int:
        """Start a worker.

        Args:
            run: address of the run's process, to which it connects.
            token: by which that process knows it.
            name: of the worker.
            environment: variables that it has besides those of this host.
            paths: where it looks for modules, after the places of this host.
            folder: the current one of the run's process, in which it is, too, if this host has it.

        Returns:
            The number of its process.
        """
        sys.path += [path for path in paths if path not in sys.path]
        with suppress(FileNotFoundError):
            os.chdir(folder)
        end = await asyncio.to_thread(socket.create_connection, run, _SOON)
        end.settimeout(None)
        end.sendall(token)
        process = LocalProcess(await spawn(name, {**os.environ, **environment}, end))
        self._processes[process.pid] = process
        return process.pid

    async def wait(self, pid: int) -> str:
        """Return how a worker's process has ended, once it has."""
        return await self._processes[pid].wait()

    async def kill(self, pid: int) -> None:
        """End a worker's process at once."""
        self._processes[pid].kill()

    async def run(self, function: Callable[..., T], *args: Any) -> T:
        """Call a function on this host."""
        return await asyncio.to_thread(function, *args)


class RemoteProcess:
    """The process of a worker on another host; see :class:`areal.workers.process.WorkerProcess`."""

    def __init__(self, actor: Any, host: str, pid: int) -> None:
        self.pid, self.host, self._actor = pid, host, actor

    async def wait(self) -> str:
        """Return how it ended, in a few words."""
        try:
            return f"{await self._actor.wait.remote(self.pid)}, on host {self.host}"
        except RayError:  # of several kinds, by what Ray finds first
            return f"host {self.host} is gone: it left the cluster, or Ray's actor on it has ended"

    def kill(self) -> None:
        """End it at once."""
        self._actor.kill.remote(self.pid)


class RayCluster:
    """Starts workers on hosts that are held.

    Args:
        reservation: of the hosts; :meth:`close` releases it.
        interface: the network interface by which hosts reach each other; None: that of Ray.

    Attributes:
        hosts: that are held.

    Raises:
        UserError: areal does not start on one of them.
    """

    def __init__(self, reservation: Reservation, interface: str | None = None) -> None:
        self._reservation = reservation
        self._expected: dict[bytes, asyncio.Future[Messages]] = {}
        self._serving: asyncio.Task[asyncio.Server] | None = None
        self._actors: dict[str, Any] = {}
        self.hosts = list[ClusterHost]()
        self._listening = socket.socket()
        try:
            own = join_network(interface, ray.util.get_node_ip_address())
            self._listening = socket.create_server((own, 0), backlog=1024)
            for bundle, host in enumerate(reservation.hosts):
                self._actors[host.address] = self._actor(bundle)
            for name, host in zip(self._actors, reservation.hosts, strict=True):
                self.hosts.append(
                    ClusterHost(name, host.cores, self.run(name, join_network, interface, name))
                )
        except BaseException:
            self.close()
            raise

    def _actor(self, bundle: int) -> Any:
        host = self._reservation.hosts[bundle]
        strategy = PlacementGroupSchedulingStrategy(self._reservation.group, bundle)
        options = ray.remote(HostActor).options(
            num_cpus=host.bundle.get("CPU", 0), num_gpus=host.gpus, scheduling_strategy=strategy
        )
        return options.remote()

    def run(self, host: str, function: Callable[..., T], *args: Any) -> T:
        """Call a function of a module on a host, by its name, where the run's devices are visible.

        Raises:
            UserError: what the function raised, or areal does not start there.
        """
        try:
            return ray.get(self._actors[host].run.remote(function, *args), timeout=_START)
        except RayTaskError as failure:
            if isinstance(failure.cause, UserError):
                raise failure.cause from None
            raise
        except (RayError, GetTimeoutError) as failure:
            reason = str(failure).strip().splitlines()[-1][:300]
            raise UserError(
                f"areal does not start on host {host}: {reason}; install areal in Ray's Python there, "
                "or bring it by Ray's runtime_env"
            ) from failure

    def launch_on(self, host: str) -> Launch:
        """Return what starts workers on a host."""
        return partial(self._launch, host)

    async def _launch(
        self, host: str, name: str, environment: Mapping[str, str], factory: Any, *args: Any, **kwargs: Any
    ) -> ProcessHandle[Any]:
        pid, messages = await self._start(host, name, environment)
        handle = ProcessHandle[Any](name, RemoteProcess(self._actors[host], host, pid), messages)
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
            variables, paths = variables | dict(environment), [path for path in sys.path if path]
            actor = self._actors[host]
            pid = await actor.spawn.remote(address, token, name, variables, paths, os.getcwd())
            return pid, await asyncio.wait_for(connected, _SOON)
        except (RayTaskError, TimeoutError) as failure:
            raise UserError(
                f"{name} on host {host} cannot reach this process at {':'.join(map(str, address))}: "
                f"{getattr(failure, 'cause', failure)}; if hosts reach each other by another network "
                "interface, give it as ray.interface"
            ) from failure
        except RayError as failure:
            raise WorkerLost(f"{name} did not start: host {host} is gone") from failure
        except asyncio.CancelledError:
            if connected.done() and not connected.cancelled():
                connected.result().close()
            raise
        finally:
            del self._expected[token]  # a process that comes too late is shut out, and ends

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Take a connection for the worker that it is, and nothing before it has shown that it is one."""
        try:
            token = await asyncio.wait_for(reader.readexactly(_TOKEN), _SOON)
        except (TimeoutError, asyncio.IncompleteReadError, ConnectionError):
            token = b""
        if token not in self._expected:
            writer.close()
            return
        self._expected[token].set_result(Messages(reader, writer))

    def close(self) -> None:
        """End the actors, and with them what is left of the workers, and release the hosts."""
        if self._serving is not None and not self._serving.get_loop().is_closed():
            self._serving.result().close()
        self._listening.close()
        for actor in self._actors.values():
            ray.kill(actor)
        self._reservation.release()
