"""Checkpoints hold a run whole, appear when they are whole, and load on any number of processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import kills
import numpy as np
import pytest
import shards
import torch
import yaml
from dummy_batches import batch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer

from areal.config import LearnerConfig, parse_config
from areal.errors import UserError
from areal.learner.learner import Learner
from areal.models import load_tokenizer, resolve_model
from areal.rollout.admission import Admission
from areal.runtime import checkpoint
from areal.runtime.checkpoint import Checkpoints
from areal.runtime.export import export_model
from areal.runtime.rollout_state import RolloutState, recover, state_of
from areal.telemetry.run_directory import RunDirectory
from areal.trajectory import Episode, Group, Trajectory

STARTER = resolve_model("starter")


def make_learner(**choices: Any) -> Learner:
    return Learner(STARTER, LearnerConfig(**choices), "cpu", 1.0, 1)


def of(folder: Path, learner: Learner, keep: int = 2, dtype: torch.dtype = torch.float32) -> Checkpoints:
    return Checkpoints(folder, learner, load_tokenizer(STARTER), keep, dtype)


def save(folder: Path, learner: Learner) -> Path:
    kept = of(folder, learner)
    return kept.write(kept.stage(RolloutState()))


def group(number: int, version: int) -> Group:
    mask = np.array([False, True, True])
    made = Trajectory(
        tokens=np.array([3, number, 5], np.int32),
        loss_mask=mask,
        logprobs=np.array([0, -0.1, -1 / 3], np.float32),
        versions=np.array([-1, version, version + 1], np.int32),
        turns=[1],
        calls=[0],
        rewards=[1 / 3],
    )
    episodes = [Episode([made] * n, number / 3, {"part": number / 3}, {"seed": number}) for n in (1, 2)]
    return Group(number, version, episodes)


def assert_equal(first: Learner, second: Learner) -> None:
    """The same to the bit, in all that the next update depends on."""
    one, other = first.state(), second.state()
    assert one.keys() == other.keys()
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


# --- the learner ---------------------


@pytest.mark.parametrize("choices", [{}, {"objective": "ppo"}, {"dtype": "bfloat16"}])
@pytest.mark.parametrize("updates", [0, 2])
def test_what_comes_back_goes_on_to_the_bit(choices: dict[str, Any], updates: int, tmp_path: Path):
    """The policy, a critic, and a policy that is sharded, over one process."""
    straight = make_learner(**choices)
    for i in range(updates):
        straight.update(batch(i))
    torch.manual_seed(updates)
    saved = save(tmp_path, straight)
    torch.manual_seed(99)
    resumed = make_learner(**choices)
    resumed.update(batch(7))  # must leave no trace
    checkpoint.load_learner(saved, resumed)
    assert torch.equal(torch.rand(3), torch.rand(3, generator=torch.Generator().manual_seed(updates)))
    assert_equal(straight, resumed)
    assert straight.update(batch(5))["loss"] == resumed.update(batch(5))["loss"]
    assert_equal(straight, resumed)
    assert straight.version == updates + 1


def test_a_saved_learner_is_not_disturbed(tmp_path: Path):
    """Asking for the state before the first step makes none: torch's own way would count it as a step."""
    untouched, saved = make_learner(), make_learner()
    save(tmp_path, saved)
    for i in range(2):
        untouched.update(batch(i))
        saved.update(batch(i))
    assert_equal(untouched, saved)


def test_what_is_staged_does_not_change(tmp_path: Path):
    learner, before = make_learner(), make_learner()
    for each in (learner, before):
        each.update(batch(0))
    kept = of(tmp_path, learner)
    staged = kept.stage(RolloutState())
    learner.update(batch(1))  # in place, in every tensor
    resumed = make_learner()
    checkpoint.load_learner(kept.write(staged), resumed)
    assert resumed.version == 1
    assert_equal(resumed, before)


def test_settings_of_the_optimizer_are_the_resumed_runs(tmp_path: Path):
    learner = make_learner()
    learner.update(batch(0))
    resumed = make_learner(weight_decay=0.1, betas=(0.5, 0.6))
    checkpoint.load_learner(save(tmp_path, learner), resumed)
    decays = [g["weight_decay"] for g in resumed.policy._optimizer.param_groups]
    assert decays == [0.1, 0.0]
    assert {g["betas"] for g in resumed.policy._optimizer.param_groups} == {(0.5, 0.6)}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_export_loads_in_transformers_in_its_type(dtype: torch.dtype, tmp_path: Path):
    learner = make_learner()
    learner.update(batch(0))
    kept = of(tmp_path, learner, dtype=dtype)
    exported = kept.write(kept.stage(RolloutState())) / "model"
    model = AutoModelForCausalLM.from_pretrained(exported, dtype="auto")
    assert model.dtype == dtype
    for (name, own), loaded in zip(learner.named_parameters(), model.parameters(), strict=True):
        assert torch.equal(own.to(model.dtype), loaded), name
    assert AutoTokenizer.from_pretrained(exported).get_vocab() == load_tokenizer(STARTER).get_vocab()
    assert learner.model.dtype == torch.float32


@pytest.mark.parametrize(("ranks", "replicas"), [(2, 1), pytest.param(4, 2, marks=pytest.mark.long)])
def test_several_processes_go_on_from_one_and_one_from_several(tmp_path: Path, ranks: int, replicas: int):
    """One saves; several load it, update and save; one loads that, and has what it would have had."""
    straight = Learner(STARTER, shards.SETTINGS, "cpu", 1.0, 1)
    for i in range(2):
        straight.update(batch(i))
    command = [
        sys.executable,
        str(Path(shards.__file__)),
        "RANK",
        str(ranks),
        str(replicas),
        str(save(tmp_path, straight)),
        str(tmp_path),
    ]
    processes = [
        subprocess.Popen([str(rank) if part == "RANK" else part for part in command], stdout=subprocess.PIPE)
        for rank in range(ranks)
    ]
    for process in processes:
        out, _ = process.communicate(timeout=300)
        assert process.returncode == 0
        assert out == b"the error is known\n"
    expected = shards.updates(straight) * 2
    expected += shards.updates(Learner(STARTER, shards.adapted(), "cpu", 1.0, 1))
    for rank in range(ranks):
        found = json.loads((tmp_path / f"metrics-{rank}.json").read_text())
        for ours, theirs in zip(found, expected, strict=True):
            assert ours.keys() == theirs.keys()
            for name in ours.keys() - {"time/train", "learner/tokens_per_s"}:
                assert ours[name] == pytest.approx(theirs[name], rel=1e-4, abs=1e-6), name
    resumed = make_learner()
    saved = tmp_path / "step-000004"
    checkpoint.load_learner(saved, resumed)
    assert len(list((saved / "learner").glob("*.distcp"))) == ranks, "each wrote its part"
    one, other = straight.state(), resumed.state()
    assert one.keys() == other.keys()
    for name in one:  # the gradients are sums over two processes: the same but for rounding
        torch.testing.assert_close(one[name], other[name], rtol=1e-4, atol=2e-6, msg=name)
    exported = AutoModelForCausalLM.from_pretrained(saved / "model", dtype="auto")
    assert all(map(torch.equal, exported.parameters(), resumed.model.parameters()))


# --- the files ---------------------


def test_only_the_newest_are_kept(tmp_path: Path):
    learner = make_learner()
    for learner.version in (2, 4, 6):
        save(tmp_path, learner)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-000004", "step-000006"]
    assert checkpoint.before(tmp_path, 6) == tmp_path / "step-000004"
    assert checkpoint.before(tmp_path, 4) is None


def test_those_that_are_wanted_are_kept_besides(tmp_path: Path):
    learner = make_learner()
    kept = of(tmp_path, learner)
    for learner.version, wanted in ((1, {1}), (2, {1}), (3, {1}), (4, {1}), (5, {3})):
        kept.write(kept.stage(RolloutState()), frozenset(wanted))
    assert list(checkpoint.versions(tmp_path)) == [3, 4, 5]


def test_files_can_be_read_by_whoever_may_read_a_new_file(tmp_path: Path):
    saved = save(tmp_path, make_learner())
    (tmp_path / "usual").touch()
    usual = (tmp_path / "usual").stat().st_mode
    assert {path.stat().st_mode for path in saved.rglob("*") if path.is_file()} == {usual}


def test_the_model_after_any_update_can_be_had(tmp_path: Path):
    settings = {"output": str(tmp_path), "name": "r", "checkpoint": {"keep": 3}, "rollout": {"group_size": 4}}
    run = RunDirectory.create(parse_config({**settings, "env_options": {"api_key": "s3cr3t"}}))
    with pytest.raises(UserError, match="no checkpoint yet"):
        export_model(run.path, tmp_path / "none")
    learner = make_learner()
    kept = of(run.checkpoints, learner, keep=3)
    weights = []
    for step, score in ((1, 0.2), (2, 0.9), (3, 0.5)):
        learner.update(batch(step))
        kept.write(kept.stage(RolloutState()))
        run.log_metrics({"step": step, "eval/math-v1/avg@1": score, "eval/math-v1/avg@1/low": 0.0})
        weights.append({name: weight.clone() for name, weight in learner.named_parameters()})
    for step, expected in ((None, 3), ("best", 2), (1, 1)):
        target = tmp_path / f"of-{step}"
        assert export_model(run.path, target, step) == expected
        loaded = AutoModelForCausalLM.from_pretrained(target)
        assert all(torch.equal(w, weights[expected - 1][name]) for name, w in loaded.named_parameters())
        load_tokenizer(str(target))
        card = (target / "README.md").read_text()
        last = {1: "0.200", 2: "0.900", 3: "0.500"}[expected]
        assert f"| Held-out score after {expected} updates | {last} |" in card
        assert "| `rollout.group_size` | `4` |" in card
        assert "s3cr3t" not in card
        assert f"| Updates | {expected} |" in card
        assert yaml.safe_load(card.split("---")[1]) == {
            "library_name": "transformers",
            "tags": ["reinforcement-learning", "areal"],
        }
    kept.export(run.path)
    assert export_model(run.path, tmp_path / "final") is None
    assert resolve_model(str(run.path)) == str(run.model)
    with pytest.raises(UserError, match="of update 7; its checkpoints are those of updates 1, 2, 3"):
        export_model(run.path, tmp_path / "none", 7)
    with pytest.raises(UserError, match="already exists"):
        export_model(run.path, tmp_path / "final", 1)
    # Resumed for more updates, and stopped: what lies in model/ is of the run's former end.
    learner.update(batch(4))
    kept.write(kept.stage(RolloutState()))
    assert export_model(run.path, tmp_path / "newest") == 4
    assert resolve_model(str(run.path)) == str(run.checkpoints / "step-000004" / "model")
    run.truncate_metrics(1)
    with pytest.raises(UserError, match="no evaluated checkpoint"):
        export_model(run.path, tmp_path / "none", "best")
    assert not list(tmp_path.glob(".partial*")) + list(tmp_path.glob("none"))


@pytest.mark.parametrize(("way", "stride"), [("kill", 5), ("kill-again", 1)])
def test_a_kill_at_any_moment_leaves_a_whole_checkpoint(way: str, stride: int, tmp_path: Path):
    """Killed before each call that changes what is on the disk for good, from the first to the last."""
    assert calls_of(way, stride, tmp_path) > 15


@pytest.mark.parametrize(("way", "stride"), [("remove", 61), ("remove-export", 5)])
def test_a_run_directory_that_vanishes_at_any_moment_is_not_made_anew(way: str, stride: int, tmp_path: Path):
    """PyTorch and transformers make every folder that they miss."""
    assert calls_of(way, stride, tmp_path) > 20 * stride


def calls_of(way: str, stride: int, folder: Path) -> int:
    """In a process of its own, whose forks work: a fork of one that has used a GPU can do nothing."""
    command = [sys.executable, str(Path(kills.__file__)), way, str(stride), str(folder)]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    out = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert out.returncode == 0, out.stderr
    return int(out.stdout)


FULL_DISK = """
import subprocess, sys, torch
from pathlib import Path
from areal.config import LearnerConfig
from areal.errors import UserError
from areal.learner.learner import Learner
from areal.models import load_tokenizer, resolve_model
from areal.runtime import checkpoint
from areal.runtime.rollout_state import RolloutState

learner = Learner(resolve_model("starter"), LearnerConfig(), "cpu", 1.0, 1)
learner.state(whole=True)
tokenizer = load_tokenizer(resolve_model("starter"))
kept = checkpoint.Checkpoints(Path(sys.argv[1]), learner, tokenizer, 1, torch.float32)
for free in (0, 100, 4_000, 12_000, 14_200):  # KiB: it fails in the shards, their list, the weights, the rest
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", sys.argv[1]], check=True)
    learner.version = 1
    first = kept.write(kept.stage(RolloutState()))
    used = int(subprocess.run(["du", "-sk", first], capture_output=True, text=True).stdout.split()[0])
    subprocess.run(["mount", "-o", f"remount,size={used + free}k", sys.argv[1]], check=True)
    learner.version = 2
    try:
        kept.write(kept.stage(RolloutState()))
        print("written")
    except UserError as error:
        print(error)
    assert [path.name for path in Path(sys.argv[1]).iterdir()] == ["step-000001"]
    checkpoint.load_learner(first, learner)
    subprocess.run(["umount", sys.argv[1]], check=True)
print(used)
"""


@pytest.mark.skipif(
    subprocess.run(["unshare", "-rm", "true"], capture_output=True).returncode != 0,
    reason="needs user namespaces, to mount a small disk",
)
def test_a_full_disk_is_one_clear_line_wherever_it_fills(tmp_path: Path):
    out = subprocess.run(
        ["unshare", "-rm", sys.executable, "-c", FULL_DISK, str(tmp_path)], capture_output=True, text=True
    )
    assert out.returncode == 0, out.stderr
    *lines, used = out.stdout.splitlines()
    assert lines == [f"no space left for a checkpoint in {tmp_path}; free some space"] * 5
    assert int(used) > 14_200


def test_a_checkpoint_of_another_kind_is_refused(tmp_path: Path):
    old = tmp_path / "step-000003"
    old.mkdir()
    (old / "learner.pt").touch()
    with pytest.raises(UserError, match="older version of areal"):
        checkpoint.load_learner(old, make_learner())
    saved = save(tmp_path, make_learner())
    with pytest.raises(UserError, match="no critic"):
        checkpoint.load_learner(saved, make_learner(objective="ppo"))


# --- the rollout side ---------------------


def test_groups_and_numbers_come_back_through_the_files(tmp_path: Path):
    learner = make_learner()
    learner.version = 2
    before: Admission[Group] = Admission(2, 3, version=1)
    for _ in range(6):
        before.admit()
    for number in (5, 0, 2):
        before.finish(number, group(number, 1))
    before.reject(3)
    before.advance(2)
    before.admit()
    kept = of(tmp_path, learner)
    saved = kept.write(kept.stage(state_of(before)))
    assert checkpoint.latest(tmp_path) == saved
    state = checkpoint.load_rollouts(saved)
    after: Admission[Group] = Admission(2, 3, version=2)
    recover(after, state)
    assert after.next_id == 7
    assert [n for n, _, _ in after.outstanding()] == [0, 1, 2, 4, 5, 6]
    for (n, v, old), (m, w, new) in zip(before.outstanding(), after.outstanding(), strict=True):
        assert (n, v) == (m, w)
        assert (old is None) == (new is None)
        if old is not None and new is not None:
            assert old.to_json() == new.to_json(), "to the bit"


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 3), st.integers(0, 3), st.data())
def test_a_run_that_crashes_at_any_moment_stays_within_the_bound(batch: int, eta: int, data):
    """Save, lose everything since, go on: the bound holds, each number is consumed once, none is skipped."""
    version, consumed = 0, []
    admission: Admission[Group] = Admission(batch, eta)
    saved = (version, state_of(admission), list(consumed))
    for event in data.draw(st.lists(st.sampled_from("aaafffuusc"), max_size=60)):
        running = [n for n, _, result in admission.outstanding() if result is None]
        if event == "a" and admission.may_admit():
            admission.admit()
        elif event == "f" and running:
            number = data.draw(st.sampled_from(running))
            admission.finish(number, group(number, admission.admitted_at(number)))
        elif event == "u" and (groups := admission.take(version)) is not None:
            assert all(version - t.oldest_version <= eta for g in groups for t in g.trajectories)
            consumed += [g.id for g in groups]
            version += 1
            admission.advance(version)
        elif event == "s":
            saved = (version, state_of(admission), list(consumed))
        elif event == "c":
            version, state, done = saved
            consumed = list(done)
            admission = Admission(batch, eta, version)
            recover(admission, state)
        left = [n for n, _, _ in admission.outstanding()]
        assert sorted(consumed + left) == list(range(admission.next_id))
