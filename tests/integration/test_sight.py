"""Engine and learner see the same pictures, and give the same log-probabilities, update after update."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pages import ROOT
from seeing import KINDS, make

from areal import cli
from areal.model_check.agreement import ALL_WEIGHTS, measure
from areal.model_check.check import BOUND


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=[] if kind == "qwen2_5_vl" else pytest.mark.long) for kind in KINDS]
)
async def test_logprobs_agree_before_and_after_updates(kind: str, tmp_path: Path):
    found = await measure(make(kind, tmp_path), updates=2, device="cpu")
    assert len(found.updates[ALL_WEIGHTS]) == 3
    assert max(*found.updates[ALL_WEIGHTS], found.packed) < BOUND


@pytest.mark.long
def test_a_model_with_random_weights_learns_to_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(ROOT / "examples")
    from count_shapes import write_model

    write_model(tmp_path / "model", 4)
    words = ["--env", str(ROOT / "examples/count_shapes.py:CountShapes"), "--model", str(tmp_path / "model")]
    settings = ["steps=45", "learner.learning_rate=1e-3", "rollout.max_new_tokens=4", "device=cpu"]
    more = ["rollout.max_model_len=128", "rollout.workers=1", "rollout.env_isolation=process"]
    with pytest.raises(SystemExit) as ended:
        cli.main(["train", *words, *settings, *more, f"output={tmp_path}", "name=r"])
    assert ended.value.code == 0
    rows = [json.loads(line) for line in (tmp_path / "r/metrics.jsonl").open()]
    apart = [row["mismatch/logprob_max"] for row in rows if row.get("mismatch/logprob_max") is not None]
    assert max(apart) < BOUND
    rewards = [row["reward/mean"] for row in rows if "reward/mean" in row]  # of 128 answers each
    assert rewards[0] < 0.4 < max(rewards), "a guess is right at one in four"
