"""Environments in processes of their own: whatever native code does there, a run loses an episode at most."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest
from native_envs import Native
from test_episode import RENDERER, Scripted
from until import until

from areal import faults
from areal.agents.single_turn import SingleTurn
from areal.config import load_config
from areal.envs.math import MathEnv
from areal.errors import EnvironmentFailure, UserError
from areal.registry import make_env, maker_elsewhere, register_env
from areal.rollout.admission import Admission
from areal.rollout.controller import RolloutController
from areal.rollout.engine import Sampling
from areal.rollout.environments import EnvironmentPool
from areal.rollout.worker import RolloutWorker
from areal.runtime.build import env_launcher
from areal.runtime.rollouts import environments
from areal.spans import Span, collect
from areal.trajectory import Group
from areal.workers import process

HERE = Path(__file__).parent
LIMIT = 240.0


def pool_of(make: Callable[[], Any] = Native, workers: int = 2, time_limit: float = LIMIT) -> EnvironmentPool:
    return EnvironmentPool(make, workers, time_limit, "native", start=process.launch)


def task(todo: str = "") -> dict[str, Any]:
    return {"seed": 0, "options": {"todo": todo}}


async def play(pool: EnvironmentPool, todo: str = "") -> dict[str, Any]:
    """Play an episode; return the info of its step."""
    async with pool.lend() as env:
        await pool.reset(env, task(todo))
        return (await pool.step(env, "go", task(todo))).info


def below_us() -> set[int]:
    found = set()
    for child in psutil.Process().children():
        with contextlib.suppress(psutil.NoSuchProcess):  # a zombie, too
            found |= {child.pid} if "env native" in " ".join(child.cmdline()) else set()
    return found


async def test_an_environment_stays_in_its_process_and_is_used_again(tmp_path: Path):
    notes = tmp_path / "notes"
    pool = pool_of(partial(Native, str(notes)))
    first = await play(pool)
    second = await play(pool)
    assert first["pid"] == second["pid"] != os.getpid()
    assert (first["steps"], second["steps"]) == (1, 2)
    async with pool.lend() as one, pool.lend() as other:
        said = [(await pool.reset(env, task()))[0] for env in (one, other)]
    assert said[0] != said[1], "each has a process of its own"
    await pool.close()
    assert notes.read_text() == "closed\nclosed\n"
    assert not psutil.pid_exists(first["pid"])


async def test_when_a_verifier_worked_is_known_outside_its_process():
    pool, spans = pool_of(MathEnv), list[Span]()
    with collect(spans):
        async with pool.lend() as env:
            await pool.reset(env, {"seed": 0})
            await pool.step(env, r"\boxed{1}", {"seed": 0})
    await pool.close()
    step, verifier = spans[-1], spans[-2]
    assert [(s.kind, s.name) for s in (verifier, step)] == [("verifier", "math"), ("env", "step")]
    assert step.begun <= verifier.begun
    assert verifier.begun + verifier.seconds <= step.begun + step.seconds


async def test_an_episode_that_is_cancelled_between_two_calls_leaves_no_process():
    pool, lent = pool_of(), asyncio.Event()

    async def thinks() -> None:
        async with pool.lend() as env:
            await pool.reset(env, task())
            lent.set()
            await asyncio.sleep(1000)

    episode = asyncio.create_task(thinks())
    await asyncio.wait_for(lent.wait(), LIMIT)
    assert below_us()
    episode.cancel()
    await asyncio.wait([episode])
    await until(lambda: not below_us())
    await pool.close()


ENDS = {
    "crashes": r"step in the task .* crashed its process: killed by SIGSEGV$",
    "aborts": r"crashed its process: killed by SIGABRT$",
    "is killed": r"crashed its process: killed by SIGKILL$",
    "ends its process": r"crashed its process: exit code 3$",
}
WRONG = {
    "exits": r"step in the task .* raised SystemExit: 0 \(at .*native_envs.py:\d+\)$",
    "raises": r"^environment 'native': step in .* raised ValueError: no luck \(at .*native_envs.py:\d+\)$",
    "reset fails": r"reset in the task .* raised KeyError: 'no such\\nlevel' \(at .*native_envs.py:\d+\)$",
    "grows": r"raised MemoryError",
    "lock": r"info\['deep'\]\['state'\]\['lock'\] \(a lock\), which cannot be sent to another process: ",
}


@pytest.mark.parametrize("todo", [*ENDS, *WRONG])
async def test_what_goes_wrong_is_said_in_one_line_and_another_process_takes_its_place(todo: str):
    pool = pool_of()
    failures = faults.counts()["env_faults"]
    with pytest.raises(EnvironmentFailure, match=(ENDS | WRONG)[todo]) as failure:
        await play(pool, todo)
    assert "\n" not in str(failure.value)
    if todo == "raises":
        assert "raise ValueError" in "".join(failure.value.__cause__.__notes__), "the log has all of it"
    assert (await play(pool))["steps"] == 1
    assert pool.counts()["env_faults"] == failures + (todo in ENDS)
    await pool.close()


async def test_a_call_that_hangs_with_the_lock_is_ended_with_its_process():
    pool = pool_of(time_limit=45)
    running = await play(pool)
    others = asyncio.create_task(play(pool))
    # It sends no heartbeat either, which may be noticed first.
    text = r"(has not returned after 45 s \(rollout.env_time_limit\)|crashed its process: no heartbeat)"
    with pytest.raises(EnvironmentFailure, match=text):
        await play(pool, "hangs with the lock")
    assert (await others)["steps"] >= 1
    await pool.close()
    await until(lambda: not psutil.pid_exists(running["pid"]))
    await until(lambda: not below_us())


async def test_a_run_goes_on_where_some_calls_crash_and_ends_where_all_do():
    """The same budget as for any failure of an environment."""

    def control(todo_of: Callable[[Any], str], pool: EnvironmentPool) -> tuple[Admission[Group], Any]:
        engine: Any = Scripted("eos")
        worker = RolloutWorker(engine, RENDERER, SingleTurn(), pool, 100)
        admission: Admission[Group] = Admission(2, 1)

        def run_episode(given: dict[str, Any], episode: Any) -> Any:
            return worker.run_episode(task(todo_of(episode)), Sampling(10))

        return admission, RolloutController(admission, run_episode, lambda n: {}, 2, 4, 1, 1)

    pool = pool_of()
    _, controller = control(lambda e: "crashes" if e.attempt == 0 and e.member == 0 else "", pool)
    running = asyncio.create_task(controller.run())
    groups = await asyncio.wait_for(controller.next_batch(0), 120)
    running.cancel()
    assert all(episode.reward > 0 for group in groups for episode in group.episodes)
    assert controller.retries >= 2
    assert controller.failures == 0
    _, controller = control(lambda e: "crashes", pool)
    with pytest.raises(EnvironmentFailure, match=r"SIGSEGV.*2 groups in a row failed"):
        await asyncio.wait_for(controller.run(), 120)
    await pool.close()


async def test_what_cannot_be_made_there_is_the_users_to_mend():
    class Local(Native):
        pass

    for make, text in ((Local, "Local"), (partial(make_env, "no-such-env"), "unknown environment")):
        with pytest.raises(UserError, match=f"in its own process: .*{text}.*env_isolation=thread"):
            await play(pool_of(make))


def no_constructor() -> Any:
    raise OSError("gone")


async def test_a_constructor_that_raises_or_is_killed():
    with pytest.raises(EnvironmentFailure, match=r"its creation raised OSError: gone \(at "):
        await play(pool_of(no_constructor))
    with pytest.raises(EnvironmentFailure, match="its creation crashed its process: exit code 4"):
        await play(pool_of(partial(os._exit, 4)))


FILE = """
import os
from native_envs import Native
class Mine(Native):
    def step(self, action):
        return "", 1.0, True, False, {"pid": os.getpid()}
"""
MIXTURE = "mixture:\n  - {env: math-v1}\n  - {env: native-v1}\n"


@pytest.mark.parametrize("kind", ["id", "file", "registered", "mixture"])
async def test_environments_however_they_are_named(kind: str, tmp_path: Path):
    (tmp_path / "mine.py").write_text(FILE)
    (tmp_path / "both.yaml").write_text(MIXTURE)
    register_env("native-v1", Native)  # a class of a module: the other process finds it, too
    name = {
        "id": "math-v1",
        "file": f"{tmp_path}/mine.py:Mine",
        "registered": "native-v1",
        "mixture": f"{tmp_path}/both.yaml",
    }[kind]
    pool = pool_of(maker_elsewhere(name, {}))
    given = {"seed": 1, "options": {"index": 1, "split": "train"}}
    async with pool.lend() as env:
        observation, _ = await pool.reset(env, given)
        step = await pool.step(env, "\\boxed{1}", given)
    assert observation
    assert step.done
    await pool.close()


async def test_an_environment_asks_for_processes_by_its_metadata():
    register_env("native-v1", Native)
    env, plain = make_env("native-v1"), make_env("math-v1")
    for asking, setting, own in (
        (env, "auto", True),
        (env, "thread", False),
        (plain, "auto", False),
        (plain, "process", True),
    ):
        config = load_config(overrides=[f"env={asking.spec.id}", f"rollout.env_isolation={setting}"])
        pool = environments(config, env_launcher(config, asking))
        given = {"seed": 1}
        async with pool.lend() as lent:
            await pool.reset(lent, given)
            assert isinstance(lent, type(plain)) is not own
        await pool.close()


async def test_stopped_in_the_middle_of_a_call_nothing_is_left():
    pool = pool_of()
    await play(pool)
    running = asyncio.create_task(play(pool, "hangs with the lock"))
    making = asyncio.create_task(play(pool, ""))
    await asyncio.sleep(1)
    for stopped in (running, making):
        stopped.cancel()
    await asyncio.gather(running, making, return_exceptions=True)
    started = time.monotonic()
    await pool.close()
    assert time.monotonic() - started < LIMIT
    await until(lambda: not below_us())


async def test_processes_that_are_killed_and_stopped_at_random_cost_episodes_and_no_reward():
    """Each episode that comes to its end has the right reward; the others are failures, and none hangs."""
    pool = pool_of(workers=3, time_limit=20)
    choose = random.Random(0)

    async def torment() -> None:
        """Meet two of three at most: one whose process only starts may be met, too."""
        for _ in range(choose.randint(1, 2)):
            await asyncio.sleep(choose.uniform(0, 0.8))
            if victims := sorted(below_us()):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(choose.choice(victims), choose.choice([signal.SIGKILL, signal.SIGSTOP]))

    async def episode() -> bool:
        try:
            async with pool.lend() as env:
                await pool.reset(env, task())
                step = await pool.step(env, "go", task())
        except EnvironmentFailure:
            return False
        assert step.reward == step.info["steps"]
        return True

    end = time.monotonic() + 25
    done: list[bool] = []
    while time.monotonic() < end:
        _, *found = await asyncio.wait_for(asyncio.gather(torment(), *(episode() for _ in range(3))), 120)
        done += found
    await pool.close()
    assert any(done)
    assert pool.counts()["env_faults"] > 0
