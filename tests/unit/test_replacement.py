"""Engines of a run die: their requests go on elsewhere, and others start in their places."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from inventories import host
from scripted_engines import Run, ScriptedEngine, assert_trained_well, run

from areal.errors import EngineLost, LearnerLost, UserError
from areal.placement.placement import Placement
from areal.rollout.engine import Sampling


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    eta=st.sampled_from([0, 1, 3]),
    engines=st.integers(1, 3),
    changes=st.lists(st.sampled_from(["add", "remove", "cut", "die", "die"]), max_size=8),
    in_turn=st.booleans(),
)
def test_engines_die_at_random(seed: int, eta: int, engines: int, changes: list[str], in_turn: bool):
    """All holds as if none had died, and in the place of each another one starts."""

    async def change(this: Run) -> None:
        for verb in changes:
            await asyncio.sleep(this.rng.random() / 50)
            alive = [engine for engine in this.made if not engine.dead.is_set() and not engine.closed]
            if verb == "add":
                with suppress(EngineLost):
                    await this.members.add()
            elif verb == "die" and alive:
                this.learner.deaths += 1
                this.rng.choice(alive).die()
            elif this.engines.engines:
                with suppress(UserError):
                    name = this.rng.choice(list(this.engines.engines))
                    await this.members.remove(name, 0 if verb == "cut" else None)

    async def work() -> None:
        async def start(placement: Placement, number: int) -> tuple[str, ScriptedEngine]:
            if this.rng.random() < 0.2:
                raise EngineLost(f"engine {number} did not start")
            return await this.start(placement, number)

        this = Run(seed, eta, engines, start, in_turn)
        await this.begin()
        this.learner.deaths = 1  # from now on
        _, batches = await asyncio.gather(change(this), this.train(12))
        while any(engine.dead.is_set() and not engine.closed for engine in this.made) or {
            row["state"] for row in this.members.rows()
        } != {"runs"}:
            await this.watch.check()
            await asyncio.sleep(0.01)
        assert_trained_well(this, batches, eta)
        assert {e for e in this.made if not e.closed} == set(this.engines.engines.values())
        assert all(engine.version == this.learner.version for engine in this.engines.engines.values())
        lost, restarted = ([fields["part"] for fields in this.of(name)] for name in ("lost", "restarted"))
        assert Counter(restarted) <= Counter(lost), "none comes back that was not lost"
        loaded = this.of("loaded")
        assert {fields["version"] for fields in loaded} >= {engine.version for engine in this.made} - {-1}
        assert all(fields["digest"] == f"digest of {fields['version']}" for fields in loaded)
        assert all("pause" in fields for fields in loaded)
        published = this.of("published")
        assert all("seconds" in fields for fields in published if "of_new_learner" not in fields)

    run(work())


async def settled(this: Run) -> None:
    """Wait until all that were lost are replaced; raises what ends the run."""
    while len(this.of("restarted")) < len(this.of("lost")):
        await this.watch.check()
        await asyncio.sleep(0.01)


def test_what_is_lost_comes_back_as_often_as_the_budget_allows():
    async def work() -> None:
        this = Run(0, 1, max_restarts=1)
        await this.begin()
        waiting = asyncio.ensure_future(this.watch.wait(asyncio.Event().wait(), "the learner", "a batch"))
        this.engines.lose("engine 0", EngineLost("vLLM has died"))
        assert [(row["engine"], row["state"]) for row in this.members.rows()] == [("0", "starts")]
        await asyncio.sleep(0)
        assert ("the run", "engine 0 to restart") in [(w.who, w.what) for w in this.watch.waits.now]
        await settled(this)
        assert this.made[0].closed
        assert this.made[1].version == 0
        assert this.notices[0] == (
            "engine 0 was lost: vLLM has died; a new one replaces it, and requests wait until then "
            "(its output: engine.log)"
        )
        assert this.notices[1].startswith("engine 0 is back after ")
        this.engines.lose("engine 0", EngineLost("something else"))
        with pytest.raises(EngineLost, match=r"^vLLM has died; engine 0 was restarted 1 time within"):
            await waiting
        assert this.made[1].closed

    run(work())


@pytest.mark.parametrize("calls", [1, 2, 3])
def test_an_engine_that_has_started_joins_when_a_learner_that_was_lost_is_back(calls: int):
    """The learner is lost when it is asked to connect it, in the middle of the load, or just after that."""

    async def work() -> None:
        this = Run(0, 1)
        await this.begin()
        learner, left, lost = this.learner, calls, asyncio.Event()
        alive = learner.call

        async def call(method: Any, *args: Any) -> Any:
            nonlocal left
            left -= 1
            if left == 0:
                lost.set()
                learner.deaths += 1
                async with learner.joined:  # what is connected to it notices
                    learner.epoch += 1
                    learner.joined.notify_all()
            if lost.is_set():
                raise LearnerLost("learner rank 0 ended")
            return await alive(method, *args)

        learner.call = call
        this.sync.connect = this.sync.renew
        this.engines.lose("engine 0", EngineLost("died"))
        await lost.wait()
        await asyncio.sleep(0.1)
        lost.clear()
        async with this.sync.between_loads():
            await this.sync.start(1)
        await settled(this)
        assert len(this.made) == 2, "it did not start twice"
        assert not this.made[1].closed
        assert this.made[1].version == 1
        await this.sync.publish(2)
        await this.sync.finish()
        assert this.made[1].version == 2

    run(work())


def test_an_engine_whose_host_is_gone_starts_on_another_one():
    async def work() -> None:
        this = Run(0, 1, engines=2)
        await this.begin()
        assert [row["where"] for row in this.members.rows()] == ["b", "a"]
        this.members.close_host("b")
        this.engines.lose("engine 0", EngineLost("host b is gone"))
        await settled(this)
        assert [(row["engine"], row["where"]) for row in this.members.rows()] == [("1", "a"), ("0", "a")]
        assert this.announced[-1] == ({"engine 0", "engine 1"}, None)
        this.members.close_host("a")
        for name in ("engine 0", "engine 1"):
            this.engines.lose(name, EngineLost("host a is gone"))
        while len(this.notices) < 6:
            await this.watch.check()
            await asyncio.sleep(0.01)
        assert "engine 1 cannot be replaced, because its host is gone: no room" in this.notices[-1]
        assert await this.sync.publish(1) == {}
        this.members.open_host(host([], "c"))
        await this.members.add("c")
        assert [(row["engine"], row["where"]) for row in this.members.rows()] == [("2", "c")]
        await this.engines.generate([1], Sampling(4))
        await this.watch.close()

    run(work())


def test_one_that_loaded_other_weights_than_were_sent_is_replaced():
    class Wrong(ScriptedEngine):
        async def load(self, version: int, digest: str = "") -> dict[str, float]:
            found = await super().load(version, digest)
            if version == 2:
                raise EngineLost("what came is not what the learner sent")
            return found

    async def work() -> None:
        this = Run(0, 0, engines=2)
        this.engines.engines["engine 1"].__class__ = Wrong  # type: ignore[assignment]
        await this.begin()
        await this.sync.publish(1)
        await this.sync.publish(2)
        await settled(this)
        [lost] = this.of("lost")
        assert lost["part"] == "engine 1"
        assert "what came is not what the learner sent" in lost["cause"]
        assert [engine.version for engine in this.engines.engines.values()] == [2, 2]

    run(work())
