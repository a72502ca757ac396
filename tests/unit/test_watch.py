"""Whatever fails in the background ends whatever is waited for, in the run's loop too."""

from __future__ import annotations

import asyncio
from pathlib import Path

import disks
import pytest
from scripted import ScriptedEngine, asynchronous, settings

from areal.config import Config
from areal.errors import EngineLost, UserError
from areal.evaluation.report import Report
from areal.rollout.engine import Completion, Sampling
from areal.rollout.worker import RolloutWorker
from areal.runtime import checkpoint, loop
from areal.runtime.held_out import evaluate_held_out
from areal.runtime.plan import Plan
from areal.runtime.watch import Watch
from areal.telemetry.run_directory import RunDirectory

LIMIT = 120
"""Seconds in which a run that has failed must have ended, on the slowest machine."""


async def failing(message: str, after: asyncio.Event) -> None:
    await after.wait()
    raise UserError(message)


async def test_a_failure_ends_each_wait_for_something_else():
    for number in range(3):
        watch, now = Watch(), [asyncio.Event() for _ in range(3)]
        tasks = [watch.add(failing(str(i), event)) for i, event in enumerate(now)]
        for wanted in [*(t for t in tasks if t is not tasks[number]), asyncio.Event().wait()]:
            waiting = asyncio.create_task(watch.wait(wanted))
            await asyncio.sleep(0)
            assert not waiting.done()
            now[number].set()
            with pytest.raises(UserError, match=str(number)):
                await waiting
            assert not any(task.cancelled() for task in tasks), "what is watched goes on"
            now[number] = asyncio.Event()
            tasks[number] = watch.add(failing(str(number), now[number]))
        await watch.close()
        assert all(task.done() for task in tasks)


async def test_what_was_waited_for_comes_before_a_failure_and_what_is_given_up_is_cancelled():
    watch, now = Watch(), asyncio.Event()
    watch.add(failing("too late", now))
    now.set()
    assert await watch.wait(asyncio.sleep(0, "a batch")) == "a batch"
    never = asyncio.ensure_future(asyncio.Event().wait())
    with pytest.raises(UserError, match="too late"):
        await watch.wait(never)
    assert never.cancelled()
    watch.add(asyncio.sleep(0))
    await watch.check()
    watch.add(failing("at once", now))
    with pytest.raises(UserError, match="at once"):
        await watch.check()


class Stuck(ScriptedEngine):
    """Answers nothing from a version on, as one that is paused for a load that failed."""

    def __init__(self, version: int, fails: bool = False) -> None:
        super().__init__()
        self._last, self._fails, self._stuck = version, fails, False

    async def generate(self, ids: list[int], sampling: Sampling) -> Completion:
        if self._stuck:
            await asyncio.Future()
        return await super().generate(ids, sampling)

    async def load(self, version: int) -> dict[str, float]:
        if version == self._last:
            self._stuck = True
            if self._fails:
                raise EngineLost("vLLM cannot load version 2 of the weights: no attribute 'lm_head'")
        return await super().load(version)


async def ended(config: Config, monkeypatch: pytest.MonkeyPatch, engine: ScriptedEngine) -> None:
    async with asyncio.timeout(LIMIT):
        await asynchronous(RunDirectory.create(config), config, monkeypatch, engine=engine)


@pytest.mark.parametrize("staleness", [0, 2], ids=["waits for the load", "waits for a batch"])
async def test_a_load_that_fails_ends_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, staleness: int
):
    config = settings(tmp_path, "run", steps=50)
    config.rollout.max_staleness = staleness
    with pytest.raises(EngineLost, match="no attribute 'lm_head'"):
        await ended(config, monkeypatch, Stuck(2, fails=True))
    last = checkpoint.latest(tmp_path / "run" / "checkpoints")
    assert last is not None
    assert checkpoint.version_of(last) >= 2, "what was trained is kept"
    assert (last / "learner").is_dir()


async def test_a_checkpoint_that_cannot_be_written_ends_the_run_while_it_waits_for_a_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(loop, "Recipe", disks.FailsOnce)
    config = settings(tmp_path, "run", steps=50, checkpoint={"every": 2})
    config.rollout.max_staleness = 1
    with pytest.raises(PermissionError, match="took the folder away"):
        await ended(config, monkeypatch, Stuck(2))


async def test_an_evaluation_that_fails_ends_the_run_while_it_waits_for_a_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    async def fail(worker: RolloutWorker, plan: Plan, model: str) -> Report:
        if model == "version 2":
            raise UserError("the held-out problems are gone")
        return await evaluate_held_out(worker, plan, model)

    monkeypatch.setattr(loop, "evaluate_held_out", fail)
    config = settings(tmp_path, "run", steps=50, evaluation={"problems": 4, "every": 2})
    config.rollout.max_staleness = 1
    with pytest.raises(UserError, match="held-out problems are gone"):
        await ended(config, monkeypatch, Stuck(2))
