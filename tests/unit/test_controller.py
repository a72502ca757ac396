"""The controller with a scripted worker: retries, the budget of failures, groups, backpressure."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from until import until

from areal.errors import UserError
from areal.rollout.admission import Admission
from areal.rollout.controller import RolloutController, RolloutFailure
from areal.trajectory import Episode, Group, Trajectory

GROUP = 4


def episode(version: int = 0) -> Episode:
    mask = np.array([False, True])
    made = Trajectory(np.zeros(2, np.int32), mask, np.zeros(2), np.where(mask, version, -1))
    return Episode([made], 1.0)


def controller(run_episode: Callable[[dict[str, Any]], Coroutine[Any, Any, Episode]], **options: int):
    admission: Admission[Group] = Admission(2, options.pop("eta", 1))
    given = {"group_size": GROUP, "max_concurrent": 16, "max_retries": 2, "max_failures": 3, **options}
    return admission, RolloutController(
        admission, lambda task, episode_id: run_episode(task), lambda number: {"seed": number}, **given
    )


async def stop(task: asyncio.Task[None]) -> None:
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


async def test_batches_are_whole_groups_of_one_task():
    async def run_episode(task: dict[str, Any]) -> Episode:
        await asyncio.sleep(0.001 * (task["seed"] % 3))
        made = episode()
        made.task = task
        return made

    _, control = controller(run_episode)
    running = asyncio.create_task(control.run())
    for version in range(5):
        groups = await control.next_batch(version)
        assert len(groups) == 2
        for group in groups:
            assert len(group.episodes) == GROUP
            assert len({e.task["seed"] for e in group.episodes}) == 1
        control.advance(version + 1)
    await stop(running)
    assert control.finished_episodes >= 5 * 2 * GROUP


async def test_concurrency_and_gate_hold_it_back():
    in_flight = peak = started = 0

    async def run_episode(task: dict[str, Any]) -> Episode:
        nonlocal in_flight, peak, started
        in_flight += 1
        started += 1
        peak = max(peak, in_flight)
        await asyncio.sleep(0.001)
        in_flight -= 1
        return episode()

    _, control = controller(run_episode, max_concurrent=9, eta=2)
    running = asyncio.create_task(control.run())
    await until(lambda: control.finished_episodes == (0 + 2 + 1) * 2 * GROUP)
    await asyncio.sleep(0.2)
    assert peak == 8, "two groups of four fit in nine"
    assert started == (0 + 2 + 1) * 2 * GROUP, "the gate: (i + η + 1) · B groups"
    await stop(running)


async def test_an_episode_that_fails_is_run_again():
    failed: dict[int, int] = {}

    async def run_episode(task: dict[str, Any]) -> Episode:
        if failed.setdefault(task["seed"], 0) < 2:
            failed[task["seed"]] += 1
            raise ConnectionError("flaky")
        return episode()

    _, control = controller(run_episode)
    running = asyncio.create_task(control.run())
    assert len(await control.next_batch(0)) == 2
    await stop(running)
    assert control.retries >= 4
    assert control.failures == 0


async def test_a_group_with_a_failed_member_is_not_trained_on():
    async def run_episode(task: dict[str, Any]) -> Episode:
        if task["seed"] % 2 == 0:
            raise ConnectionError("always")
        made = episode()
        made.task = task
        return made

    _, control = controller(run_episode, max_retries=0)
    running = asyncio.create_task(control.run())
    for version in range(3):
        for group in await control.next_batch(version):
            assert group.episodes[0].task["seed"] % 2 == 1
        control.advance(version + 1)
    await stop(running)
    assert control.failures >= 3


async def test_an_environment_that_always_raises_ends_the_run_with_its_error():
    async def run_episode(task: dict[str, Any]) -> Episode:
        raise KeyError("no such thing")

    _, control = controller(run_episode)
    with pytest.raises(RolloutFailure, match="no such thing") as caught:
        await asyncio.wait_for(control.run(), 60)
    assert isinstance(caught.value.__cause__, KeyError)


@pytest.mark.parametrize("eta", [0, 2])
async def test_dynamic_sampling_takes_other_groups(eta: int):
    """Groups with equal rewards are never consumed, and the gate counts them as if they had never been."""
    attempts: dict[int, int] = {}

    async def run_episode(task: dict[str, Any]) -> Episode:
        await asyncio.sleep(0)
        made = episode(version=admission.version)
        member = attempts.setdefault(task["seed"], 0)
        attempts[task["seed"]] += 1
        made.reward = float(member) if task["seed"] % 3 == 0 else 1.0
        return made

    admission, control = controller(run_episode, eta=eta, max_equal=3)
    running = asyncio.create_task(control.run())
    for version in range(6):
        for group in await asyncio.wait_for(control.next_batch(version), 60):
            assert len({e.reward for e in group.episodes}) == GROUP
            assert group.version >= version - eta
        control.advance(version + 1)
    await stop(running)
    assert control.equal_groups >= 2 * (6 * 2 - 1), "two of three"
    assert control.failures == 0
    assert admission.counted <= (6 + eta + 1) * 2


async def test_groups_that_are_always_equal_end_the_run():
    async def run_episode(task: dict[str, Any]) -> Episode:
        return episode()

    _, control = controller(run_episode, max_equal=5)
    with pytest.raises(
        UserError, match=r"[6-8] consecutive groups with equal rewards.*dynamic_sampling=false"
    ):
        await asyncio.wait_for(control.run(), 60)
    _, control = controller(run_episode)
    running = asyncio.create_task(control.run())
    assert len(await control.next_batch(0)) == 2, "without dynamic sampling they are as good as any"
    await stop(running)


async def test_bad_input_is_not_retried():
    calls = 0

    async def run_episode(task: dict[str, Any]) -> Episode:
        nonlocal calls
        calls += 1
        raise UserError("give it a file")

    _, control = controller(run_episode, max_concurrent=4)
    with pytest.raises(UserError, match="give it a file"):
        await asyncio.wait_for(control.run(), 60)
    assert calls <= 2 * GROUP, "no retries; one more group may have begun"


async def test_cancelling_cancels_what_is_in_flight():
    begun = cancelled = 0

    async def run_episode(task: dict[str, Any]) -> Episode:
        nonlocal begun, cancelled
        begun += 1
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled += 1
            raise
        return episode()

    _, control = controller(run_episode)
    running = asyncio.create_task(control.run())
    await until(lambda: begun == 16)
    await stop(running)
    assert cancelled == 16


async def test_retries_keep_their_place_and_members_their_order():
    in_flight = peak = 0
    seen: dict[int, int] = {}

    async def run_episode(task: dict[str, Any]) -> Episode:
        nonlocal in_flight, peak
        attempt = seen[task["seed"]] = seen.get(task["seed"], 0) + 1
        in_flight += 1
        peak = max(peak, in_flight)
        await asyncio.sleep(0.002 if attempt % 3 else 0)
        in_flight -= 1
        if attempt <= GROUP and attempt % 2:
            raise ConnectionError("flaky")
        made = episode()
        made.started = attempt
        return made

    _, control = controller(run_episode, max_concurrent=8)
    running = asyncio.create_task(control.run())
    for version in range(4):
        for group in await control.next_batch(version):
            # The first and the third failed and were run again; the others are where they were.
            assert [e.started for e in group.episodes][1::2] == [2, 4]
            assert {e.started for e in group.episodes[::2]} == {5, 6}
        control.advance(version + 1)
    await stop(running)
    assert peak == 8
    assert control._in_flight <= 8


async def test_a_group_lost_in_a_crash_is_run_again_with_its_own_task_and_places():
    places = []

    async def run_episode(task: dict[str, Any], place: tuple[int, int, int]) -> Episode:
        places.append((task["seed"], place))
        await asyncio.sleep(0)
        if place == (3, 1, 0):
            raise OSError("try again")
        return episode()

    admission: Admission[Group] = Admission(2, 1, version=5, next_id=12)
    admission.restore(3, 4, None)
    admission.restore(11, 5, Group(11, 5, [episode()] * GROUP))
    control = RolloutController(admission, run_episode, lambda number: {"seed": number}, GROUP, GROUP, 1, 0)
    running = asyncio.create_task(control.run())
    groups = await control.next_batch(5)
    await stop(running)
    assert [(g.id, g.version) for g in groups] == [(3, 4), (11, 5)]
    expected = [*((3, member, 0) for member in range(GROUP)), (3, 1, 1)]
    assert places[: GROUP + 1] == [(3, place) for place in expected]
    assert {seed for seed, _ in places} <= {3, 12, 13}, "new groups go on where numbers ended"


async def test_the_learner_is_held_by_a_group_at_its_bound():
    straggles = asyncio.Event()

    async def run_episode(task: dict[str, Any]) -> Episode:
        if task["seed"] == 0:
            await straggles.wait()
        return episode()

    admission, control = controller(run_episode)
    running = asyncio.create_task(control.run())
    assert {group.id for group in await control.next_batch(0)} == {1, 2}
    assert control.held_seconds == 0, "others overtake it"
    control.advance(1)
    waiting = asyncio.create_task(control.next_batch(1))
    await until(lambda: admission.complete >= 2)
    assert not waiting.done(), "at version 2 the first group would be too stale"
    straggles.set()
    assert {group.id for group in await waiting} >= {0}
    assert control.held_seconds > 0
    control.advance(2)
    await control.next_batch(2)
    assert control.held_seconds == 0, "of this batch alone"
    await stop(running)
