"""A damaged checkpoint is noticed before it is loaded, and the one before it serves."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from dummy_batches import batch
from scripted import ScriptedEngine, asynchronous, settings

from areal.config import LearnerConfig, load_config, parse_config
from areal.errors import UserError
from areal.learner.learner import Learner
from areal.models import load_tokenizer, resolve_model
from areal.runtime import checkpoint
from areal.runtime.checkpoint import Checkpoints
from areal.runtime.digests import SUMS
from areal.runtime.export import export_model
from areal.runtime.resuming import find_resume_point
from areal.runtime.rollout_state import RolloutState
from areal.telemetry.run_directory import RunDirectory, read_metrics

STARTER = resolve_model("starter")


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with checkpoints of updates 1 and 2."""
    made = RunDirectory.create(parse_config({"output": tmp_path_factory.mktemp("runs"), "name": "r"}))
    learner = Learner(STARTER, LearnerConfig(), "cpu", 1.0, 1)
    kept = Checkpoints(made.checkpoints, learner, load_tokenizer(STARTER), 2, torch.float32)
    for step in (1, 2):
        learner.update(batch(step))
        kept.write(kept.stage(RolloutState()))
    return made.path


@pytest.fixture
def run(original: Path, tmp_path: Path) -> RunDirectory:
    shutil.copytree(original, tmp_path / "r")
    return RunDirectory.open(tmp_path / "r")


def last(run: RunDirectory) -> Path:
    return run.checkpoints / "step-000002"


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path: Path) -> None:
    """Change one bit in the middle."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_the_sums_are_what_sha256sum_reads(run: RunDirectory):
    done = subprocess.run(["sha256sum", "--strict", "-c", SUMS], cwd=last(run), capture_output=True)
    assert done.returncode == 0, done.stderr
    listed = {line.split("  ")[1] for line in (last(run) / SUMS).read_text().splitlines()}
    files = {str(p.relative_to(last(run))) for p in last(run).rglob("*") if p.is_file()}
    assert listed == files - {SUMS}
    assert checkpoint.damage(last(run)) == ""


@pytest.mark.parametrize("harm", [Path.unlink, cut, flip])
def test_damage_to_any_file_is_found(run: RunDirectory, harm: Callable[[Path], None], tmp_path: Path):
    for file in [path for path in last(run).rglob("*") if path.is_file() and path.stat().st_size > 1]:
        shutil.copy(file, tmp_path / "kept")
        harm(file)
        what = checkpoint.damage(last(run))
        name = str(file.relative_to(last(run)))
        assert what, f"{harm.__name__} of {name}"
        assert name in what or SUMS in (name, *what.split()) or name == "state.json", what
        shutil.copy(tmp_path / "kept", file)
    assert checkpoint.damage(last(run)) == ""


def test_the_one_before_serves_and_a_line_says_which_and_why(run: RunDirectory):
    config = load_config(run.path / "config.yaml")
    assert find_resume_point(run, config).checkpoint == last(run)
    assert find_resume_point(run, config).notices == []
    flip(last(run) / "learner" / "__0_0.distcp")
    before = {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()}
    found = find_resume_point(run, config)
    assert found.checkpoint == run.checkpoints / "step-000001"
    (line,) = found.notices
    assert "the checkpoint of update 2 is damaged (learner/__0_0.distcp does not match its SHA-256)" in line
    assert "from that of update 1" in line
    assert {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()} == before
    assert checkpoint.before(run.checkpoints, 3) == found.checkpoint, "a replay does not begin with it either"
    with pytest.raises(UserError, match=r"update 2 is damaged \(learner.*choose another one with --step: 1"):
        export_model(run.path, run.path.parent / "model", 2)


def test_where_all_are_damaged_one_line_names_them(run: RunDirectory):
    for number in (1, 2):
        (run.checkpoints / f"step-{number:06d}" / "learner" / ".metadata").unlink()
    with pytest.raises(UserError, match=r"every .* is damaged \(step-000002: .*; step-000001: ") as error:
        find_resume_point(run, load_config(run.path / "config.yaml"))
    assert "\n" not in str(error.value)


def test_a_checkpoint_of_an_older_version_has_no_digests(run: RunDirectory):
    (last(run) / SUMS).unlink()
    (last(run) / "state.json").write_text('{"next_group": 0, "in_flight": []}')
    assert checkpoint.damage(last(run)) == ""
    (last(run) / "groups.jsonl").unlink()
    assert checkpoint.damage(last(run)) == "groups.jsonl is missing"


async def test_a_run_goes_on_from_the_one_before_and_keeps_the_good_ones(tmp_path: Path):
    """The damaged one is set aside: it takes no good one's place among those that are kept."""
    config = settings(tmp_path, "r", checkpoint={"every": 1, "keep": 2})
    run = RunDirectory.create(config)
    await asynchronous(ScriptedEngine(), run, config)
    flip(run.checkpoints / "step-000004" / "learner" / "__0_0.distcp")
    point = find_resume_point(run, settings(tmp_path, "r", steps=6))
    await asynchronous(ScriptedEngine(), run, settings(tmp_path, "r", steps=6), point)
    assert [line["step"] for line in read_metrics(run.path)] == [1, 2, 3, 4, 5, 6]
    names = sorted(path.name for path in run.checkpoints.iterdir())
    assert names == ["damaged-step-000004", "step-000003", "step-000006"]
