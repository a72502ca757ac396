"""Engine and learner see the same pictures, and give the same log-probabilities, update after update."""

from __future__ import annotations

from pathlib import Path

import pytest
from seeing import KINDS, make

from areal.model_check.agreement import measure
from areal.model_check.check import BOUND


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=[] if kind == "qwen2_5_vl" else pytest.mark.long) for kind in KINDS]
)
async def test_logprobs_agree_before_and_after_updates(kind: str, tmp_path: Path):
    found = await measure(make(kind, tmp_path), updates=2, device="cpu")
    assert len(found.updates[0]) == 3
    assert max(*found.updates[0], found.packed) < BOUND
