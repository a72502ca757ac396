"""Whatever fails in the background ends whatever is waited for, in the run's loop too."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import disks
import pytest
from scripted import Scored, ScriptedEngine, asynchronous, settings

from areal.config import Config
from areal.errors import EngineLost, UserError
from areal.rollout.engine import Completion, Sampling
from areal.runtime import checkpoint
from areal.telemetry.run_directory import RunDirectory
from areal.waiting import Watch, wait_all

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
            waiting = asyncio.create_task(watch.wait(wanted, "we", "it"))
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
    assert await watch.wait(asyncio.sleep(0, "a batch"), "we", "a batch") == "a batch"
    never = asyncio.ensure_future(asyncio.Event().wait())
    with pytest.raises(UserError, match="too late"):
        await watch.wait(never, "we", "what never comes")
    assert never.cancelled()
    watch.add(asyncio.sleep(0))
    await watch.check()
    watch.add(failing("at once", now))
    with pytest.raises(UserError, match="at once"):
        await watch.check()


async def test_all_are_waited_for_and_the_first_failure_ends_the_others():
    assert await wait_all(asyncio.sleep(0.02, 1), asyncio.sleep(0.01, 2)) == [1, 2]
    now, never = asyncio.Event(), asyncio.ensure_future(asyncio.Event().wait())
    waiting = asyncio.ensure_future(
        wait_all(never, failing("first", now), failing("second", asyncio.Event()))
    )
    await asyncio.sleep(0)
    assert not waiting.done()
    now.set()
    with pytest.raises(UserError, match="first") as raised:
        await waiting
    assert raised.value.__cause__ is None
    assert raised.value.__context__ is None
    assert never.cancelled()


class Stuck(ScriptedEngine):
    """Answers nothing from a version on, as one that is paused for a load that failed."""

    def __init__(self, version: int, fails: bool = False) -> None:
        super().__init__()
        self._last, self._fails, self._stuck = version, fails, False

    async def generate(self, ids: list[int], sampling: Sampling, *, images: object = ()) -> Completion:
        if self._stuck:
            await asyncio.Future()
        return await super().generate(ids, sampling)

    async def load(self, version: int, digest: str = "") -> dict[str, float]:
        if version == self._last:
            self._stuck = True
            if self._fails:
                raise EngineLost("vLLM cannot load version 2 of the weights: no attribute 'lm_head'")
        return await super().load(version, digest)


async def ended(config: Config, engine: ScriptedEngine, **parts: Any) -> None:
    async with asyncio.timeout(LIMIT):
        await asynchronous(engine, RunDirectory.create(config), config, **parts)


@pytest.mark.parametrize("staleness", [0, 2], ids=["waits for the load", "waits for a batch"])
async def test_a_load_that_fails_ends_the_run(tmp_path: Path, staleness: int):
    config = settings(tmp_path, "run", steps=50)
    config.rollout.max_staleness = staleness
    with pytest.raises(EngineLost, match="no attribute 'lm_head'"):
        await ended(config, Stuck(2, fails=True))
    last = checkpoint.latest(tmp_path / "run" / "checkpoints")
    assert last is not None
    assert checkpoint.version_of(last) >= 2, "what was trained is kept"
    assert (last / "learner").is_dir()


async def test_a_checkpoint_that_cannot_be_written_ends_the_run_while_it_waits_for_a_batch(tmp_path: Path):
    config = settings(tmp_path, "run", steps=50, checkpoint={"every": 2})
    config.rollout.max_staleness = 1
    with pytest.raises(PermissionError, match="took the folder away"):
        await ended(config, Stuck(2), rank=disks.FailsOnce)


async def test_an_evaluation_that_fails_ends_the_run_while_it_waits_for_a_batch(tmp_path: Path):
    engine = Stuck(2)

    class Gone(Scored):
        """Its held-out problems are gone when the second update is made."""

        def reset(self, **task: Any) -> Any:
            if engine.version == 2 and task["options"]["split"] == "test":
                raise UserError("the held-out problems are gone")
            return super().reset(**task)

    config = settings(tmp_path, "run", steps=50, evaluation={"problems": 4, "every": 2})
    config.rollout.max_staleness = 1
    with pytest.raises(UserError, match="held-out problems are gone"):
        await ended(config, engine, env=Gone)
