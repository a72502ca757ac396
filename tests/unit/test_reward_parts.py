"""Rewards of named parts: they sum to the reward, and what is wrong with them is said."""

from __future__ import annotations

import gymnasium
import pytest
from hypothesis import given
from hypothesis import strategies as st

import areal
from areal.errors import UserError
from areal.registry import rewards
from areal.rewards.parts import Judged, Reward

assert areal.__version__  # importing areal is what makes math-v1 known
WEIGHTS = st.dictionaries(
    st.sampled_from(["correct", "format", "length"]), st.floats(-10, 10), min_size=1, max_size=3
)


@given(WEIGHTS, st.text(max_size=2000), st.booleans(), st.floats(0, 1))
def test_the_parts_sum_to_the_reward(weights, answer, found, correct):
    judged = Judged("?", answer, found, correct)
    reward, parts = Reward(weights)(judged)
    assert reward == sum(parts.values())
    assert parts.keys() == weights.keys() == Reward(weights).nothing().keys()
    values = {"correct": correct, "format": float(found), "length": -min(1.0, len(answer) / 1000)}
    assert parts == {name: weight * values[name] for name, weight in weights.items()}


def politeness(judged: Judged) -> float:
    return float("please" in judged.answer)


def nan(judged: Judged) -> float:
    return float("nan")


def test_functions_of_ones_own(monkeypatch):
    monkeypatch.setitem(rewards._entries, "politeness", politeness)
    judged = Judged("?", "4, please", found=True, correct=1.0)
    assert Reward({"correct": 1.0, "politeness": 0.5})(judged) == (1.5, {"correct": 1.0, "politeness": 0.5})
    assert Reward({"areal.rewards.parts:length": 1})(judged)[0] == -0.009
    monkeypatch.setitem(rewards._entries, "nan", nan)
    with pytest.raises(ValueError, match="'nan'"):
        Reward({"nan": 1.0})(judged)


def test_functions_in_a_file(tmp_path):
    (tmp_path / "my_parts.py").write_text("def terse(judged):\n    return float(len(judged.answer) < 5)\n")
    name = f"{tmp_path}/my_parts.py:terse"
    assert Reward({"correct": 1.0, name: 0.5})(Judged("?", "4", found=True, correct=1.0))[0] == 1.5


@pytest.mark.parametrize(
    ("weights", "complaint"),
    [
        ({}, "has no parts"),
        ([1], "has no parts"),
        ({"corect": 1.0}, "did you mean 'correct'"),
        ({"correct": "much"}, "not a number"),
        ({"correct": float("inf")}, "not a number"),
        ({"areal.nothing:f": 1.0}, r"rewards: .* the module areal\.nothing does not exist"),
        ({"nothing.py:f": 1.0}, r"rewards: the file 'nothing\.py' does not exist"),
        ({"areal.rewards.parts:lenght": 1.0}, "did you mean 'length'"),
        ({"areal.rewards.parts:LONG": 1.0}, "not a function"),
    ],
)
def test_what_is_wrong_is_said(weights, complaint):
    with pytest.raises(UserError, match=complaint):
        Reward(weights)


def test_math_with_parts():
    env = gymnasium.make("math-v1", rewards={"correct": 2.0, "format": 0.5})
    env.reset(seed=0)
    _, reward, _, _, info = env.step("\\boxed{no}")
    assert (reward, info["reward_parts"]) == (0.5, {"correct": 0.0, "format": 0.5})
    env.reset(seed=0)
    assert env.step("no")[4]["reward_parts"] == {"correct": 0.0, "format": 0.0}
