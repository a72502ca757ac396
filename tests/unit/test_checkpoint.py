"""Checkpoints hold the rollout side whole: what comes back is what was there, and staleness stays bounded."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from areal.config import LearnerConfig
from areal.learner.learner import Learner
from areal.models import resolve_model
from areal.rollout.admission import Admission
from areal.runtime import checkpoint
from areal.trajectory import Group, Trajectory


def group(number: int, version: int) -> Group:
    mask = np.array([False, True, True])
    made = Trajectory(
        tokens=np.array([3, number, 5], np.int32),
        loss_mask=mask,
        logprobs=np.array([0, -0.1, -1 / 3], np.float32),
        versions=np.array([-1, version, version + 1], np.int32),
        reward=number / 3,
        task={"seed": number},
    )
    return Group(number, version, [made, made])


def test_groups_and_numbers_come_back_through_the_files(tmp_path: Path):
    path = resolve_model("starter")
    learner = Learner(path, LearnerConfig(), "cpu", 1.0)
    learner.version = 2
    before: Admission[Group] = Admission(2, 3, version=1)
    for _ in range(6):
        before.admit()
    for number in (5, 0, 2):
        before.finish(number, group(number, 1))
    before.reject(3)
    before.advance(2)
    before.admit()
    saved = checkpoint.save(
        tmp_path, learner, AutoTokenizer.from_pretrained(path), *checkpoint.snapshot(before), keep=1
    )
    assert checkpoint.latest(tmp_path) == saved
    _, state, groups = checkpoint.load_state(saved)
    after: Admission[Group] = Admission(2, 3, version=2)
    checkpoint.recover(after, state, groups)
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
    saved = (version, *checkpoint.snapshot(admission), list(consumed))
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
            saved = (version, *checkpoint.snapshot(admission), list(consumed))
        elif event == "c":
            version, state, groups, done = saved
            consumed = list(done)
            admission = Admission(batch, eta, version)
            checkpoint.recover(admission, state, groups)
        left = [n for n, _, _ in admission.outstanding()]
        assert sorted(consumed + left) == list(range(admission.next_id))
