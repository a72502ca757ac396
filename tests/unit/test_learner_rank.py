"""A learner in processes of its own does what one here does, and nobody waits for a dead one."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import freezing
import pytest
import shards
import torch
from children import worker, workers
from dummy_batches import batch
from inventories import H100, machine

from areal.config import parse_config
from areal.errors import LearnerLost, UserError
from areal.learner import ranks
from areal.learner.learner import Learner
from areal.models import resolve_model
from areal.runtime import checkpoint
from areal.runtime.learner_rank import LearnerRank, LearnerSetup
from areal.runtime.plan import plan
from areal.runtime.replay import hash_weights
from areal.runtime.rollout_state import RolloutState
from areal.runtime.start import start_learner
from areal.weights.layout import WeightLayout
from areal.weights.sender import transfer
from areal.weights.shared_memory import SharedMemoryReceiver
from areal.workers import process
from areal.workers.group import WorkerGroup

STARTER = resolve_model("starter")
TIMES = {"time/train", "learner/tokens_per_s"}


def setup(folder: Path, processes: int = 2, **more: Any) -> LearnerSetup:
    settings = {**shards.SETTINGS.model_dump(exclude_unset=True), "processes": processes, **more}
    return LearnerSetup(parse_config({"learner": settings}), STARTER, "cpu", (1,) * processes, folder)


async def test_two_processes_are_one_learner(tmp_path: Path):
    straight = Learner(STARTER, shards.SETTINGS, "cpu", 1.0, 1)
    expected = [straight.update(each) for each in shards.batches()]
    # On hosts of different size they have different numbers of threads.
    learner = await start_learner(replace(setup(tmp_path), threads=(1, 2)), [process.launch] * 2)
    child = worker("learner rank 1")
    try:
        assert [await each.call(shards.threads) for each in learner.workers] == [1, 2]
        assert (await learner.call(LearnerRank.description)).startswith("2 processes, ")
        for each, theirs in zip(shards.batches(), expected, strict=True):
            ours = await learner.call(LearnerRank.update, each)
            for name in ours.keys() - TIMES:
                assert ours[name] == pytest.approx(theirs[name], rel=1e-4, abs=1e-6), name
        values = await learner.call(LearnerRank.token_values)
        assert len(values) == len(straight.token_values) > 0, "those of both"
        for ours, theirs in zip(values, straight.token_values, strict=True):
            assert (ours.group, ours.number) == (theirs.group, theirs.number)
            for name, column in theirs.values.items():
                assert ours.values[name] == pytest.approx(column, rel=1e-3, abs=1e-4), name
        [info] = await learner.call(LearnerRank.open_sender, ["shared memory"])
        engine = SharedMemoryReceiver(
            info["address"], WeightLayout.from_dict(info["layout"]), torch.device("cpu")
        )
        await learner.call(LearnerRank.publish)
        await learner.call(LearnerRank.send)
        for name, weight in straight.named_parameters():
            torch.testing.assert_close(dict(engine.tensors)[name], weight, rtol=1e-4, atol=2e-6, msg=name)
        # A checkpoint is written while updates go on, and the next waits for it on all ranks.
        await learner.call(LearnerRank.stage, RolloutState())
        written, third = await asyncio.gather(
            learner.call(LearnerRank.write), learner.call(LearnerRank.update, batch(3))
        )
        assert written == tmp_path / "step-000002"
        await learner.call(LearnerRank.stage, RolloutState())
        await learner.call(LearnerRank.write)
        assert await learner.call(LearnerRank.load, written) == 2
        assert (await learner.call(LearnerRank.update, batch(3)))["loss"] == third["loss"]
        await learner.call(LearnerRank.export, tmp_path)
        assert (tmp_path / "model" / "model.safetensors").is_file()
        # What all raise alike is raised once, and ends none of them.
        with pytest.raises(UserError, match="older version of areal"):
            await learner.call(LearnerRank.load, tmp_path / "step-000009")
        assert (await learner.call(LearnerRank.update, batch(4))).keys() == third.keys()
        # When one is killed, nobody waits for it, and it is named.
        os.kill(child.pid, signal.SIGKILL)
        with pytest.raises(LearnerLost, match=r"learner rank 1 .* killed by SIGKILL") as error:
            await for_ever(learner)
        assert learner.ended.result() == str(error.value)
        with pytest.raises(LearnerLost, match="learner rank 1 "):
            await learner.call(LearnerRank.stage, RolloutState())
    finally:
        await learner.close()
    assert workers() == []
    resumed = Learner(STARTER, shards.SETTINGS, "cpu", 1.0, 1)
    checkpoint.load_learner(tmp_path / "step-000003", resumed)
    assert resumed.version == 3


async def test_one_process_is_the_learner_to_the_bit(tmp_path: Path):
    straight = Learner(STARTER, shards.SETTINGS, "cpu", 1.0, 1)
    learner = await start_learner(setup(tmp_path, 1), [process.launch])
    try:
        for each in shards.batches():
            ours, theirs = await learner.call(LearnerRank.update, each), straight.update(each)
            assert {name: ours[name] for name in ours.keys() - TIMES} == {
                name: theirs[name] for name in theirs.keys() - TIMES
            }
        assert await learner.call(LearnerRank.hash_weights) == hash_weights(straight)
    finally:
        await learner.close()
    assert workers() == []


@pytest.mark.parametrize("stopped", [False, True])
async def test_what_waits_for_a_killed_learner_is_told(tmp_path: Path, stopped: bool):
    """Also where it has read nothing for a while, so that what it was to read has filled its pipe."""
    learner = await start_learner(setup(tmp_path, 1), [process.launch])
    try:
        child = worker("learner rank 0")
        if stopped:
            os.kill(child.pid, signal.SIGSTOP)
        work: tuple[Any, ...] = (LearnerRank.update, batch(1, groups=2000)) if stopped else (freezing.hang,)
        waiting = asyncio.ensure_future(learner.call(*work))
        await asyncio.sleep(0.2)
        assert not waiting.done()
        os.kill(child.pid, signal.SIGKILL)
        with pytest.raises(LearnerLost, match=r"learner rank 0 ended: killed by SIGKILL"):
            await asyncio.wait_for(waiting, 60)
        assert "SIGKILL" in await asyncio.wait_for(learner.ended, 60)
    finally:
        await learner.close()
    assert workers() == []


async def test_a_process_that_is_killed_before_its_learner_is_made_says_what_to_look_for(tmp_path: Path):
    starting = asyncio.ensure_future(start_learner(setup(tmp_path), [process.launch] * 2))
    while not workers("learner rank 1"):  # noqa: ASYNC110 (another process does it)
        await asyncio.sleep(0.01)
    worker("learner rank 1").kill()
    with pytest.raises(LearnerLost, match=r"learner rank 1 ended: killed by SIGKILL.*engine\.log"):
        await asyncio.wait_for(starting, 60)
    assert workers() == []


async def test_a_learner_that_reads_nothing_is_ended_when_it_is_closed(tmp_path: Path):
    learner = await start_learner(setup(tmp_path, 1), [process.launch])
    os.kill(worker("learner rank 0").pid, signal.SIGSTOP)
    waiting = asyncio.ensure_future(learner.call(LearnerRank.update, batch(1, groups=2000)))
    await asyncio.sleep(0.2)
    await learner.close(grace=1)
    with pytest.raises(LearnerLost, match="closed"):
        await asyncio.wait_for(waiting, 60)
    assert workers() == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
async def test_a_signal_to_all_processes_leaves_the_learner_to_the_run(
    tmp_path: Path, number: signal.Signals
):
    learner = await start_learner(setup(tmp_path, 1), [process.launch])
    try:
        os.kill(worker("learner rank 0").pid, number)
        await learner.call(LearnerRank.update, batch(1))
    finally:
        await learner.close()


async def test_a_load_that_fails_does_not_wait_for_a_broadcast_that_nobody_joins(tmp_path: Path):
    async def failing() -> None:
        await asyncio.sleep(0.2)
        raise RuntimeError("the engine died")

    learner = await start_learner(setup(tmp_path, 1), [process.launch])
    begun = time.monotonic()
    try:
        await learner.call(LearnerRank.open_sender, ["broadcast"])
        await learner.call(LearnerRank.publish)
        with pytest.raises(RuntimeError, match="the engine died"):
            await transfer(failing(), learner.call(LearnerRank.send))
        await learner.call(LearnerRank.update, batch(1))
    finally:
        await learner.close()
    assert time.monotonic() - begun < 100, "the group's own limit is three minutes"
    assert workers() == []


async def test_an_error_of_the_learner_says_where_it_came_from(tmp_path: Path):
    (tmp_path / "checkpoints").write_text("in the way")
    learner = await start_learner(setup(tmp_path / "checkpoints", 1), [process.launch])
    try:
        await learner.call(LearnerRank.stage, RolloutState())
        with pytest.raises(OSError, match="checkpoints") as error:
            await learner.call(LearnerRank.write)
        assert any("checkpoint.py" in note for note in error.value.__notes__)
    finally:
        await learner.close()


def test_ranks_that_do_not_reach_each_other_say_so_in_a_line():
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    with pytest.raises(
        UserError, match=rf"^rank 0 of the learner at 127\.0\.0\.1:{port} was not reached "
    ) as one:
        ranks.join_store("127.0.0.1", port, 1)
    store = ranks.open_store("127.0.0.1")
    with pytest.raises(UserError, match=r"^some ranks of the learner were not reached within 1 s ") as other:
        ranks.init_process_group("cpu", store, 0, 2, 1)
    for error in (one, other):
        assert "ray.interface" in str(error.value)
        assert "\n" not in str(error.value)
    assert ranks.world_size() == 1


def test_a_broken_connection_or_gpu_is_told_from_other_errors():
    gloo = RuntimeError("[/pytorch/gloo/transport/tcp/pair.cc:534] Connection closed by peer\nmore")
    assert ranks.broken(gloo).endswith("Connection closed by peer")
    unreached = torch.distributed.DistNetworkError("no route")
    assert ranks.broken(unreached) == "DistNetworkError: no route"
    assert ranks.broken(torch.AcceleratorError("CUDA error: unspecified launch failure"))
    assert ranks.broken(torch.OutOfMemoryError("CUDA out of memory")) == ""
    assert ranks.broken(RuntimeError("shapes differ")) == ""


async def for_ever(learner: WorkerGroup[LearnerRank]) -> None:
    while True:
        await learner.call(LearnerRank.update, batch(4))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"processes": 2, "advantage": "gae"}, r"advantage=gae trains .*learner\.processes=2"),
        ({"processes": 3}, r"learner\.processes=3, but there are 2 GPUs"),
    ],
)
def test_what_several_processes_cannot_do_is_refused_before_anything_is_started(
    settings: dict[str, Any], message: str
):
    with pytest.raises(UserError, match=message):
        plan(parse_config({"learner": settings}), inventory=machine(H100, H100))
