"""The Ray actor of a host, which starts workers on it, and the process of such a worker for the run."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, TypeVar

import ray
from ray.exceptions import RayError

from areal.workers.process import LocalProcess, spawn
from areal.workers.vitals import Vitals

T = TypeVar("T")

SOON = 30.0
"""Seconds for opening a connection, and for a running actor to answer."""
END = 10.0
"""Seconds for the report that a killed worker has ended, and for Ray to release the hosts."""


class HostActor:
    """Starts workers on its host; they end with this Ray actor.

    Args:
        paths: places where it and its workers look for modules, after the places of this host.
        folder: current folder of the run's process, which is also such a place if this host has it.
    """

    def __init__(self, paths: Sequence[str], folder: str) -> None:
        sys.path += [path for path in paths if path not in sys.path]
        with suppress(FileNotFoundError):
            os.chdir(folder)
        # Ray prints the output of this process in the run's process, whose standard output is for results.
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
        self._processes: dict[int, LocalProcess] = {}
        # Ray sets it according to the actor's cores; each worker gets its number of threads.
        os.environ.pop("OMP_NUM_THREADS", None)
        # By default Ray shows the GPUs in any order or, in some clusters, all of the host's.
        if gpus := ray.get_runtime_context().get_accelerator_ids().get("GPU"):
            os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(sorted(gpus, key=_by_number))

    async def spawn(
        self,
        run: tuple[str, int],
        token: bytes,
        name: str,
        environment: Mapping[str, str],
    ) -> int:
        """Start a worker.

        Args:
            run: address of the run's process, to which it connects.
            token: token by which that process recognizes it.
            name: name of the worker.
            environment: its environment variables in addition to those of this host.

        Returns:
            The number of its process.
        """
        end = await asyncio.to_thread(socket.create_connection, run, SOON)
        end.settimeout(None)
        end.sendall(token)
        process = await spawn(name, {**os.environ, **environment}, end)
        self._processes[process.pid] = process
        return process.pid

    async def wait(self, pid: int) -> str:
        """Wait for the end of a worker's process, and return how it ended."""
        return await self._processes[pid].wait()

    async def look(self, pid: int) -> list[Vitals]:
        """Return the kernel's data on a worker's process and its descendants."""
        return await self._processes[pid].look()

    async def stacks(self, pid: int, forced: bool) -> str:
        """Return the stacks of a worker's process and its descendants."""
        return await self._processes[pid].stacks(forced)

    async def kill(self, pid: int) -> None:
        """End a worker's process at once."""
        self._processes[pid].kill()

    async def run(self, function: Callable[..., T], *args: Any) -> T:
        """Call a function on this host."""
        return await asyncio.to_thread(function, *args)


def _by_number(gpu: str) -> tuple[int, int, str]:
    """Order GPUs by number, 10 after 9; those with a name (UUIDs, MIG) by name."""
    return (0, int(gpu), "") if gpu.isdigit() else (1, 0, gpu)


class RemoteProcess:
    """The process of a worker on another host; see :class:`areal.workers.process.WorkerProcess`.

    If its host no longer responds, a killed process counts as ended after a few seconds. Its handle then
    closes the connection, which actually ends the process.

    Args:
        actor: the actor that started it.
        host: its host.
        pid: its number on that host.
        lost: done when the cluster is lost; the result says how.
        lose: called when the host is gone.
    """

    def __init__(
        self, actor: Any, host: str, pid: int, lost: asyncio.Future[str], lose: Callable[[], None]
    ) -> None:
        self.pid, self.host, self._actor, self._lost, self._lose = pid, host, actor, lost, lose
        self._killed = asyncio.Event()

    async def wait(self) -> str:
        """Wait for its end, and briefly return how it ended."""
        looks = [asyncio.ensure_future(look) for look in (self._ended(), self._late())]
        try:
            done, _ = await asyncio.wait([*looks, self._lost], return_when=asyncio.FIRST_COMPLETED)
            return done.pop().result()
        finally:
            for look in looks:
                look.cancel()

    async def _ended(self) -> str:
        try:
            return f"{await self._actor.wait.remote(self.pid)}, on host {self.host}"
        except RayError:  # its type depends on what Ray notices first
            self._lose()
            return (
                f"host {self.host} is gone: it left the cluster, or Ray ended its actor there, as it does "
                "when memory runs out"
            )

    async def _late(self) -> str:
        await self._killed.wait()
        await asyncio.sleep(END)
        return f"killed, and host {self.host} has not answered for {END:g} s"

    async def look(self) -> list[Vitals]:
        """Return the kernel's data on it and on its descendants; empty: there is none."""
        try:
            return await self._actor.look.remote(self.pid)
        except RayError:  # wait detects the end of its host
            return []

    async def stacks(self, forced: bool) -> str:
        """Return the stacks of it and of its descendants."""
        try:
            return await self._actor.stacks.remote(self.pid, forced)
        except RayError:
            return ""

    def kill(self) -> None:
        """End the process at once."""
        self._actor.kill.remote(self.pid)
        self._killed.set()
