"""The procedural programming problems: right is right, slips are wrong, the splits have nothing in common."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from areal.envs import programs
from areal.envs.procedural import is_test

INDEX = st.integers(0, 2**31)
SPLIT = st.sampled_from(["train", "test"])


def raises(expression: str, inputs: tuple) -> bool:
    try:
        programs.values(expression, inputs)
    except (TypeError, ValueError):
        return True
    return False


@settings(max_examples=300, deadline=None)
@given(SPLIT, st.sampled_from(sorted(programs.DIFFICULTIES)), INDEX)
def test_the_tests_tell_slips_from_what_is_right(split: str, difficulty: int, index: int):
    drawn = programs.problem(split, difficulty, index)
    assert drawn == programs.problem(split, difficulty, index)
    assert is_test(drawn.task) is (split == "test")
    assert len(drawn.slips) == 3
    for slip in drawn.slips:
        assert raises(slip, drawn.inputs) or programs.values(slip, drawn.inputs) != drawn.outputs


def test_splits_are_disjoint():
    train = {programs.problem("train", 3, i).text for i in range(3000)}
    test = {programs.problem("test", 3, i).text for i in range(500)}
    assert not train & test
    assert len(train) > 2500, "few problems come twice"


@pytest.mark.parametrize(
    ("index", "task", "x", "value"),
    [
        (0, "the remainder of x divided by 97, plus 34", 100, 37),
        (1, "whether x is between 36 and 109, including both", 109, True),
        (8, "whether x is between 69 and 126, excluding both", 69, False),
        (2, "the list of 42 times each element of x that is greater than 54", [54, 55, 100], [2310, 4200]),
        (3, "x with each 'j' replaced by 'v', then 'h'", "jaj", "vavh"),
        (5, "81 times x plus 21", 2, 183),
        (14, "53 times x minus 60", 1, -7),
        (15, "x plus 71, all times 59", -70, 59),
        (9, "the list of the elements of x that are less than 92", [91, 92, 3], [91, 3]),
        (11, "the list of the elements of x, each times 77 plus 48", [0, 1], [48, 125]),
        (13, "the first 25 characters of x, then 'd'", "ab" * 20, "ab" * 12 + "ad"),
        (25, "x without its last 30 characters, then 't'", "a" + "b" * 31, "abt"),
        (49, "the last 24 characters of x, then 'f'", "a" * 9 + "b" * 24, "b" * 24 + "f"),
        (128, "x without its first 20 characters, then 'z'", "a" * 20 + "b", "bz"),
        (16, "the sum of the numbers from 11 to x, plus 4", 13, 40),
        (21, "how often 'b' occurs in x, plus 43", "bob", 45),
        (50, "the sum of the elements of x that are at least 78", [77, 78, 80], 158),
        (67, "50 if x is at most 61, else x", 61, 50),
        (54, "the list of 16 times each element of x that is at most 86", [86, 87], [1376]),
    ],
)
def test_right_is_what_the_text_says(index: int, task: str, x: object, value: object):
    drawn = programs.problem("train", 4, index)
    assert drawn.task == task
    assert programs.values(drawn.right, (x,)) == (value,)


def test_bad_arguments():
    with pytest.raises(ValueError, match="split"):
        programs.problem("valid", 1, 0)
    with pytest.raises(ValueError, match="difficulty"):
        programs.problem("train", 9, 0)
