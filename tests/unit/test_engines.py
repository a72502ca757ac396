"""Several engines as one: who gets which request, what all have in common, and how a death ends all."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from toys import Counting, Toy
from until import stopped, until

from areal.errors import EngineLost, TransferFailed, WorkerLost, WrongNumbers
from areal.rollout.engine import Completion, Partial, Sampling
from areal.rollout.engines import Engines
from areal.runtime.worker_engine import WorkerEngine
from areal.workers import process


class Scripted:
    """Answers when it is told to, with what the request's seed says; or dies."""

    def __init__(self, busy: float = 0.0) -> None:
        self.version, self.busy_seconds = 0, busy
        self.asked: list[list[int]] = []
        self.sampling: list[Sampling] = []
        self.known: Partial | None = None
        self.gate = asyncio.Event()
        self.error: Exception | None = None
        self.closed = False
        self.given_up = False
        self.loading = False

    def watch(self, lost: Callable[[EngineLost], None]) -> None:
        self.lost = lost

    async def generate(
        self, ids: list[int], sampling: Sampling, partial: Partial | None = None, *, images: object = ()
    ) -> Completion:
        self.asked.append(ids)
        self.sampling.append(sampling)
        if partial is not None and self.known is not None:
            partial.extend(self.known)
        await self.gate.wait()
        if self.error is not None:
            raise self.error
        return Completion([random.Random(sampling.seed).randrange(100)], [0.0], [self.version], "eos")

    async def connect(self, init_infos: list[dict[str, Any]]) -> None:
        [self.info] = init_infos

    async def load(self, version: int, digest: str = "") -> dict[str, float]:
        self.loading = True
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.given_up = True
            raise
        finally:
            self.loading = False
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
        async with asyncio.timeout(60):
            await work

    asyncio.run(limited())


def named(engines: list[Scripted]) -> Engines:
    return Engines({f"engine {number}": engine for number, engine in enumerate(engines)})


def test_episodes_of_a_task_and_turns_of_an_episode_meet_on_one_engine():
    async def work() -> None:
        engines = [Scripted() for _ in range(5)]
        several = named(engines)
        for engine in engines:
            engine.gate.set()
        prompt = list(range(99))  # the same for all, as a long system prompt is
        for index in range(40):
            task = {"seed": index, "options": {"index": index, "split": "train"}}
            before = [len(engine.asked) for engine in engines]
            for _ in range(4):
                episode = several.of_task(dict(task))
                for turn in range(3):
                    await episode.generate([*prompt, index, turn], Sampling(1))
            asked = [len(engine.asked) - count for engine, count in zip(engines, before, strict=True)]
            assert sorted(asked) == [0, 0, 0, 0, 12]
        assert min(several.requests.values()) > 0, "tasks are spread"

    run(work())


def test_turns_stay_where_their_episode_was_when_its_home_was_full():
    async def work() -> None:
        engines = [Scripted(), Scripted()]
        several = named(engines)
        task: dict[str, Any] = {"seed": 1}
        first = [several.of_task(task) for _ in range(6)]
        waiting = [asyncio.create_task(episode.generate([1], Sampling(1))) for episode in first]
        await asyncio.sleep(0)
        assert sorted(several.in_flight.values()) == [2, 4], "the home was full"
        for engine in engines:
            engine.gate.set()
        await asyncio.gather(*waiting)
        for episode in first:
            await episode.generate([2], Sampling(1))
        counts = [Counter(asked[0] for asked in engine.asked) for engine in engines]
        assert all(count[1] == count[2] for count in counts), "each turn went where the one before was"

    run(work())


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2**60)), min_size=1, max_size=40))
def test_all_requests_are_answered_by_their_seeds_whoever_answers(requests: list[tuple[int, int]]):
    async def work() -> None:
        engines = [Scripted(), Scripted(), Scripted()]
        several, alone = named(engines), Scripted()
        for engine in [*engines, alone]:
            engine.gate.set()
        together = await asyncio.gather(*(several.generate([b], Sampling(1, seed=s)) for b, s in requests))
        assert list(together) == [await alone.generate([b], Sampling(1, seed=s)) for b, s in requests]
        assert [len(engine.asked) for engine in engines] == list(several.requests.values())
        assert sum(several.requests.values()) == len(requests)
        assert set(several.in_flight.values()) == {0}, "nothing is left"

    run(work())


def test_a_load_is_over_when_all_have_loaded_and_tells_the_worst():
    async def work() -> None:
        engines = [Scripted(1.0), Scripted(4.0)]
        several = named(engines)
        await several.connect([{"rank": 1}, {"rank": 2}])
        assert [engine.info["rank"] for engine in engines] == [1, 2]
        assert several.busy_seconds == 2.5
        loading = asyncio.create_task(several.load(3))
        engines[0].gate.set()
        await until(lambda: engines[0].version == 3)  # it does not wait for the other
        assert not loading.done()
        assert several.version == 0
        engines[1].gate.set()
        assert await loading == {"time/pause": 4.0, "time/load": -1.0}
        assert several.version == 3
        await several.close()

    run(work())


def test_in_turn_each_engine_loads_when_the_one_before_has_and_the_oldest_version_counts():
    async def work() -> None:
        engines = [Scripted(float(number)) for number in range(3)]
        several = Engines({str(number): engine for number, engine in enumerate(engines)}, in_turn=True)
        loading = asyncio.create_task(several.load(1))
        for engine in engines:
            await until(lambda engine=engine: engine.loading)
            assert [each.loading for each in engines] == [each is engine for each in engines]
            assert several.version == 0
            engine.gate.set()
        assert await loading == {"time/pause": 2.0, "time/load": 0.0}
        assert several.version == 1

    run(work())


def lost(several: Engines) -> list[str]:
    """Have the engines go on when one is lost; returns the names of those that are."""
    names: list[str] = []

    def on_lost(name: str, engine: Any, error: EngineLost) -> None:
        names.append(name)

    several.on_lost = on_lost
    return names


@pytest.mark.parametrize(("stop", "seed"), [((), None), (("end",), None), ((), 7)])
@pytest.mark.parametrize("known", [0, 3, 8])
def test_a_request_of_one_that_is_lost_goes_on_elsewhere_from_the_tokens_it_had(
    known: int, stop: tuple[str, ...], seed: int | None
):
    """With a seed it begins again: it samples what it would have sampled."""

    async def work() -> None:
        engines = [Scripted(), Scripted()]
        several = named(engines)
        names, sampling = lost(several), Sampling(8, seed=seed, stop=stop)
        asking = asyncio.create_task(several.generate_near(1, "engine 0", [1, 2], sampling))
        first, second = engines
        first.version, second.version = 3, 4
        first.known = Partial([10 + i for i in range(known)], [-0.5] * known, [2, *[3] * 7][:known])
        await asyncio.sleep(0)
        first.error = EngineLost("engine 0")
        first.gate.set()
        second.gate.set()
        (completion, which), had = await asking, 0 if stop or seed else known
        assert names == ["engine 0"]
        assert (several.continued, several.restarted) == ((1, 0) if had else (0, 1))
        assert which == ("engine 0" if had == 8 else "engine 1")
        assert completion.ids[:had] == [10 + i for i in range(had)]
        assert completion.versions[:had] == [2, *[3] * 7][:had]
        assert completion.logprobs[:had] == [-0.5] * had
        if had == 8:  # it was whole, but nobody had said so
            assert (len(completion.ids), completion.finish, second.asked) == (8, "length", [])
            return
        assert (completion.versions[had:], completion.logprobs[had:]) == ([4], [0.0])
        assert second.asked == [[1, 2, *completion.ids[:had]]]
        assert second.sampling[0].max_tokens == 8 - had
        assert second.sampling[0].seed == seed

    run(work())


def test_requests_of_one_that_computes_wrongly_begin_again():
    """Also those that find it dead only after another request has found out why."""

    async def work() -> None:
        engines = [Scripted(), Scripted()]
        several = named(engines)
        names = lost(several)
        first, second = engines
        first.known = Partial([10, 11], [-0.5] * 2, [3] * 2)
        asking = [asyncio.create_task(several.generate_near(1, "engine 0", [n], Sampling(8))) for n in (1, 2)]
        await asyncio.sleep(0)
        assert first.asked == [[1], [2]]
        first.lost(WrongNumbers("nan"))
        first.error = EngineLost("it is closed now")
        first.gate.set()
        second.gate.set()
        for completion, which in await asyncio.gather(*asking):
            assert (which, len(completion.ids)) == ("engine 1", 1)
        assert names == ["engine 0"]
        assert (several.continued, several.restarted) == (0, 2)
        assert second.asked == [[1], [2]]

    run(work())


def test_with_no_engine_left_requests_wait_for_one():
    async def work() -> None:
        engines = [Scripted(), Scripted(), Scripted()]
        several = named(engines[:2])
        names = lost(several)
        asking = [asyncio.create_task(several.generate([n], Sampling(1))) for n in range(4)]
        await asyncio.sleep(0)
        for engine in engines[:2]:
            engine.lost(EngineLost("found while nothing was asked"))
            engine.error = EngineLost("it is lost")
            engine.gate.set()
        await until(lambda: len(names) == 2)
        await asyncio.sleep(0.01)
        assert sorted(names) == ["engine 0", "engine 1"], "each once"
        assert not any(task.done() for task in asking)
        assert await several.load(5) == {}
        assert several.busy_seconds == 0
        engines[2].version = 5
        engines[2].gate.set()
        several.add("engine 0", engines[2])
        assert [completion.versions for completion in await asyncio.gather(*asking)] == [[5]] * 4
        assert several.in_flight == {"engine 0": 0}

    run(work())


@pytest.mark.parametrize("in_turn", [False, True])
def test_one_that_is_lost_in_a_load_hurts_no_other(in_turn: bool):
    async def work() -> None:
        engines = [Scripted(), Scripted(), Scripted()]
        several = Engines({f"engine {n}": engine for n, engine in enumerate(engines)}, in_turn)
        names = lost(several)
        for engine in engines:
            engine.gate.set()
        engines[1].error = EngineLost("engine 1")
        if in_turn:  # the third has another connection now
            with pytest.raises(TransferFailed, match="has reached only some of the engines"):
                await several.load(1)
        else:
            await several.load(1)
        assert names == ["engine 1"]
        await several.load(1)
        assert [engine.version for engine in engines] == [1, 0, 1]
        await several.connect([{"rank": 1}, {"rank": 2}])
        assert (engines[0].info, engines[2].info) == ({"rank": 1}, {"rank": 2})

    run(work())


def test_one_that_died_ends_all_at_once():
    async def work() -> None:
        engines = [Scripted(), Scripted()]
        several = named(engines)
        requests = [asyncio.create_task(several.generate([1], Sampling(1))) for _ in range(4)]
        await asyncio.sleep(0)
        engines[1].error = EngineLost("engine 1")
        engines[1].gate.set()
        await asyncio.wait(requests, return_when=asyncio.FIRST_EXCEPTION)
        lengths = set[int]()
        for _ in range(9):
            with pytest.raises(EngineLost, match="engine 1") as found:
                await several.generate([1], Sampling(1))
            lengths.add(len(found.traceback))
        assert len(lengths) == 1, "the same error again, not a longer one"
        with pytest.raises(EngineLost, match="engine 1"):
            await several.load(1)
        for request in requests:
            request.cancel()
        await asyncio.gather(*requests, return_exceptions=True)
        assert set(several.in_flight.values()) == {0}
        with pytest.raises(EngineLost):
            await several.close()
        assert engines[0].closed
        assert engines[1].closed

    run(work())


def test_an_error_of_one_request_is_its_own():
    async def work() -> None:
        engines = [Scripted(), Scripted()]
        several = named(engines)
        for engine in engines:
            engine.gate.set()
            engine.error = ValueError("too long")
        with pytest.raises(ValueError, match="too long"):
            await several.generate([1], Sampling(1))
        for engine in engines:
            engine.error = None
        await several.generate([1], Sampling(1))

    run(work())


def test_a_load_that_fails_lets_the_others_end_theirs_and_tells_the_cause():
    async def work() -> None:
        engines = [Scripted(), Scripted(), Scripted()]
        engines[1].error = EngineLost("engine 1")
        engines[1].gate.set()
        loading = asyncio.create_task(named(engines).load(1))
        assert not (await asyncio.wait([loading], timeout=0.05))[0]
        engines[0].error = TransferFailed("version 1 did not come")
        for engine in engines:
            engine.gate.set()
        with pytest.raises(EngineLost, match="engine 1"):
            await loading
        assert not any(engine.given_up for engine in engines)
        assert engines[2].version == 1

    run(work())


async def test_only_an_engine_that_is_not_frozen_shows_life():
    """It owes numbers, has a process below it, and each of the two is stopped by SIGSTOP."""
    toy = await process.launch("engine 0", {}, Counting)
    below, engine = await toy.call(Toy.fork), WorkerEngine(toy)
    living = asyncio.ensure_future(engine.lives())
    assert not (await asyncio.wait([living], timeout=0.3))[0], "it owes a number"
    await toy.call(Toy.add)
    await asyncio.wait_for(living, 30)
    await stopped(below)
    living = asyncio.ensure_future(engine.lives())
    await toy.call(Toy.add)
    assert not (await asyncio.wait([living], timeout=0.3))[0], "its process is stopped"
    os.kill(below, signal.SIGCONT)
    while not living.done():
        await toy.call(Toy.add)
    await living
    engines = Engines({"engine 0": engine})
    engines.on_lost = lambda name, engine, error: None
    episode = engines.of_task({})
    await stopped(toy.pid)
    disturbed = asyncio.ensure_future(episode.disturbed())
    assert not (await asyncio.wait([disturbed], timeout=0.3))[0], "it waits for what becomes of the engine"
    toy.kill()
    assert await asyncio.wait_for(disturbed, 30)
    await engine.close()


@pytest.mark.parametrize(("killed", "how"), [(True, "killed by SIGKILL"), (False, "exit code 7")])
async def test_a_lost_engine_says_how_its_process_ended(killed: bool, how: str):
    toy = await process.launch("engine 0", {}, Counting)
    engine = WorkerEngine(toy)
    if killed:
        toy.kill()
    else:
        with pytest.raises(WorkerLost):
            await toy.call(Toy.fail, "end")
    with pytest.raises(EngineLost, match=rf"^vLLM has died \({how}\)$"):
        await asyncio.wait_for(engine.lives(), 60)
    await engine.close()
