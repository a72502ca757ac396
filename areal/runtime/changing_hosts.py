"""Handles hosts of a cluster that join an active run, that are about to leave, or that are gone.

A run has as many hosts as at its start, plus up to ``ray.grow`` more. A host that joins the cluster while the
run has fewer gets engines, like the initial hosts. A host that the cluster is about to take away (a spot
notice, ``ray drain-node``) shuts down its engines gracefully and is released. On a host that is gone, no
engine starts again; the next host that joins takes its place. If it had ranks of the learner, the learner
restarts on hosts with room.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TypeVar

from areal.config import Config
from areal.errors import UserError, WorkerLost
from areal.placement.inventory import Host
from areal.placement.placement import Placement
from areal.runtime.host_checks import check_model_on_hosts, probe_host_of
from areal.runtime.membership import Membership
from areal.threads import CallThread
from areal.waiting import wait_all
from areal.workers.cluster import Cluster, ClusterHost

log = logging.getLogger(__name__)
T = TypeVar("T")

_LOOK = 2.0
"""Interval in seconds of checks; a spot host has 30 s or more."""


class ChangingHosts:
    """Observes the hosts, and starts and ends engines accordingly.

    Args:
        model: folder or hub id, which a new host must have.
        members: the engines of the run, at its start.
        notice: called with a line for the user.
        look: interval in seconds of checks.
    """

    def __init__(
        self,
        config: Config,
        model: str,
        cluster: Cluster,
        members: Membership,
        notice: Callable[[str], None],
        look: float = _LOOK,
    ) -> None:
        self._config, self._model, self._look = config, model, look
        self._cluster, self._members, self._notice = cluster, members, notice
        self._limit = len(cluster.hosts) + config.ray.grow
        self._joining, self._leaving, self._refused = set[str](), set[str](), set[str]()
        self._next_look = asyncio.Event()

    async def run(self) -> None:
        """Check the hosts forever."""
        async with asyncio.TaskGroup() as tasks:
            while True:
                await asyncio.sleep(self._look)
                looked, self._next_look = self._next_look, asyncio.Event()
                found = await _called(self._cluster.survey)
                for host in found.gone:
                    await _called(partial(self._cluster.release, host))
                # At the same time as the joins below, because a learner may have to wait for one.
                for host in found.gone:
                    self._forget(host)
                looked.set()
                for host, seconds in found.draining.items():
                    if host not in self._leaving:
                        self._leaving.add(host)
                        tasks.create_task(self._give_up(host, seconds))
                self._refused &= {*found.free}  # a host that comes back is considered again
                for host in found.free:
                    there = {each.name for each in self._cluster.hosts} - self._leaving | self._joining
                    if len(there) < self._limit and host not in self._refused | self._joining:
                        self._joining.add(host)
                        tasks.create_task(self._take(host))

    async def _take(self, name: str) -> None:
        """Start the engines of a host that has joined."""
        try:
            held = await _called(partial(self._cluster.hold, name))
            if held is None:
                return
            try:
                host = await _called(partial(self._probe, held))
            except (UserError, WorkerLost):
                await _called(partial(self._cluster.release, name))
                raise
            self._notice(f"host {name} has joined")
            self._members.open_host(host)
            await self._members.until_learner_is_placed()
            size = self._members.placement.tensor_parallel
            for _ in range(max(1, len(host.devices) // size)):
                await self._members.add(name)
        except (UserError, WorkerLost) as error:
            self._refused.add(name)
            self._notice(f"host {name} gets no engine: {error}")
        finally:
            self._joining.discard(name)

    def _probe(self, held: ClusterHost) -> Host:
        host = probe_host_of(self._cluster, held, self._config.device)
        check_model_on_hosts(self._cluster, [held.name], self._model)
        return host

    async def _give_up(self, name: str, seconds: float) -> None:
        """Let the engines of a host that will go away leave; half of the time is for their requests."""
        left, patience = ("", None) if seconds == math.inf else (f" in {seconds:.0f} s", seconds / 2)
        learner = "; the learner process on it stays until then" if self._learns(name) else ""
        self._notice(f"host {name} will leave{left}: its engines leave the run{learner}")
        self._members.close_host(name)
        try:
            engines, others = self._members.by_host(name)
            if engines and not others:
                await self._members.add()  # a run needs an engine
            await wait_all(*(self._members.remove(engine, patience) for engine in engines))
        except (UserError, WorkerLost) as error:
            self._notice(f"the engines of host {name} stay until it is gone: {error}")
            return
        if not self._learns(name):
            await _called(partial(self._cluster.release, name))
            self._leaving.discard(name)

    def _learns(self, name: str) -> bool:
        return name in [rank.host for rank in self._members.placement.ranks]

    def _forget(self, name: str) -> None:
        """Ensure that nothing starts again on a host that is gone."""
        self._notice(f"host {name} is gone")
        self._members.close_host(name, gone=True)
        self._leaving.discard(name)

    async def start_learner(self, start: Callable[[Placement], Awaitable[T]]) -> T:
        """Start the ranks of a lost learner, on other hosts if theirs are gone.

        Args:
            start: starts the ranks in a placement.

        Raises:
            UserError: there is no room.
            WorkerLost: a rank did not start.
        """
        while True:
            while self._members.stranded:
                try:
                    self._members.place_learner()
                except UserError:
                    if not self._joining:
                        raise
                    await asyncio.sleep(self._look)
            try:
                return await start(self._members.placement)
            except WorkerLost:
                await self._next_look.wait()  # the ranks may have been lost with their host
                if not self._members.stranded:
                    raise


async def _called(call: Callable[[], T]) -> T:
    """Make a call of the cluster on a thread that may be abandoned, because it may take minutes."""
    thread = CallThread("areal-hosts")
    called = thread.run(call)
    thread.end()
    return await called
