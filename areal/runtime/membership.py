"""Engines that join and leave an active run, or are lost and replaced.

An engine joins between two loads of weights: it is connected to the learner alone, loads the version of the
others, and only then receives requests. One that leaves receives no new requests; those in flight finish or,
after a limit, continue on other engines. It loads new weights until then, and is closed between two loads. At
every moment, all engines that receive requests therefore have the gate's version or a newer one.

A broadcast's members cannot change, so after each change the present ones begin a new epoch of it
(:mod:`areal.weights.broadcast`). Shared memory and CUDA IPC connect each engine separately.

A lost engine receives no further requests, its requests in flight continue elsewhere
(:mod:`areal.rollout.engines`), and another one starts in its place, with its name and its devices, within the
budget of the run. It joins like any other. If there is no engine left, requests wait for it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

from areal.config import Config
from areal.errors import EngineLost, LearnerLost, TransferFailed, UserError
from areal.placement.inventory import Host, Inventory
from areal.placement.placement import EnginePlacement, Placement, place_another, place_learner
from areal.rollout.engine import SingleEngine
from areal.rollout.engines import Engines
from areal.runtime.control import Commands
from areal.runtime.learner_rank import LearnerRank
from areal.runtime.restarts import Restarts
from areal.runtime.weight_sync import WeightSync

log = logging.getLogger(__name__)

LIMIT = 180.0
"""Seconds for a new engine to connect and load its first weights; an update waits for as long."""

_LOOK = 1.0
"""Interval in seconds of checks whether a lost learner is back."""

StartEngine = Callable[[Placement, int], Awaitable[tuple[str, SingleEngine]]]
"""Starts the last engine of a placement, given its number; returns the engine's name and the engine."""
Announce = Callable[[Mapping[str, SingleEngine], float | None], Awaitable[None]]
"""Lets remote rollout workers use these engines from now on, and leave others within this many seconds."""


class Membership:
    """Starts and ends engines of an active run.

    Args:
        config: the run's configuration.
        placement: the placement of the run at its start.
        sync: loads the learner's weights in the engines of the run.
        start: starts an engine.
        notice: called with a line for the user.
        announce: called with the engines that receive requests, when they have changed.
        restarts: counts restarts, within the budget.
        log_event: records events.
    """

    def __init__(
        self,
        config: Config,
        placement: Placement,
        sync: WeightSync,
        start: StartEngine,
        notice: Callable[[str], None],
        announce: Announce,
        restarts: Restarts,
        log_event: Callable[..., None] = lambda event, **fields: None,
    ) -> None:
        assert isinstance(sync.engine, Engines)
        self._config, self._placement = config, placement
        self._engines, self._learner, self._sync = sync.engine, sync.learner, sync
        self._start, self._notice, self._announce = start, notice, announce
        self._placed = dict(zip(self._engines.engines, placement.engines, strict=True))
        self._next = len(self._placed)
        self._closed, self._gone = set[str](), set[str]()
        self._restarts, self._log_event = restarts, log_event
        self._leaving = set[str]()
        self._engines.on_lost, sync.reconnect = self._lose, self._reconnect

    @property
    def placement(self) -> Placement:
        """The placement of the learner, of the present engines, and of those that are starting."""
        return replace(self._placement, engines=tuple(self._placed.values()))

    def open_host(self, host: Host) -> None:
        """Allow engines to start on a host that has joined or come back."""
        hosts = {each.name: each for each in self._placement.inventory.hosts} | {host.name: host}
        self._placement = replace(self._placement, inventory=Inventory(tuple(hosts.values())))
        self._closed.discard(host.name)
        self._gone.discard(host.name)

    def close_host(self, name: str, gone: bool = False) -> None:
        """Prevent starts on a host that is gone or about to leave."""
        self._closed.add(name)
        if gone:
            self._gone.add(name)

    @property
    def stranded(self) -> list[int]:
        """The ranks of the learner on hosts that are gone."""
        return [number for number, rank in enumerate(self._placement.ranks) if rank.host in self._gone]

    def place_learner(self) -> None:
        """Place the ranks of the learner whose hosts are gone on other hosts.

        Raises:
            UserError: there is no room.
        """
        hosts = dict.fromkeys(self._placement.ranks[number].host for number in self.stranded)
        line = f"host {' and '.join(hosts)} is gone with learner rank {', '.join(map(str, self.stranded))}"
        try:
            found = place_learner(self.placement, self._config, self._closed)
        except UserError as full:
            raise UserError(f"{line}, and no other host has room: {full}") from full
        self._placement, self._placed = found, dict(zip(self._placed, found.engines, strict=True))
        self._notice(
            f"{line}: the learner starts on {' and '.join(dict.fromkeys(r.host for r in found.ranks))}"
        )

    async def until_learner_is_placed(self) -> None:
        """Wait while the learner must move, because it has the first choice of the free devices."""
        while self.stranded:  # noqa: ASYNC110 (place_learner or open_host ends it)
            await asyncio.sleep(_LOOK)

    def by_host(self, name: str) -> tuple[list[str], list[str]]:
        """Return the engines that receive requests: those with a part on a host, and the others."""
        there = [engine for engine in self._requested if name in self._placed[engine].hosts]
        return there, [engine for engine in self._requested if engine not in there]

    async def add(self, host: str | None = None) -> str:
        """Start one more engine and let it join; return its name.

        Args:
            host: the required host; None: any with a free device.

        Raises:
            UserError: there is no free device.
            EngineLost: it did not start, or did not load the weights in time; the run is unchanged.
        """
        number, self._next = self._next, self._next + 1
        placed = place_another(self.placement, self._config, host, self._closed)
        name = f"engine {number}"
        self._placed[name] = placed  # from now on its devices are taken
        self._notice(f"{name} starts on {_where(placed)}")
        try:
            await self._start_in(name)
        except BaseException:
            del self._placed[name]
            raise
        await self._announce(self._requested, None)
        self._notice(f"{name} has joined: {_count(self._engines)}")
        return name

    async def _start_in(self, name: str) -> None:
        """Start an engine in a place, and let it join.

        Raises:
            EngineLost: it did not start, or did not load the weights in time.
        """
        self._placed[name] = self._placed.pop(name)  # the last one is started
        _, engine = await self._start(self.placement, int(name.removeprefix("engine ")))
        try:
            await self._join(name, engine)
        except BaseException:
            await engine.close()
            raise

    async def _join(self, name: str, engine: SingleEngine) -> None:
        """Connect a started engine, load the weights, and let it receive requests.

        If the learner is lost in the meantime, the engine waits until it is back.

        Raises:
            EngineLost: it did not load the weights in time.
        """
        while not await self._joins(name, engine):
            await engine.connect([])  # otherwise it keeps memory of the lost learner
            await asyncio.sleep(_LOOK)

    async def _joins(self, name: str, engine: SingleEngine) -> bool:
        """Try to join, unless the learner is lost; return whether the engine now receives requests."""
        joined = False
        try:
            async with self._sync.between_loads() as version:
                try:
                    async with asyncio.timeout(LIMIT):
                        [info] = await self._infos([self._placed[name]])
                        await engine.connect([info])
                        await self._sync.load_in(name, engine, version)
                    self._engines.add(name, engine)
                    joined = True
                except TimeoutError as error:
                    raise EngineLost(f"{name} has not loaded the weights within {LIMIT:g} s") from error
                except TransferFailed as error:
                    raise EngineLost(f"{name} did not receive the weights: {error}") from error
                finally:
                    await self._sync.renew()
        except LearnerLost as lost:
            log.warning("%s could not join: %s", name, lost)
        return joined

    def _lose(self, name: str, engine: SingleEngine, error: EngineLost) -> None:
        """Continue without an engine, and start another one in its place."""
        self._sync.lose()
        self._log_event("lost", part=name, cause=str(error))
        self._sync.watch.add(self._replace(name, engine, error, name in self._leaving))

    async def _replace(self, name: str, engine: SingleEngine, error: EngineLost, leaves: bool) -> None:
        """Close a lost engine, and start others in its place until one has joined, unless it was leaving.

        Raises:
            EngineLost: this has happened too often.
        """
        begun = time.monotonic()
        await engine.close()
        if leaves:
            return
        self._restarts.allow(name, error)
        others = f"the run continues with {_count(self._engines)}"
        now = others if self._engines.engines else "requests wait until then"
        self._notice(f"{name} was lost: {error}; a new one replaces it, and {now} (its output: engine.log)")
        await self._announce(self._requested, None)
        with self._sync.watch.waits.named("the run", f"{name} to restart"):
            if not await self._replaced(name):
                return
        await self._announce(self._requested, None)
        seconds = time.monotonic() - begun
        self._log_event("restarted", part=name, seconds=seconds)
        self._notice(f"{name} is back after {seconds:.0f} s: {_count(self._engines)}")

    async def _replaced(self, name: str) -> bool:
        """Start engines in a place, or elsewhere if its host is gone, until one has joined.

        Returns:
            Whether one has joined; if not, there is no place for it, and the run has other engines.
        """
        while True:
            if not self._closed.isdisjoint(self._placed[name].hosts):
                await self.until_learner_is_placed()
                del self._placed[name]
                try:
                    self._placed[name] = place_another(self.placement, self._config, None, self._closed)
                except UserError as full:
                    self._notice(f"{name} cannot be replaced, because its host is gone: {full}")
                    await self._engines.until_there()  # another host may provide one
                    return False
            try:
                await self._start_in(name)
            except EngineLost as error:
                self._restarts.allow(name, error)
                self._notice(f"{name} did not restart: {error}; areal tries again")
            else:
                return True

    async def remove(self, name: str, patience: float | None = None) -> None:
        """Let an engine leave, and close it.

        Args:
            name: name of the engine.
            patience: seconds after which its requests in flight begin again on others; None: they finish.

        Raises:
            UserError: the engine does not exist, or is the last one.
        """
        if name not in self._engines.engines:
            raise UserError(f"the run has no {name}; choose one of {', '.join(self._engines.engines)}")
        if name in self._engines.leaving:
            raise UserError(f"{name} is already leaving; wait until it has left")
        if len(self._requested) == 1:
            raise UserError(f"{name} is the last engine, and a run needs one; add another one first")
        self._engines.retire(name)
        self._leaving.add(name)
        self._notice(f"{name} is leaving")
        try:
            await self._announce(self._requested, patience)
            await self._engines.drain(name, patience)
            async with self._sync.between_loads():
                if name in self._engines.engines:  # else it was lost
                    engine = self._engines.remove(name)
                    if self._placed[name].backend == "broadcast":
                        await self._sync.renew()
                    await engine.close()
        finally:
            self._leaving.discard(name)
        del self._placed[name]
        self._log_event("left", part=name)
        self._notice(f"{name} has left: {_count(self._engines)}")

    @property
    def _requested(self) -> dict[str, SingleEngine]:
        """The engines that receive requests."""
        leaving = self._engines.leaving
        return {name: engine for name, engine in self._engines.engines.items() if name not in leaving}

    @property
    def commands(self) -> Commands:
        """The commands of the run's control socket."""

        async def rows() -> list[dict[str, Any]]:
            return self.rows()

        async def remove(engine: str, patience: float | None = None) -> None:
            await self.remove(f"engine {engine}", patience)

        return {"list": rows, "add": self.add, "remove": remove}

    def rows(self) -> list[dict[str, Any]]:
        """Return the data of each engine."""
        engines, leaving = self._engines, self._engines.leaving
        found = []
        for name, placed in self._placed.items():
            engine = engines.engines.get(name)
            state = "starts" if engine is None else "leaves" if name in leaving else "runs"
            row: dict[str, Any] = {"engine": name.removeprefix("engine "), "where": _where(placed)}
            row |= {"weights": placed.backend, "state": state}
            if engine is not None:
                row |= {
                    "version": engine.version,
                    "in_flight": engines.in_flight[name],
                    "requests": engines.requests[name],
                }
            found.append(row)
        return found

    async def connect_all(self) -> None:
        """Connect all engines to a restarted learner, between loads."""
        await self._open(self._there(), LearnerRank.open_sender, self._placement.tensor_parallel)

    async def _reconnect(self) -> None:
        """Begin an epoch of the broadcast with the present engines."""
        await self._open(self._there("broadcast"), LearnerRank.reopen_sender)

    def _there(self, *only: str) -> dict[str, EnginePlacement]:
        """Return the placements of engines with one of these backends, or with any."""
        there = {name: self._placed[name] for name in self._engines.engines}
        return {name: placed for name, placed in there.items() if not only or placed.backend in only}

    async def _open(self, there: Mapping[str, EnginePlacement], method: Any, *args: Any) -> None:
        """Open the learner's weight sender to engines with a method, and connect the remaining ones."""
        infos = await self._infos(there.values(), method, *args)
        left = [
            (name, info) for name, info in zip(there, infos, strict=True) if name in self._engines.engines
        ]
        await self._engines.connect_some(dict(left))

    async def _infos(
        self, placed: Iterable[EnginePlacement], method: Any = LearnerRank.reopen_sender, *args: Any
    ) -> list[dict[str, Any]]:
        """Open the learner's weight sender to engines; return the data with which each connects."""
        backends = [each.backend for each in placed if each.backend is not None]
        return await self._learner.call(method, backends, *args)


def _where(placed: EnginePlacement) -> str:
    gpus = ", ".join(str(device.index) for device in placed.devices)
    return f"{placed.host}, GPU {gpus}" if gpus else placed.host


def _count(engines: Engines) -> str:
    count = len(engines.engines)
    return f"{count} engine{'s' * (count != 1)}"
