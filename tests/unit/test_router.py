"""Who gets which request: conversations and keys stay, loads are bounded, few homes move with an engine."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from areal.rollout.router import Router, max_in_flight


def names(count: int) -> list[str]:
    return [f"engine {number}" for number in range(count)]


class Counted:
    """A router, and beside it a plain count of what each engine has in flight."""

    def __init__(self, engines: list[str]) -> None:
        self.router = Router(engines)
        self.running: list[tuple[int, str]] = []
        self.next = len(engines)

    def loads(self) -> Counter[str]:
        return Counter(engine for _, engine in self.running)

    def bound(self) -> int:
        return max_in_flight(len(self.running) + 1, len(self.router.in_flight))

    def start(self, key: int, last: str) -> None:
        before, bound = self.loads(), self.bound()
        engine, home = self.router.start(key, last), self.router.home(key)
        assert before[engine] < bound, "it had room"
        if last in self.router.in_flight and before[last] < bound:
            assert engine == last
        elif before[home] < bound:
            assert engine == home
        self.running.append((key, engine))

    def finish(self) -> None:
        if self.running:
            self.router.finish(self.running.pop(0)[1])

    def join(self) -> None:
        self.router.add(f"engine {self.next}")
        self.next += 1

    def leave(self, which: int) -> None:
        if len(engines := list(self.router.in_flight)) > 1:
            gone = engines[which % len(engines)]
            self.router.remove(gone)
            late = [engine for _, engine in self.running if engine == gone]
            self.running = [(key, engine) for key, engine in self.running if engine != gone]
            for engine in late:  # it is finished after the engine has left: nobody counts it
                self.router.finish(engine)


events = st.one_of(
    st.tuples(st.just("start"), st.integers(0, 6), st.integers(0, 9)),
    st.tuples(st.just("finish"), st.just(0), st.just(0)),
    st.tuples(st.sampled_from(["join", "leave"]), st.integers(0, 9), st.just(0)),
)


@given(count=st.integers(1, 5), happening=st.lists(events, max_size=150))
def test_loads_are_bounded_and_counted_whatever_happens(count: int, happening: list[tuple[str, int, int]]):
    """No engine is given more than its bound; who has room keeps its conversations and its keys."""
    counted = Counted(names(count))
    for event, number, last in happening:
        match event:
            case "start":
                counted.start(number, f"engine {last}")
            case "finish":
                counted.finish()
            case "join":
                counted.join()
            case "leave":
                counted.leave(number)
        loads = counted.loads()
        assert counted.router.in_flight == {engine: loads[engine] for engine in counted.router.in_flight}


@given(requests=st.integers(0, 400), count=st.integers(1, 9))
def test_requests_with_one_key_use_all_engines(requests: int, count: int):
    router = Router(names(count))
    for _ in range(requests):
        router.start(7)
    loads = router.in_flight.values()
    assert max(loads) <= max_in_flight(requests, count) <= max(requests / count * 1.25 + 1, 1)
    assert min(loads) >= requests / count / 2 - 2
    assert max_in_flight(requests, 1) == requests


@pytest.mark.parametrize("count", [1, 2, 8, 50])
def test_keys_are_spread_over_all_engines(count: int):
    router = Router(names(count))
    homes = Counter(router.home(key) for key in range(200 * count))
    assert len(homes) == count
    assert max(homes.values()) < 1.6 * 200


@given(count=st.integers(1, 30), which=st.integers(0, 29))
def test_few_homes_move_with_an_engine(count: int, which: int):
    """The homes that move are those of the engine that joins or leaves, about its share of all."""
    router, keys = Router(names(count)), range(0, 2**32, 2**22)
    before = {key: router.home(key) for key in keys}
    router.add("newcomer")
    joined = {key: router.home(key) for key in keys}
    moved = [key for key in keys if joined[key] != before[key]]
    assert {joined[key] for key in moved} <= {"newcomer"}
    assert len(moved) < 2 * len(keys) / (count + 1)
    gone = f"engine {which % count}"
    router.remove(gone)
    left = {key: router.home(key) for key in keys}
    assert all(left[key] == joined[key] for key in keys if joined[key] != gone)
    assert gone not in left.values()
    router.add(gone)
    router.remove("newcomer")
    assert {key: router.home(key) for key in keys} == before, "it is as if nothing had happened"


@given(st.integers(0, 2**32))
def test_a_key_that_overflows_meets_again_on_the_next_engine(key: int):
    routers = [Router(names(20)), Router(reversed(names(20)))]
    first, second = [[router.start(key), router.start(key)] for router in routers]
    assert first == second, "each has room for one, and the choice is no matter of order or load"
    assert first[0] != first[1]


def test_all_processes_find_the_same_homes():
    keys = [0, 1, 2**31, 2**63, -(2**62)]
    code = (
        "from areal.rollout.router import Router\n"
        f"router = Router(reversed({names(9)}))\n"
        f"print([router.home(key) for key in {keys}])"
    )
    there = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    router = Router(names(9))
    assert there.stdout.strip() == str([router.home(key) for key in keys])


def test_a_name_is_one_engines():
    router = Router(names(2))
    with pytest.raises(ValueError, match="engine 1"):
        router.add("engine 1")
