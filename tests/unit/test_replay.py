"""Replay: recorded batches give the recorded losses to the bit; what differs is said."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from dummy_batches import GROUP, group

import areal
from areal.config import Config, parse_config
from areal.errors import UserError
from areal.models import load_tokenizer, resolve_model
from areal.runtime import checkpoint
from areal.runtime.checkpoint import Checkpoints
from areal.runtime.learner import make_learner
from areal.runtime.replay import describe_start, hash_weights
from areal.runtime.rollout_state import RolloutState
from areal.telemetry.run_directory import RunDirectory, json_line
from areal.trajectory import Batch


def config(output: Path, **learner: object) -> Config:
    rollout = {"batch_size": 2 * GROUP, "group_size": GROUP}
    return parse_config({"output": output, "name": "r", "rollout": rollout, "learner": learner})


def train(directory: RunDirectory, settings: Config, steps: range, save: int | None) -> None:
    """The learner's side of a run, as the loop records it; ``save``: checkpoint after this update."""
    learner = make_learner(settings, resolve_model("starter"), "cpu", 1)
    if steps.start > 1:
        found = checkpoint.before(directory.checkpoints, steps.start)
        assert found is not None
        checkpoint.load_learner(found, learner)
    directory.log_start(describe_start(settings, learner.version, hash_weights(learner), "cpu", 1))
    for step in steps:
        rng = np.random.default_rng(step)
        groups = [group(rng, 2 * step + i, step - 1) for i in range(2)]
        metrics = learner.update(Batch(step - 1, groups))
        directory.log_metrics({"step": step, **metrics})
        directory.log_rollouts(step, map(json_line, [g.to_json() for g in groups]))
        if step == save:
            tokenizer = load_tokenizer(resolve_model("starter"))
            kept = Checkpoints(directory.checkpoints, learner, tokenizer, 1, torch.float32)
            kept.write(kept.stage(RolloutState(next_group=2 * step)))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five updates; resumed after the third with another learning rate, which a first try had not."""
    settings = config(tmp_path_factory.mktemp("runs"))
    directory = RunDirectory.create(settings)
    train(directory, settings, range(1, 5), save=3)
    directory.truncate_metrics(4)
    resumed = config(settings.output, learning_rate=3e-4)
    train(directory, resumed, range(4, 6), save=None)
    return directory.path


@pytest.mark.parametrize("from_step", [1, 3, 5])
def test_the_same_losses_to_the_bit_also_across_a_resumption(run: Path, from_step: int):
    lines: list[str] = []
    found = areal.replay(run, from_step=from_step, show=lines.append)
    assert [s.step for s in found.steps] == list(range(from_step, 6))
    assert all(s.difference == 0 for s in found.steps), lines
    assert not found.failed
    assert found.verdict.startswith("bitwise identical")
    assert any("no checkpoint before update 3" in line for line in lines) == (from_step == 3)
    assert any("from the checkpoint after update 3" in line for line in lines) == (from_step == 5)


def test_nothing_is_written_over(run: Path):
    before = (run / "metrics.jsonl").read_bytes()
    first, second = areal.replay(run), areal.replay(run)
    assert first.path != second.path
    assert first.path.parent == run / "replays"
    assert len((first.path / "metrics.jsonl").read_text().splitlines()) == 5
    assert (run / "metrics.jsonl").read_bytes() == before


def test_other_settings_are_said_and_are_no_failure(run: Path):
    found = areal.replay(run, overrides=["learner.learning_rate=1e-3"])
    assert found.changed == ["learner.learning_rate: 5e-05 → 0.001"]
    assert "expected to differ" in found.verdict
    assert not found.failed
    assert found.steps[-1].difference > 0


def test_the_command_fails_where_a_loss_is_not_the_recorded_one(run: Path, tmp_path: Path):
    copy = tmp_path / "copy"
    subprocess.run(["cp", "-r", run, copy], check=True)
    file = copy / "rollouts" / "step-000002.jsonl"
    groups = [json.loads(line) for line in file.read_text().splitlines()]
    groups[0]["episodes"][0]["reward"] += 0.25
    file.write_text("".join(json.dumps(g) + "\n" for g in groups))
    out = subprocess.run([sys.executable, "-m", "areal", "replay", str(copy)], capture_output=True, text=True)
    assert out.returncode == 1, out.stderr
    assert "DIFFERENT from update 2 on" in out.stdout


def test_what_cannot_be_replayed_is_refused(run: Path, tmp_path: Path):
    with pytest.raises(UserError, match="not a run directory"):
        areal.replay(tmp_path)
    with pytest.raises(UserError, match="recorded updates 1 to 5"):
        areal.replay(run, from_step=6)
    with pytest.raises(UserError, match="recorded updates 1 to 5"):
        areal.replay(run, from_step=0)
    with pytest.raises(UserError, match="not a learner setting"):
        areal.replay(run, overrides=["rollout.batch_size=4"])
    with pytest.raises(UserError, match=r"did you mean 'learner\.learning_rate'"):
        areal.replay(run, overrides=["learner.learning_rat=4"])
    empty = RunDirectory.create(config(tmp_path / "runs"))
    with pytest.raises(UserError, match="no recorded updates"):
        areal.replay(empty.path)


def test_a_changed_model_is_noticed(run: Path, tmp_path: Path):
    copy = tmp_path / "copy"
    subprocess.run(["cp", "-r", run, copy], check=True)
    starts = [json.loads(line) for line in (copy / "starts.jsonl").read_text().splitlines()]
    starts[0]["weights"] = "0" * 64
    (copy / "starts.jsonl").write_text("".join(json.dumps(s) + "\n" for s in starts))
    with pytest.raises(UserError, match="have changed since the run began"):
        areal.replay(copy)
