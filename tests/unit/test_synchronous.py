"""At η=0 the asynchronous runtime is the synchronous algorithm: same batches, losses and weights, to the bit.

The engine here is scripted: what it samples is a function of weights' version, prompt and seed, and requests
end in a random order. Everything else is what a run has.
"""

from __future__ import annotations

import asyncio
import gc
import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import disks
import pytest
from children import workers
from scripted import (
    GROUPS,
    MEMBERS,
    STEPS,
    Scored,
    ScriptedEngine,
    asynchronous,
    make_rollout_worker,
    settings,
    trainer_on,
)
from synchronous import Outcome, assert_same, synchronous

import areal
from areal.config import Config
from areal.errors import DiskFull, Interrupted, LearnerLost
from areal.rollout.engine import Completion, Sampling
from areal.runtime.checkpoint import latest, version_of
from areal.runtime.learner import make_learner
from areal.runtime.learner_rank import LearnerRank
from areal.runtime.loop import Trainer
from areal.runtime.plan import plan
from areal.runtime.resuming import find_resume_point
from areal.telemetry.run_directory import RunDirectory, read_metrics
from areal.workers.group import WorkerGroup


async def expected_outcome(config: Config) -> Outcome:
    checked, engine = plan(config), ScriptedEngine()
    worker = make_rollout_worker(checked, engine)
    learner = make_learner(config, checked.model, "cpu", 1)
    outcome = await synchronous(checked, worker, learner, engine.load)
    await worker.close()
    return outcome


class FailsOnce(Scored):
    """Raises in the first step of each task: one member of each group fails once."""

    failed: ClassVar[set[int]] = set()

    def reset(self, **task: Any) -> Any:
        self._task = task["options"]["index"]
        return super().reset(**task)

    def step(self, action: str) -> Any:
        if self._task not in self.failed:
            self.failed.add(self._task)
            raise ConnectionError("the sandbox is gone")
        return super().step(action)


async def test_eta_zero_is_the_synchronous_algorithm(tmp_path: Path):
    config = settings(tmp_path, "whole")
    expected = await expected_outcome(config)
    directory = RunDirectory.create(config)
    engine = ScriptedEngine()
    await asynchronous(engine, directory, config)
    assert None not in engine.seeds
    assert len(set(engine.seeds)) == len(engine.seeds), "each request has a seed of its own"
    assert_same(directory.path, expected)
    replayed = areal.replay(directory.path)
    assert replayed.verdict.startswith("bitwise identical")

    # Stopped after two updates and resumed, it is the same run still, also where episodes are run again.
    short = settings(tmp_path, "parts", steps=2)
    parts = RunDirectory.create(short)
    await asynchronous(ScriptedEngine(), parts, short, env=FailsOnce)
    assert list(read_metrics(parts.path))[-1]["rollout/retries"] >= 2 * GROUPS
    whole = settings(tmp_path, "parts")
    await asynchronous(ScriptedEngine(), parts, whole, find_resume_point(parts, whole))
    assert_same(parts.path, expected)
    assert areal.replay(parts.path, from_step=3).verdict.startswith("bitwise identical")


async def test_a_curriculum_goes_on_over_a_resumption(tmp_path: Path):
    """Which environment a problem is of follows from its number; each has a held-out accuracy of its own."""
    easy, hard = ({"env": "math-v1", "name": name} for name in ("easy", "hard"))
    more: dict[str, Any] = {
        "env": "mixture-v1",
        "env_options": {"members": [easy, {**hard, "after": 3 * GROUPS}]},
        "evaluation": {"problems": 6},
    }
    run = RunDirectory.create(settings(tmp_path, "mixed", **{**more, "steps": 2}))
    await asynchronous(ScriptedEngine(), run, settings(tmp_path, "mixed", **{**more, "steps": 2}))
    whole = settings(tmp_path, "mixed", **{**more, "steps": 5})
    await asynchronous(ScriptedEngine(), run, whole, find_resume_point(run, whole))
    envs = [
        [episode["env"] for group in run.read_rollouts(step) for episode in group["episodes"]]
        for step in range(1, 6)
    ]
    assert [set(met) for met in envs[:3]] == [{"easy"}] * 3
    half = GROUPS // 2 * MEMBERS
    assert [Counter(met) for met in envs[3:]] == [{"easy": half, "hard": half}] * 2
    before, *_, after = (line for line in read_metrics(run.path) if "eval/mixture-v1/avg@1" in line)
    for line in (before, after):
        mean = (line["eval/easy/avg@1"] + line["eval/hard/avg@1"]) / 2
        assert line["eval/mixture-v1/avg@1"] == pytest.approx(mean)
        assert line["eval/hard/avg@1/low"] <= line["eval/hard/avg@1"]


async def test_asynchronous_requests_use_the_engines_own_random_state(tmp_path: Path):
    config, engine = settings(tmp_path, "stale", steps=1), ScriptedEngine()
    config.rollout.max_staleness = 1
    await asynchronous(engine, RunDirectory.create(config), config)
    assert set(engine.seeds) == {None}


async def test_a_stop_is_heeded_while_batches_wait_for_the_learner(tmp_path: Path):
    config = settings(tmp_path, "stopped", steps=500)
    config.rollout.max_staleness = math.inf
    stopped = []

    def stop_where_one_waits(trainer: Trainer) -> None:
        if trainer.checkpoints.admission.complete >= GROUPS:
            stopped.append(trainer.version)
            trainer.stop()

    with pytest.raises(Interrupted) as error:
        await asynchronous(
            ScriptedEngine(), RunDirectory.create(config), config, recorded=stop_where_one_waits
        )
    assert len(stopped) == 1, "at once"
    assert f"stopped after {stopped[0]} of 500" in str(error.value)


class StopsAtAnUpdate:
    """A learner that is about to make the second update when the run is asked to stop."""

    stop: Callable[[], None]

    def __init__(self, learner: WorkerGroup[LearnerRank]) -> None:
        self._learner, self._updates = learner, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._learner, name)

    async def call(self, method: Any, *args: Any) -> Any:
        if method is LearnerRank.update:
            self._updates += 1
            if self._updates == 2:
                self.stop()
        return await self._learner.call(method, *args)


async def test_an_update_in_flight_at_a_stop_is_counted(tmp_path: Path):
    config = settings(tmp_path, "counted", steps=500)
    directory = RunDirectory.create(config)
    async with trainer_on(ScriptedEngine(), directory, config, learner=StopsAtAnUpdate) as trainer:
        assert isinstance(trainer.learner, StopsAtAnUpdate)
        trainer.learner.stop = trainer.stop
        with pytest.raises(Interrupted) as error:
            await trainer.run()
    kept = latest(directory.checkpoints)
    assert kept is not None
    assert version_of(kept) == 2
    assert "stopped after 2 of 500" in str(error.value)


async def test_a_second_stop_writes_no_checkpoint(tmp_path: Path):
    config = settings(tmp_path, "hurried", steps=500, checkpoint={"every": 2})
    config.rollout.max_staleness = 1
    directory = RunDirectory.create(config)

    def stop_twice(trainer: Trainer) -> None:
        if trainer.version == 5:
            trainer.stop()
            trainer.stop_at_once()

    with pytest.raises(Interrupted, match=r"stopped immediately after 5 of 500 updates; resume"):
        await asynchronous(ScriptedEngine(), directory, config, recorded=stop_twice)
    assert workers() == []
    kept = latest(directory.checkpoints)
    assert kept is not None
    assert version_of(kept) in (2, 4), "the second was being written, perhaps"


async def test_an_engine_that_ends_as_the_run_is_stopped_adds_nothing(tmp_path: Path):
    """As where a cluster's scheduler sends SIGTERM to each process of a job."""

    class Ends(ScriptedEngine):
        async def load(self, version: int, digest: str = "") -> dict[str, float]:
            if version < 2:
                return await super().load(version, digest)
            await asyncio.sleep(0.1)
            raise RuntimeError("the engine ended")

    def stop(trainer: Trainer) -> None:
        if trainer.version == 2:
            trainer.stop()

    reported = list[dict[str, Any]]()
    config = settings(tmp_path, "stopped", steps=50)
    config.rollout.max_staleness = 2
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))
    with pytest.raises(Interrupted):
        await asynchronous(Ends(), RunDirectory.create(config), config, recorded=stop)
    gc.collect()
    asyncio.get_running_loop().set_exception_handler(None)
    assert reported == []


async def test_training_goes_on_while_a_checkpoint_is_written(tmp_path: Path):
    config = settings(tmp_path, "slow", checkpoint={"every": 2})
    directory = RunDirectory.create(config)

    def note(trainer: Trainer) -> None:
        if trainer.version == 3:
            (directory.path / disks.MOVED).touch()

    await asynchronous(ScriptedEngine(), directory, config, rank=disks.SlowDisk, recorded=note)
    assert [p.name for p in sorted(directory.checkpoints.iterdir())] == ["step-000002", "step-000004"]
    assert areal.replay(directory.path, from_step=3).verdict.startswith("bitwise identical")


class Kills(ScriptedEngine):
    """Generates nothing with version 2, and kills the second process of the learner."""

    async def generate(self, ids: list[int], sampling: Sampling, *, images: object = ()) -> Completion:
        if self.version < 2:
            return await super().generate(ids, sampling)
        for child in workers("learner rank 1"):
            child.kill()
        return await asyncio.Future()


async def test_a_run_of_two_processes_ends_when_one_is_killed_and_one_goes_on(tmp_path: Path):
    """Killed while the learner waits for a batch; then resumed on one process, and replayed."""
    more = {"learner": {"threads": 2, "processes": 2}, "checkpoint": {"every": 1, "keep": 9}}
    config = settings(tmp_path, "shared", run={"max_restarts": 0}, **more)
    directory = RunDirectory.create(config)
    with pytest.raises(LearnerLost, match=r"learner rank 1 .*SIGKILL"):
        await asynchronous(Kills(), directory, config)
    assert workers() == []
    names = {path.name for path in directory.checkpoints.glob("step-*")}
    assert names in ({"step-000001"}, {"step-000001", "step-000002"}), "the last was being written"
    alone = settings(tmp_path, "shared")
    await asynchronous(ScriptedEngine(), directory, alone, find_resume_point(directory, alone))
    replayed = areal.replay(directory.path)
    assert not replayed.failed
    assert len(replayed.steps) == STEPS
    assert max(step.difference for step in replayed.steps) < 1e-3
    assert replayed.environment == ["learner processes: 2 → 1"]
    assert areal.replay(directory.path, from_step=3).verdict == "bitwise identical: 2 updates", "of one"


async def test_a_full_disk_costs_a_checkpoint_and_not_the_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    config = settings(tmp_path, "once", steps=6, checkpoint={"every": 2, "keep": 9})
    directory = RunDirectory.create(config)
    await asynchronous(ScriptedEngine(), directory, config, rank=disks.FullOnce)
    assert [p.name for p in sorted(directory.checkpoints.iterdir())] == ["step-000004", "step-000006"]
    assert "free some space; the run continues, and tries again" in caplog.text

    config = settings(tmp_path, "always", steps=4, checkpoint={"every": 2})
    directory = RunDirectory.create(config)
    with pytest.raises(DiskFull, match="no space left for a checkpoint"):
        await asynchronous(ScriptedEngine(), directory, config, rank=disks.AlwaysFull)
    assert len(read_metrics(directory.path)) == 4, "the last one is not optional"


async def test_a_checkpoint_that_fails_ends_the_run(tmp_path: Path):
    config = settings(tmp_path, "failed", steps=50, checkpoint={"every": 2})
    directory = RunDirectory.create(config)
    with pytest.raises(PermissionError, match="took the folder away"):
        await asynchronous(ScriptedEngine(), directory, config, rank=disks.FailsOnce)
    (last,) = directory.checkpoints.iterdir()
    assert 2 <= version_of(last) < 10, "at once, and what was trained is kept"
