"""Several engines as one: who gets which request, what all have in common, and how a death ends all."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Coroutine
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from areal.errors import EngineLost
from areal.rollout.engine import Completion, Sampling
from areal.rollout.engines import Engines, choose, max_in_flight


class Scripted:
    """Answers when it is told to, with what the request's seed says; or dies."""

    def __init__(self, busy: float = 0.0) -> None:
        self.version, self.busy_seconds = 0, busy
        self.asked: list[list[int]] = []
        self.gate = asyncio.Event()
        self.error: Exception | None = None
        self.closed = False
        self.given_up = False

    async def generate(self, ids: list[int], sampling: Sampling) -> Completion:
        self.asked.append(ids)
        await self.gate.wait()
        if self.error is not None:
            raise self.error
        return Completion([random.Random(sampling.seed).randrange(100)], [0.0], [self.version], "eos")

    async def connect(self, init_infos: list[dict[str, Any]]) -> None:
        [self.info] = init_infos

    async def load(self, version: int) -> dict[str, float]:
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.given_up = True
            raise
        if self.error is not None:
            raise self.error
        self.version = version
        return {"time/pause": self.busy_seconds, "time/load": -self.busy_seconds}

    async def close(self) -> None:
        self.closed = True
        if self.error is not None:
            raise self.error


def run(work: Coroutine[Any, Any, None]) -> None:
    async def limited() -> None:
        async with asyncio.timeout(10):
            await work

    asyncio.run(limited())


@given(
    count=st.integers(2, 5),
    events=st.lists(st.tuples(st.integers(0, 6), st.booleans()), max_size=120),
)
def test_no_engine_is_given_more_than_its_bound_and_who_has_room_keeps_his(
    count: int, events: list[tuple[int, bool]]
):
    in_flight, running = [0] * count, list[int]()
    for beginning, ends in events:
        if ends and running:
            in_flight[running.pop(0)] -= 1
            continue
        total = sum(in_flight) + 1
        engine, home = choose([beginning] * 64, in_flight), choose([beginning] * 99, [0] * count)
        assert engine == home or in_flight[home] >= max_in_flight(total, count)
        assert engine == home or in_flight[engine] == min(in_flight)
        in_flight[engine] += 1
        running.append(engine)
        assert in_flight[engine] <= max_in_flight(total, count)


@given(requests=st.integers(0, 400), count=st.integers(1, 9))
def test_requests_that_begin_alike_use_all_engines(requests: int, count: int):
    in_flight = [0] * count
    for _ in range(requests):
        in_flight[choose([1, 2, 3], in_flight)] += 1
    assert max(in_flight) <= max_in_flight(requests, count) <= max(requests / count * 1.25 + 1, 1)
    assert min(in_flight) >= requests // count // 2
    assert max_in_flight(requests, 1) == requests


def test_conversations_are_spread_and_their_turns_stay():
    homes = Counter(choose([7, 7, number], [0, 0, 0]) for number in range(300))
    assert min(homes.values()) > 70
    for number in range(50):
        start = [number] * 64
        assert len({choose(start + [turn] * turn, [0, 0, 0]) for turn in range(9)}) == 1


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2**60)), min_size=1, max_size=40))
def test_all_requests_are_answered_by_their_seeds_whoever_answers(requests: list[tuple[int, int]]):
    async def work() -> None:
        engines = [Scripted(), Scripted(), Scripted()]
        several, alone = Engines(engines), Scripted()
        for engine in [*engines, alone]:
            engine.gate.set()
        together = await asyncio.gather(*(several.generate([b], Sampling(1, seed=s)) for b, s in requests))
        assert list(together) == [await alone.generate([b], Sampling(1, seed=s)) for b, s in requests]
        assert [len(engine.asked) for engine in engines] == several.requests
        assert sum(several.requests) == len(requests)
        assert several.in_flight == [0, 0, 0], "nothing is left"

    run(work())


def test_a_load_is_over_when_all_have_loaded_and_tells_the_worst():
    async def work() -> None:
        engines = [Scripted(1.0), Scripted(4.0)]
        several = Engines(engines)
        await several.connect([{"rank": 1}, {"rank": 2}])
        assert [engine.info["rank"] for engine in engines] == [1, 2]
        assert several.busy_seconds == 2.5
        loading = asyncio.create_task(several.load(3))
        engines[0].gate.set()
        await asyncio.sleep(0.01)
        assert engines[0].version == 3, "it did not wait for the other"
        assert not loading.done()
        assert several.version == 0
        engines[1].gate.set()
        assert await loading == {"time/pause": 4.0, "time/load": -1.0}
        assert several.version == 3
        await several.close()

    run(work())


def test_one_that_died_ends_all_at_once():
    async def work() -> None:
        engines = [Scripted(), Scripted()]
        several = Engines(engines)
        requests = [asyncio.create_task(several.generate([1], Sampling(1))) for _ in range(4)]
        await asyncio.sleep(0)
        engines[1].error = EngineLost("engine 1")
        engines[1].gate.set()
        await asyncio.wait(requests, return_when=asyncio.FIRST_EXCEPTION)
        for _ in range(9):
            with pytest.raises(EngineLost, match="engine 1") as found:
                await several.generate([1], Sampling(1))
            assert len(found.traceback) == 3, "the same error again, not a longer one"
        with pytest.raises(EngineLost, match="engine 1"):
            await several.load(1)
        for request in requests:
            request.cancel()
        await asyncio.gather(*requests, return_exceptions=True)
        assert several.in_flight == [0, 0]
        with pytest.raises(EngineLost):
            await several.close()
        assert engines[0].closed
        assert engines[1].closed

    run(work())


def test_an_error_of_one_request_is_its_own():
    async def work() -> None:
        engines = [Scripted(), Scripted()]
        several = Engines(engines)
        for engine in engines:
            engine.gate.set()
            engine.error = ValueError("too long")
        with pytest.raises(ValueError, match="too long"):
            await several.generate([1], Sampling(1))
        for engine in engines:
            engine.error = None
        await several.generate([1], Sampling(1))

    run(work())


def test_a_load_that_fails_gives_up_the_others():
    async def work() -> None:
        engines = [Scripted(), Scripted()]
        engines[1].error = EngineLost("engine 1")
        engines[1].gate.set()
        with pytest.raises(EngineLost, match="engine 1"):
            await Engines(engines).load(1)
        assert engines[0].given_up

    run(work())
