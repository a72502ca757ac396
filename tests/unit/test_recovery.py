"""A learner that dies or freezes is brought back, at any moment, and the run is as it would have been."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path
from typing import Any

import pytest
from children import worker, workers
from mortal import HANG, Faulty, Mortal, doom
from scripted import GROUPS, ScriptedEngine, asynchronous, make_rollout_worker, settings, trainer_on
from synchronous import assert_same, synchronous

import areal
from areal.config import Config
from areal.errors import Interrupted, LearnerLost, UserError
from areal.rollout.engine import Completion, Sampling
from areal.runtime.checkpoint import versions
from areal.runtime.learner import make_learner
from areal.runtime.plan import plan
from areal.runtime.resuming import find_resume_point
from areal.telemetry.run_directory import RunDirectory, read_metrics
from areal.telemetry.status import read_status

UPDATES = 6


def config_of(folder: Path, restarts: int, **more: Any) -> Config:
    run = {"max_restarts": restarts, "stall_limit": more.pop("stall_limit", 300)}
    return settings(
        folder, "run", **{"steps": UPDATES, "checkpoint": {"every": 2, "keep": 9}, "run": run, **more}
    )


def steps_of(directory: RunDirectory) -> list[int]:
    return [line["step"] for line in read_metrics(directory.path)]


def counts(directory: RunDirectory) -> dict[str, int]:
    names = [event["event"] for event in directory.events()]
    return {name: names.count(name) for name in ("lost", "restarted")}


def consumed(directory: RunDirectory) -> list[int]:
    return [group["id"] for step in directory.recorded_steps() for group in directory.read_rollouts(step)]


class KillsWhileWaiting(ScriptedEngine):
    """Kills the learner while it waits for its second batch, once."""

    killed = False

    async def generate(self, ids: list[int], sampling: Sampling, *, images: object = ()) -> Completion:
        if self.version == 1 and not self.killed:
            self.killed = True
            worker("learner rank 0").kill()
        return await super().generate(ids, sampling)


async def test_a_learner_that_is_killed_at_every_moment_changes_nothing(tmp_path: Path):
    """At η=0 batches, losses and weights are those of the synchronous algorithm, to the bit."""
    moments = ["update 0", "write 2", "send 3", "load", "stage 4", "written 6", "export"]
    config = config_of(tmp_path, len(moments) + 1)
    checked, engine = plan(config), ScriptedEngine()
    straight, learner = make_rollout_worker(checked, engine), make_learner(config, checked.model, "cpu", 1)
    expected = await synchronous(checked, straight, learner, engine.load)
    await straight.close()
    directory = RunDirectory.create(config)
    for moment in moments:
        doom(directory.path, moment)
    await asynchronous(KillsWhileWaiting(), directory, config, rank=Mortal)
    assert not list(directory.path.glob("doom*"))
    assert_same(directory.path, expected)
    assert list(versions(directory.checkpoints)) == [2, 4, 6], "what was due is written"
    assert not list(directory.path.rglob(".partial*"))
    assert areal.replay(directory.path).verdict.startswith("bitwise identical")
    times = {"lost": len(moments) + 1, "restarted": len(moments)}
    assert counts(directory) == times, "once it died while it was brought back"
    assert read_status(directory.path)["restarts"] == len(moments) + 1
    assert workers() == []


async def test_what_is_under_way_at_its_death_keeps_its_staleness_and_is_consumed_once(tmp_path: Path):
    config = config_of(tmp_path, 9, stall_limit=30)
    config.rollout.max_staleness = 2
    directory = RunDirectory.create(config)
    doom(directory.path, "publish 3", HANG)
    doom(directory.path, "updated 4")
    await asynchronous(ScriptedEngine(), directory, config, rank=Mortal)
    assert counts(directory) == {"lost": 2, "restarted": 2}
    hung, _ = (event["cause"] for event in directory.events() if event["event"] == "lost")
    assert hung.startswith("learner rank 0 ended: no progress for 30 s, and its answer is overdue (frozen)")
    assert steps_of(directory) == list(range(1, UPDATES + 1))
    assert max(line["staleness/max"] for line in read_metrics(directory.path)) <= 2
    groups = consumed(directory)
    assert len(groups) == len(set(groups)) == UPDATES * GROUPS
    assert max(groups) < UPDATES * GROUPS + 3 * GROUPS, "none in flight was given up"
    assert areal.replay(directory.path).verdict.startswith("bitwise identical")


async def test_one_of_two_ranks_that_is_killed_or_freezes_is_brought_back(tmp_path: Path):
    learner = {"threads": 1, "processes": 2, "max_mismatch": "inf"}
    config = config_of(tmp_path, 2, learner=learner, stall_limit=40, steps=3)
    directory = RunDirectory.create(config)
    doom(directory.path, "updated 0", rank=1)
    doom(directory.path, "update 2", "SIGSTOP", rank=1)
    await asynchronous(ScriptedEngine(), directory, config, rank=Mortal)
    killed, frozen = (event for event in directory.events() if event["event"] == "lost")
    assert killed["cause"].startswith("learner rank 1 ended: killed by SIGKILL")
    assert frozen["cause"].startswith("learner rank 1 ended: no heartbeat for ")
    assert steps_of(directory) == [1, 2, 3]
    assert len(set(consumed(directory))) == 3 * GROUPS
    assert list(directory.path.glob("stall*.txt")), "where it stood still"
    assert workers() == []


async def test_past_the_budget_the_run_ends_with_the_first_cause_and_can_be_resumed(tmp_path: Path):
    config = config_of(tmp_path, 1)
    directory = RunDirectory.create(config)
    doom(directory.path, "update 3", "SIGSEGV")
    async with trainer_on(ScriptedEngine(), directory, config, rank=Mortal) as trainer:
        doom(directory.path, "make")
        with pytest.raises(LearnerLost) as error:
            await trainer.run()
    assert str(error.value).startswith("learner rank 0 ended: killed by SIGSEGV; ")
    assert "; the learner was restarted 1 time within an hour (run.max_restarts=1), and" in str(error.value)
    assert "besides" not in str(error.value)
    assert workers() == []
    await asynchronous(ScriptedEngine(), directory, config, find_resume_point(directory, config))
    assert areal.replay(directory.path).verdict.startswith("bitwise identical")


@pytest.mark.parametrize("hurried", [False, True])
async def test_a_stop_while_the_learner_restarts_is_heeded_at_once(tmp_path: Path, hurried: bool):
    config = config_of(tmp_path, 5)
    directory = RunDirectory.create(config)
    doom(directory.path, "update 3")
    async with trainer_on(ScriptedEngine(), directory, config, rank=Mortal) as trainer:
        doom(directory.path, "make", "SIGSTOP")
        running = asyncio.ensure_future(trainer.run())
        while not trainer.recovering or not workers("learner rank 0"):  # noqa: ASYNC110 (others do it)
            await asyncio.sleep(0.05)
        waits = [(wait.who, wait.what) for wait in trainer.watch.waits.now]
        trainer.stop()
        if hurried:
            trainer.stop_at_once()
        with pytest.raises(Interrupted, match=rf"after 3 of {UPDATES} updates; resume with"):
            await asyncio.wait_for(running, 60)
    assert ("the run", "the learner to restart") in waits
    assert 3 not in versions(directory.checkpoints)
    assert find_resume_point(directory, config).recorded == 3, "nothing is lost"
    assert workers() == []


@pytest.mark.parametrize("moment", ["update 1", "update 3"])
async def test_a_run_directory_that_vanishes_meanwhile_ends_the_run_in_one_line(tmp_path: Path, moment: str):
    """Before the first checkpoint, and after it."""
    config = config_of(tmp_path, 5)
    directory = RunDirectory.create(config)
    doom(directory.path, moment)
    async with trainer_on(ScriptedEngine(), directory, config, rank=Mortal) as trainer:
        running = asyncio.ensure_future(trainer.run())
        while not trainer.recovering:  # noqa: ASYNC110 (others do it)
            await asyncio.sleep(0.05)
        while directory.path.exists():  # the run writes meanwhile
            shutil.rmtree(directory.path, ignore_errors=True)
        with pytest.raises(UserError) as error:
            await running
    assert (
        str(error.value)
        == f"{directory.path} no longer exists: it was removed or moved while the run was writing to it"
    )
    assert workers() == []


@pytest.mark.long
async def test_what_a_rank_raises_is_no_loss(tmp_path: Path):
    learner = {"threads": 1, "processes": 2, "max_mismatch": "inf"}
    config = config_of(tmp_path, 5, learner=learner)
    directory = RunDirectory.create(config)
    with pytest.raises(FloatingPointError, match="a bug"):
        await asynchronous(ScriptedEngine(), directory, config, rank=Faulty)
    assert directory.events() == []
    assert workers() == []
