"""Rollout workers in processes of their own: the same episodes and errors as here; one may die."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from children import worker as child
from children import workers as children
from until import until
from vllm_toys import ToyEngine

from areal import registry
from areal.agents.interface import ConversationTooLong
from areal.config import Config, parse_config
from areal.errors import EnvironmentFailure, RolloutWorkerLost, UserError, WorkerLost, explained
from areal.models import resolve_model
from areal.rollout.admission import Admission
from areal.rollout.controller import EpisodeId, RolloutController
from areal.rollout.engine import Sampling
from areal.rollout.engines import Engines
from areal.runtime.agents import make_agent
from areal.runtime.rollout_process import RolloutProcess, RolloutSetup
from areal.runtime.rollout_workers import RolloutWorkers, first_that_starts
from areal.runtime.rollouts import renderer_of, rollout_worker_of
from areal.runtime.worker_engine import WorkerEngine
from areal.trajectory import Episode, Group
from areal.waiting import wait_all
from areal.workers.guard import Guard
from areal.workers.process import launch, launch_guarded

STARTER = resolve_model("starter")


@asynccontextmanager
async def rollouts(
    workers: int = 2,
    engines: int = 2,
    longest: int = 512,
    seconds: float = 0.0,
    stall_limit: float = 300.0,
    **settings: Any,
) -> AsyncIterator[tuple[RolloutWorkers, Config]]:
    """Rollout workers on toy engines, all in processes of their own."""
    start = launch_guarded(Guard(stall_limit))
    config = parse_config(settings)
    names = [f"engine {number}" for number in range(engines)]
    handles = await wait_all(*(launch(name, {}, ToyEngine, seconds) for name in names))
    made = [WorkerEngine(handle) for handle in handles]
    setup = RolloutSetup(config, STARTER, longest, registry.registered())
    starts = [
        partial(start, f"rollout worker {number}", {}, RolloutProcess, setup) for number in range(workers)
    ]
    found = RolloutWorkers(starts)
    try:
        await found.start()
        engine = Engines(dict(zip(names, made, strict=True)))
        await found.connect(engine, [await engine.listen("127.0.0.1") for engine in made])
        yield found, config
    finally:
        await found.close()
    assert children() == []


def here(config: Config, workers: RolloutWorkers, longest: int = 512) -> Any:
    """A rollout worker in this process, on the same engines."""
    agent = make_agent(config)
    return rollout_worker_of(config, renderer_of(config, STARTER, agent), agent, longest, workers.engine)


def without_times(episode: Episode) -> dict[str, Any]:
    times = ("started", "ended", "seconds", "spans")
    return {name: value for name, value in episode.to_json().items() if name not in times}


def task(index: int) -> dict[str, Any]:
    return {"seed": index, "options": {"index": index, "split": "train"}}


async def requests(workers: RolloutWorkers) -> list[int]:
    engines: Any = workers.engine
    return [await each.worker.call(ToyEngine.requests) for each in engines.engines.values()]


async def asked(count: int, workers: RolloutWorkers) -> None:
    """Wait until the engines have got so many requests."""
    while sum(await requests(workers)) < count:  # noqa: ASYNC110
        await asyncio.sleep(0.02)


async def test_episodes_are_what_they_are_in_the_runs_process():
    async with rollouts() as (workers, config):
        tasks = [task(index) for index in range(24)]
        found = await asyncio.gather(*(workers.run_episode(task, Sampling(8)) for task in tasks))
        assert min(await requests(workers)) > 0, "both engines have worked"
        own = here(config, workers)
        expected = [await own.run_episode(task, Sampling(8)) for task in tasks]
        assert [without_times(e) for e in found] == [without_times(e) for e in expected]
        await own.pool.close()


async def test_members_of_a_group_meet_on_one_engine_whichever_worker_asks():
    async with rollouts(workers=3, seconds=0.02) as (workers, _):
        for index in range(6):
            before = await requests(workers)
            for _ in range(2):  # not more at once than an engine's share
                await asyncio.gather(*(workers.run_episode(task(index), Sampling(8)) for _ in range(3)))
            asked = [a - b for a, b in zip(await requests(workers), before, strict=True)]
            assert sorted(asked) == [0, 6]


async def test_weights_are_loaded_by_the_runs_process_alone():
    async with rollouts() as (workers, _):
        versions = []
        for version in (3, 4):
            await workers.engine.load(version)
            episodes = await asyncio.gather(*(workers.run_episode(task(i), Sampling(8)) for i in range(8)))
            versions += [t.oldest_version for episode in episodes for t in episode.trajectories]
        assert versions == [3] * 8 + [4] * 8


async def test_engines_join_and_leave():
    async with rollouts(2, 2, seconds=0.3) as (workers, _):
        made: Any = workers.engine
        first, second = made.engines.values()
        third = WorkerEngine(await launch("engine 2", {}, ToyEngine))
        addresses = [await engine.listen("127.0.0.1") for engine in (first, third)]
        running = [asyncio.create_task(workers.run_episode(task(i), Sampling(8))) for i in range(16)]
        await asked(16, workers)
        await workers.use_engines(addresses)
        before = await second.worker.call(ToyEngine.requests)
        await asyncio.gather(*running)
        await asyncio.gather(*(workers.run_episode(task(i), Sampling(8)) for i in range(16)))
        assert await second.worker.call(ToyEngine.requests) == before, "it has left"
        assert await third.worker.call(ToyEngine.requests) > 0, "it has joined"
        await third.close()


BROKEN = """
import gymnasium

class Mine(gymnasium.Env):
    def reset(self, *, seed=None, options=None):
        return "Say a word.", {}

    def step(self, action):
        raise ValueError("the dog ate it")

class Fine(Mine):
    def step(self, action):
        return "", 1.0, True, False, {}

class Agent:
    async def run(self, env, model):
        await model.generate(await env.reset())
        raise KeyError("my mistake")

async def program(task, *, base_url, api_key):
    import httpx

    messages = [{"role": "user", "content": task}]
    async with httpx.AsyncClient(headers={"Authorization": f"Bearer {api_key}"}) as client:
        answer = await client.post(f"{base_url}/chat/completions", json={"model": "x", "messages": messages})
        return answer.json()["choices"][0]["message"]["content"]
"""


async def error_of(run: Callable[..., Any]) -> BaseException:
    with pytest.raises(Exception) as caught:  # noqa: PT011 (of any class: two are compared)
        await run({"seed": 1}, Sampling(8))
    return caught.value


async def test_failures_of_user_code_read_as_in_one_process(tmp_path: Path):
    file = tmp_path / "broken_things.py"
    file.write_text(BROKEN)
    async with rollouts(1, 1, env=f"{file}:Mine") as (workers, config):
        there, own = await error_of(workers.run_episode), await error_of(here(config, workers).run_episode)
        assert type(there) is type(own) is EnvironmentFailure
        assert str(there) == str(own)
        assert "ValueError: the dog ate it (at" in str(there)
    async with rollouts(1, 1, env=f"{file}:Fine", agent=f"{file}:Agent") as (workers, config):
        there, own = await error_of(workers.run_episode), await error_of(here(config, workers).run_episode)
        assert explained(there, __file__) == explained(own, __file__)
        assert f"KeyError: 'my mistake' (at {file}:" in explained(there, __file__)
    async with rollouts(1, 1, longest=4) as (workers, config):
        there = await error_of(workers.run_episode)
        own = await error_of(here(config, workers, longest=4).run_episode)
        assert type(there) is type(own) is ConversationTooLong
        assert str(there) == str(own)


async def test_programs_reach_the_model_there(tmp_path: Path):
    file = tmp_path / "programs.py"
    file.write_text(BROKEN)
    async with rollouts(1, 1, env=f"{file}:Fine", agent=f"{file}:program") as (workers, _):
        episode = await workers.run_episode({"seed": 1}, Sampling(8))
        assert episode.sampled == 3
        assert episode.reward == 1.0


async def test_what_is_not_found_there_is_one_line():
    config = parse_config({"env": "nothing-v0"})
    setup = RolloutSetup(config, STARTER, 512, registry.registered())
    with pytest.raises(UserError, match="unknown environment 'nothing-v0'") as caught:
        await launch("rollout worker 0", {}, RolloutProcess, setup)
    assert "\n" not in str(caught.value)
    assert not hasattr(caught.value, "__notes__")


SCRIPT = """
import asyncio, gymnasium
from areal import registry
from areal.config import parse_config
from areal.models import resolve_model
from areal.runtime.rollout_process import RolloutProcess, RolloutSetup
from areal.workers.process import launch

class Mine(gymnasium.Env):
    pass

class MyAgent:
    async def run(self, env, model): ...

registry.register_env("mine-v0", Mine)
registry.register_agent("my-agent", MyAgent)

async def main():
    config = parse_config({"env": "mine-v0", "agent": "my-agent"})
    setup = RolloutSetup(config, resolve_model("starter"), 512, registry.registered())
    worker = await launch("rollout worker 0", {}, RolloutProcess, setup)
    await worker.close()
    print("found")

asyncio.run(main())
"""


def test_what_a_users_script_registers_is_found_there(tmp_path: Path):
    file = tmp_path / "script.py"
    file.write_text(SCRIPT)
    ended = subprocess.run([sys.executable, file], capture_output=True, text=True, timeout=120)
    assert ended.stdout == "found\n", ended.stderr


def controller(workers: RolloutWorkers, max_retries: int = 2) -> RolloutController:
    async def run_episode(task: dict[str, Any], episode_id: EpisodeId) -> Episode:
        return await workers.run_episode(task, Sampling(8))

    admission = Admission[Group](4, 0)
    return RolloutController(admission, run_episode, task, 4, 16, max_retries, 0)


async def test_episodes_of_a_worker_that_dies_are_run_again():
    async with rollouts(seconds=1000) as (workers, _):
        control = controller(workers)
        running = asyncio.create_task(control.run())
        await until(lambda: workers.busy_seconds > 0.1)
        child("rollout worker 1").kill()
        engines: Any = workers.engine
        for engine in engines.engines.values():
            await engine.worker.call(ToyEngine.go_on)
        groups = await asyncio.wait_for(control.next_batch(0), 120)
        assert [len(group.episodes) for group in groups] == [4] * 4
        assert control.retries > 0
        assert control.failures == 0
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await until(lambda: bool(children("rollout worker 1")))  # another one starts in its place


async def test_a_worker_whose_host_is_gone_starts_on_another_one():
    async def gone() -> Any:
        raise WorkerLost("rollout worker 0 did not start: host a is gone")

    with pytest.raises(WorkerLost, match="host a is gone"):
        await first_that_starts([gone, gone])
    start: Any = partial(launch, "elsewhere", {}, ToyEngine, 0)
    found = await first_that_starts([gone, start, gone])
    assert found.name == "elsewhere"
    await found.close()


DEADLY = """
import os, gymnasium

class Deadly(gymnasium.Env):
    def reset(self, *, seed=None, options=None):
        os._exit(3)
"""


async def test_an_environment_that_kills_its_process_ends_the_run_with_a_line(tmp_path: Path):
    file = tmp_path / "deadly.py"
    file.write_text(DEADLY)
    async with rollouts(1, 1, env=f"{file}:Deadly") as (workers, _):
        with pytest.raises(Exception, match="groups in a row failed") as caught:
            await asyncio.wait_for(controller(workers, max_retries=1).run(), 120)
        assert "the last one with rollout worker 0 ended: exit code 3" in str(caught.value)
        assert isinstance(caught.value.__cause__, RolloutWorkerLost)


FREEZING = """
import os, pathlib, signal
import gymnasium

class Freezing(gymnasium.Env):
    def reset(self, *, seed=None, options=None):
        mark = pathlib.Path(__file__).with_suffix(".seen")
        if not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGSTOP)
        return "Say a word.", {}

    def step(self, action):
        return "", 1.0, True, False, {}
"""


async def test_a_worker_that_freezes_is_replaced(tmp_path: Path):
    file = tmp_path / "freezing.py"
    file.write_text(FREEZING)
    async with rollouts(1, 1, env=f"{file}:Freezing", stall_limit=20.0) as (workers, _):
        control = controller(workers)
        running = asyncio.create_task(control.run())
        groups = await asyncio.wait_for(control.next_batch(0), 200)
        assert [len(group.episodes) for group in groups] == [4] * 4
        assert control.retries > 0
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def test_requests_of_an_engine_that_dies_wait_for_the_one_that_takes_its_place():
    async with rollouts(1, 1, seconds=60) as (workers, _):  # the one that dies does not come to its end
        running = asyncio.create_task(workers.run_episode(task(1), Sampling(8)))
        await asked(1, workers)
        child("engine 0").kill()
        await until(lambda: not children("engine 0"))
        assert not (await asyncio.wait([running], timeout=1.5))[0]
        another = WorkerEngine(await launch("engine 0", {}, ToyEngine))
        await workers.use_engines([await another.listen("127.0.0.1")])
        await asyncio.wait_for(running, 60)
        assert workers.counts()["rollout/restarted"] == 1
        assert await another.worker.call(ToyEngine.requests) == 1
        await another.close()
