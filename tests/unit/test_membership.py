"""Engines join a run that goes on, and leave it: staleness holds, and no request is lost."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from inventories import H100, machine
from scripted_engines import Run, ScriptedEngine, assert_trained_well, run
from until import until

from areal.config import parse_config
from areal.errors import EngineLost, UserError
from areal.placement.placement import Placement, place
from areal.rollout.engine import Completion, Partial, Sampling
from areal.runtime.membership import Membership
from areal.runtime.restarts import Restarts


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    eta=st.sampled_from([0, 1, 3]),
    changes=st.lists(st.tuples(st.sampled_from(["add", "remove", "cut"]), st.integers(0, 9)), max_size=8),
    in_turn=st.booleans(),
)
def test_engines_come_and_go_at_random(seed: int, eta: int, changes: list[tuple[str, int]], in_turn: bool):
    """Staleness holds for every token, each group is trained on once, and none fails."""

    async def change(this: Run) -> None:
        for verb, which in changes:
            await asyncio.sleep(this.rng.random() / 50)
            names = list(this.engines.engines)
            if verb == "add":
                await this.members.add()
            elif len(names) == 1:
                with pytest.raises(UserError, match="is the last engine"):
                    await this.members.remove(names[0])
            else:
                await this.members.remove(names[which % len(names)], 0 if verb == "cut" else None)

    async def work() -> None:
        this = Run(seed, eta, in_turn=in_turn)
        await this.begin()
        _, batches = await asyncio.gather(change(this), this.train(12))
        assert_trained_well(this, batches, eta)
        adds = sum(verb == "add" for verb, _ in changes)
        assert len(this.made) == 1 + adds
        assert {e for e in this.made if not e.closed} == set(this.engines.engines.values())
        assert not this.announced or this.announced[-1][0] == set(this.engines.engines)

    run(work())


def test_one_that_joins_has_the_weights_of_now_before_its_first_request():
    async def work() -> None:
        this = Run(0, 1)
        await this.begin()
        for version in (1, 2, 3):
            await this.sync.publish(version)
        assert await this.members.add() == "engine 1"
        assert this.made[1].version == 3
        await this.sync.finish()
        rows = this.members.rows()
        assert [(row["engine"], row["where"], row["state"], row["version"]) for row in rows] == [
            ("0", "b", "runs", 3),
            ("1", "a", "runs", 3),
        ]
        assert this.notices == ["engine 1 starts on a", "engine 1 has joined: 2 engines"]
        await this.members.remove("engine 0", 5)
        assert this.announced == [({"engine 0", "engine 1"}, None), ({"engine 1"}, 5)]

    run(work())


def test_one_that_does_not_start_or_load_leaves_the_run_as_it_was():
    class Deaf(ScriptedEngine):
        async def load(self, version: int, digest: str = "") -> dict[str, float]:
            raise EngineLost("engine 2 cannot load")

    async def work() -> None:
        async def start(placement: Placement, number: int) -> tuple[str, ScriptedEngine]:
            if number == 1:
                raise EngineLost("engine 1 did not start")
            this.made.append(Deaf(this.rng))
            return f"engine {number}", this.made[-1]

        this = Run(0, 1, start=start)
        await this.begin()
        for text in ("engine 1 did not start", "engine 2 cannot load"):
            with pytest.raises(EngineLost, match=text):
                await this.members.add()
        assert this.made[-1].closed
        this.learner.sending.clear()  # the learner's part was given up
        await this.train(2)
        assert list(this.engines.engines) == ["engine 0"]
        assert [row["engine"] for row in this.members.rows()] == ["0"]

    run(work())


def test_what_leaves_finishes_or_after_its_limit_begins_again_elsewhere():
    async def work() -> None:
        this = Run(0, 1, engines=2)
        await this.begin()
        first = this.made[0]
        gate = asyncio.Event()

        async def waits(ids: list[int], sampling: Sampling, partial: Partial, **_: object) -> Completion:
            first.running += 1
            try:
                await gate.wait()
            finally:
                first.running -= 1
            return Completion([99], [0.0], [first.version], "eos")

        first.generate = waits  # type: ignore[method-assign]
        requests = [asyncio.ensure_future(this.engines.generate([n], Sampling(1))) for n in range(8)]
        await until(lambda: first.running)
        leaving = asyncio.ensure_future(this.members.remove("engine 0", 0.1))
        await asyncio.sleep(0)
        assert [row["state"] for row in this.members.rows()] == ["leaves", "runs"]
        with pytest.raises(UserError, match="is already leaving"):
            await this.members.remove("engine 0")
        with pytest.raises(UserError, match="engine 1 is the last engine"):
            await this.members.remove("engine 1")
        await leaving
        found = await asyncio.gather(*requests)
        assert all(99 not in completion.ids for completion in found), "of the second, also what had begun"
        assert this.engines.requests["engine 1"] == 8
        with pytest.raises(UserError, match="the run has no engine 0; choose one of engine 1"):
            await this.members.remove("engine 0")
        assert this.of("left") == [{"part": "engine 0"}]

    run(work())


def test_a_new_engine_takes_free_gpus_of_one_host():
    config = parse_config({"engine": {"count": 1}})
    placement = place(machine(H100, H100, H100), config)
    this = Run(0, 1)
    members = Membership(
        config,
        placement,
        this.sync,
        this.start,
        this.notices.append,
        this.announce,
        Restarts(0),
    )
    asyncio.run(_joined(this, members))
    assert [row["where"].partition(", ")[2] for row in members.rows()] == ["GPU 1", "GPU 2"]
    with pytest.raises(UserError, match=r"0 of 3 GPUs are free, and it needs 1 on one host"):
        asyncio.run(members.add())


async def _joined(this: Run, members: Membership) -> None:
    await this.begin()
    await members.add()
