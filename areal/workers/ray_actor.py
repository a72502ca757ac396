"""The actor of Ray's on a host, which starts workers there, and a worker's process as the run knows it."""

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
"""Seconds for a connection to come about, and for an actor that runs to answer."""
END = 10.0
"""Seconds for word that a killed worker has ended, and for Ray to take the hosts back."""


class HostActor:
    """Starts workers on its host; an actor of Ray's, with whose end they end.

    Args:
        paths: where it and its workers look for modules, after the places of this host.
        folder: the current one of the run's process, in which they are, too, if this host has it.
    """

    def __init__(self, paths: Sequence[str], folder: str) -> None:
        sys.path += [path for path in paths if path not in sys.path]
        with suppress(FileNotFoundError):
            os.chdir(folder)
        # Ray prints in the run's process what is printed here: its standard output is for results.
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
        self._processes: dict[int, LocalProcess] = {}
        # Ray sets it by the cores that an actor asks for; each worker gets its number of threads.
        os.environ.pop("OMP_NUM_THREADS", None)
        # By itself Ray shows them in any order, or, as some clusters are set up, shows all of the host's.
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
            token: by which that process knows it.
            name: of the worker.
            environment: variables that it has besides those of this host.

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
        """Return how a worker's process has ended, once it has."""
        return await self._processes[pid].wait()

    async def look(self, pid: int) -> list[Vitals]:
        """Return what the kernel knows of a worker's process and of those below it."""
        return await self._processes[pid].look()

    async def stacks(self, pid: int, forced: bool) -> str:
        """Return where a worker's process and those below it are."""
        return await self._processes[pid].stacks(forced)

    async def kill(self, pid: int) -> None:
        """End a worker's process at once."""
        self._processes[pid].kill()

    async def run(self, function: Callable[..., T], *args: Any) -> T:
        """Call a function on this host."""
        return await asyncio.to_thread(function, *args)


def _by_number(gpu: str) -> tuple[int, int, str]:
    """Order GPUs by number, 10 after 9; those that have a name (UUIDs, MIG) by that."""
    return (0, int(gpu), "") if gpu.isdigit() else (1, 0, gpu)


class RemoteProcess:
    """The process of a worker on another host; see :class:`areal.workers.process.WorkerProcess`.

    If its host does not answer any more, a killed process counts as ended after a few seconds. Its handle
    then closes the connection, with which it ends in fact.

    Args:
        actor: that has started it.
        host: where it is.
        pid: its number there.
        lost: done when the cluster is; the result says how.
        lose: called when the host is gone.
    """

    def __init__(
        self, actor: Any, host: str, pid: int, lost: asyncio.Future[str], lose: Callable[[], None]
    ) -> None:
        self.pid, self.host, self._actor, self._lost, self._lose = pid, host, actor, lost, lose
        self._killed = asyncio.Event()

    async def wait(self) -> str:
        """Return how it ended, in a few words."""
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
        except RayError:  # of several kinds, by what Ray finds first
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
        """Return what the kernel knows of it and of those below it; empty: nothing."""
        try:
            return await self._actor.look.remote(self.pid)
        except RayError:  # the end of its host is found by wait
            return []

    async def stacks(self, forced: bool) -> str:
        """Return where it and the processes below it are."""
        try:
            return await self._actor.stacks.remote(self.pid, forced)
        except RayError:
            return ""

    def kill(self) -> None:
        """End it at once."""
        self._actor.kill.remote(self.pid)
        self._killed.set()
