"""A game that the model learns by playing against itself, measured against another opponent."""

from __future__ import annotations

from pathlib import Path

import pytest

import areal

NIM = str(Path(__file__).parents[2] / "examples" / "nim.py")


@pytest.mark.long
def test_nim_is_learned_by_self_play(tmp_path: Path):
    run = areal.train(
        env="pettingzoo-v1",
        agent="multi-turn",
        steps=25,
        output=str(tmp_path),
        env_options={"env": f"{NIM}:Nim", "task": "", "test_opponent": f"{NIM}:chance"},
        evaluation={"problems": 128},
        rollout={"max_new_tokens": 16},
    )
    # Before, hardly an answer is a legal move; playing by the rules at random would be worth 0.
    assert run.accuracy_before < -0.8
    assert run.accuracy_after > -0.2
