"""Hosts join a run that goes on, are drained, are gone, and come back: what becomes of engines."""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import Callable
from typing import Any

import pytest
from scripted_engines import Run, run

from areal.config import override_config
from areal.errors import UserError, WorkerLost
from areal.placement.placement import Placement
from areal.runtime.changing_hosts import ChangingHosts
from areal.workers.cluster import ClusterHost, Survey


class ScriptedCluster:
    """Two hosts, a and b, and others that are free; all of them are this machine."""

    def __init__(self) -> None:
        self.hosts = [ClusterHost(name, 2, name) for name in "ab"]
        self.free, self.draining, self.gone = set[str](), dict[str, float](), set[str]()
        self.broken, self.asked = set[str](), list[str]()
        self.surveys = 0

    def survey(self) -> Survey:
        self.surveys += 1
        held = {host.name for host in self.hosts}
        return Survey(
            tuple(sorted(self.free - held)),
            {name: left for name, left in self.draining.items() if name in held},
            tuple(sorted(self.gone & held)),
        )

    def hold(self, name: str) -> ClusterHost | None:
        self.asked.append(name)
        if name in self.broken:
            raise UserError(f"areal does not start on host {name}")
        self.hosts.append(ClusterHost(name, 2, name))
        return self.hosts[-1]

    def release(self, name: str) -> None:
        self.hosts = [host for host in self.hosts if host.name != name]

    def run(self, host: str, function: Callable[..., Any], *args: Any) -> Any:
        return function(*args)


class Changing:
    """A run on such a cluster: the learner on a, of one engine b has it."""

    def __init__(self, grow: int = 0, engines: int = 1) -> None:
        self.run = Run(0, 1, engines=engines)
        self.cluster: Any = ScriptedCluster()
        config = override_config(self.run.config, [f"ray.grow={grow}"])
        self.changing = ChangingHosts(
            config, "starter", self.cluster, self.run.members, self.run.notices.append, look=0.01
        )

    async def __aenter__(self) -> Changing:
        await self.run.begin()
        self.looking = asyncio.ensure_future(self.changing.run())
        return self

    async def __aexit__(self, *_: Any) -> None:
        assert not self.looking.done(), self.looking.exception()
        self.looking.cancel()
        await asyncio.gather(self.looking, return_exceptions=True)

    def where(self) -> dict[str, str]:
        return {row["engine"]: row["where"] for row in self.run.members.rows() if row["state"] == "runs"}

    async def placed(self, where: dict[str, str]) -> None:
        """Wait until these are the engines."""
        await self.until(lambda: self.where() == where)

    async def until(self, true: Callable[[], bool]) -> None:
        while not true():
            assert not self.looking.done(), self.looking.exception()
            await asyncio.sleep(0.01)

    async def passes(self) -> None:
        """Wait until it has looked several times."""
        before = self.cluster.surveys
        await self.until(lambda: self.cluster.surveys > before + 10)


def test_a_host_that_joins_gets_an_engine_up_to_the_limit():
    async def work() -> None:
        async with Changing(grow=1) as this:
            this.cluster.free |= {"c", "d"}
            await this.placed({"0": "b", "1": "c"})
            await this.passes()
            assert this.cluster.asked == ["c"]
            batches = await this.run.train(3)
            assert all(group.version >= 0 for batch in batches for group in batch)
            assert this.run.made[1].version == 3

    run(work())


def test_without_growth_a_host_is_taken_only_for_one_that_is_gone():
    async def work() -> None:
        async with Changing(engines=2) as this:
            this.cluster.free.add("c")
            await this.passes()
            assert this.where() == {"0": "b", "1": "a"}
            this.cluster.gone.add("b")
            await this.placed({"0": "b", "1": "a", "2": "c"})  # what was there is for others to replace
            assert "host b is gone" in this.run.notices
            await this.run.members.add()
            assert "b" not in this.where()["3"], "none starts there again"
            this.cluster.gone.remove("b")
            this.cluster.free = {"b"}
            this.cluster.gone.add("c")
            await this.until(lambda: "b" in [host.name for host in this.cluster.hosts])
            assert this.cluster.asked == ["c", "b"]

    run(work())


def test_a_host_that_drains_gives_up_its_engine_and_the_last_one_gets_another_first():
    async def work() -> None:
        async with Changing() as this:
            this.cluster.draining["b"] = 20.0
            training = asyncio.ensure_future(this.run.train(6))
            await this.placed({"1": "a"})
            await this.until(lambda: len(this.cluster.hosts) == 1)
            assert this.run.made[0].closed
            await training
            assert this.run.announced[-1][1] == 10.0
            assert this.run.notices[0] == "host b will leave in 20 s: its engines leave the run"
            this.cluster.free.add("c")  # comes in its place
            await this.placed({"1": "a", "2": "c"})

    run(work())


def test_a_host_with_the_learner_stays_until_it_is_gone():
    async def work() -> None:
        async with Changing(engines=2) as this:
            this.cluster.draining["a"] = math.inf
            await this.placed({"0": "b"})
            await this.passes()
            assert len(this.cluster.hosts) == 2
            assert "host a will leave: its engines leave the run; the learner process on it" in str(
                this.run.notices
            )

    run(work())


def test_a_host_that_lacks_something_is_asked_once():
    async def work() -> None:
        async with Changing(grow=2) as this:
            this.cluster.broken.add("c")
            this.cluster.free |= {"c", "d"}
            await this.placed({"0": "b", "1": "d"})
            await this.passes()
            assert sorted(this.cluster.asked) == ["c", "d"]
            assert "host c gets no engine: areal does not start on host c" in this.run.notices
            this.cluster.free.remove("c")
            await this.passes()
            this.cluster.broken.clear()
            this.cluster.free.add("c")
            await this.placed({"0": "b", "1": "d", "2": "c"})

    run(work())


async def where_it_starts(placement: Placement) -> list[str]:
    return [rank.host for rank in placement.ranks]


def test_a_learner_whose_host_is_gone_starts_on_another():
    async def work() -> None:
        async with Changing() as this:
            assert await this.changing.start_learner(where_it_starts) == ["a"]

            async def start(placement: Placement) -> list[str]:
                hosts = await where_it_starts(placement)
                if hosts == ["a"]:  # as Ray says it, before anybody has looked
                    this.cluster.gone.add("a")
                    raise WorkerLost("learner rank 0 did not start: host a is gone")
                return hosts

            assert await this.changing.start_learner(start) == ["b"]
            assert this.run.members.placement.backends == ["shared memory"], "it was a broadcast"
            assert this.run.notices == [
                "host a is gone",
                "host a is gone with learner rank 0: the learner starts on b",
            ]
            this.cluster.gone.add("b")
            await this.until(lambda: bool(this.run.members.stranded))
            line = "^host b is gone with learner rank 0, and no other host has room: .* no other host is"
            with pytest.raises(UserError, match=line):
                await this.changing.start_learner(start)

    run(work())


def test_a_learner_that_has_no_host_waits_for_one_that_joins_and_comes_before_engines():
    async def work() -> None:
        async with Changing() as this:
            holding = threading.Event()
            hold = this.cluster.hold
            this.cluster.hold = lambda name: holding.wait(30) and hold(name)
            this.cluster.gone |= {"a", "b"}
            this.cluster.free.add("c")
            await this.until(lambda: bool(this.run.members.stranded))
            starting = asyncio.ensure_future(this.changing.start_learner(where_it_starts))
            await this.passes()
            assert not starting.done()
            assert len(this.run.members.rows()) == 1
            holding.set()
            assert await starting == ["c"]
            await this.placed({"0": "b", "1": "c"})

    run(work())


def test_what_else_a_rank_fails_of_is_raised():
    async def work() -> None:
        async def start(placement: Placement) -> list[str]:
            raise WorkerLost("learner rank 0 ended: killed by SIGKILL")

        async with Changing() as this:
            with pytest.raises(WorkerLost, match="SIGKILL"):
                await this.changing.start_learner(start)

    run(work())
