"""A learner of two processes makes the updates and checkpoints of one, and nobody waits for a dead one."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from pathlib import Path
from typing import Any

import pytest
import shards
import torch
from made_up import batch

from areal.config import parse_config
from areal.errors import UserError
from areal.learner.learner import Learner
from areal.models import load_tokenizer, resolve_model
from areal.runtime import assembly, checkpoint
from areal.runtime.processes import Followers, Recipe, SharedLearner

STARTER = resolve_model("starter")
NOTHING: dict[str, Any] = {"next_group": 0, "in_flight": []}
TIMES = {"time/train", "learner/tokens_per_s"}


def recipe(folder: Path) -> Recipe:
    settings = {**shards.SETTINGS.model_dump(exclude_unset=True), "processes": 2}
    return Recipe(parse_config({"learner": settings}), STARTER, "cpu", 1, folder)


def test_two_processes_are_one_learner(tmp_path: Path):
    straight = Learner(STARTER, shards.SETTINGS, "cpu", 1.0, 1)
    expected = shards.updates(straight)
    followers = Followers(recipe(tmp_path))
    (child,) = multiprocessing.active_children()
    try:
        learner = SharedLearner(recipe(tmp_path), followers, load_tokenizer(STARTER))
        assert child.is_alive()
        assert learner.description.startswith("2 processes, ")
        found = shards.updates(learner)
        for ours, theirs in zip(found, expected, strict=True):
            for name in ours.keys() - TIMES:
                assert ours[name] == pytest.approx(theirs[name], rel=1e-4, abs=1e-6), name
        for (name, one), (_, other) in zip(
            learner.named_parameters(), straight.named_parameters(), strict=True
        ):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=2e-6, msg=name)
        # A checkpoint is written while updates go on, and the next waits for it on all ranks.
        writer = threading.Thread(target=learner.write, args=[learner.stage(NOTHING, [])])
        writer.start()
        third = learner.update(batch(3))
        writer.join()
        learner.write(learner.stage(NOTHING, []))
        learner.load(tmp_path / "step-000002")
        assert learner.version == 2
        assert learner.update(batch(3))["loss"] == third["loss"]
        learner.export(tmp_path)
        assert (tmp_path / "model" / "model.safetensors").is_file()
        # What all raise alike is raised once, and ends none of them.
        with pytest.raises(UserError, match="older version of areal"):
            learner.load(tmp_path / "step-000009")
        assert learner.update(batch(4)).keys() == third.keys()
        # When one is killed, nobody waits for it, and it is named.
        os.kill(child.pid, signal.SIGKILL)
        with pytest.raises(UserError, match=r"learner process 1 .* SIGKILL, exit code -9") as error:
            deque(map(learner.update, map(batch, range(4, 1000))), maxlen=0)
        assert followers.ended.result(60) == str(error.value)
        with pytest.raises(UserError, match="learner process 1 "):
            learner.stage(NOTHING, [])
    finally:
        followers.close()
    assert multiprocessing.active_children() == []
    resumed = Learner(STARTER, shards.SETTINGS, "cpu", 1.0, 1)
    checkpoint.load_learner(tmp_path / "step-000003", resumed)
    assert resumed.version == 3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"processes": 2, "advantage": "gae"}, r"learner\.processes=2.*gae"),
        ({"processes": 3}, r"learner\.processes=3, but torch sees 2 GPUs"),
    ],
)
def test_what_several_processes_cannot_do_is_refused_before_anything_is_started(
    settings: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(assembly, "_device", lambda wanted: "cuda")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(UserError, match=message):
        assembly.plan(parse_config({"learner": settings}))
