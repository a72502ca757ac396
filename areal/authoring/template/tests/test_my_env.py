"""Tests of my-env."""

from __future__ import annotations

import pytest
from my_env.env import PROBLEMS, MyEnv, problem
from my_env.verifier import score

from areal.authoring.check import check_env
from areal.errors import UserError


def test_it_keeps_the_rules():
    """my-env passes `areal env check my-env`."""
    failures = [finding for finding in check_env(MyEnv) if finding.verdict == "failed"]
    assert not failures, "\n".join(map(str, failures))


@pytest.mark.parametrize("answer", [r"\boxed{-7}", r"7 - 14 is \boxed{ -7 }", r"\boxed{7}, no: \boxed{-7}"])
def test_right_answers(answer: str):
    assert score(answer, "-7") == 1.0


@pytest.mark.parametrize(
    "answer", ["", "-7", r"\boxed{7}", r"\boxed{-7", r"\boxed{-7}, or \boxed{8}", "\0" * 9]
)
def test_wrong_answers(answer: str):
    assert score(answer, "-7") == 0.0


def test_the_splits_share_no_problem():
    train, test = ({problem(split, i, 99) for i in range(PROBLEMS[split])} for split in ("train", "test"))
    assert not train & test


def test_an_option_out_of_range():
    with pytest.raises(UserError, match="largest=3"):
        MyEnv(largest=3)
