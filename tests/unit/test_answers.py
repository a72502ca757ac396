r"""Which part of a text is its final answer: ``####``, ``\boxed`` or a last line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from areal.envs.math import MathEnv
from areal.errors import UserError
from areal.rewards.answers import final_answer, read_reference


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"So \boxed{3} and \boxed{-2}.", "3, -2"),
        (r"$x = \boxed{3}$ or $x = \boxed{-2}$", "3, -2"),
        (r"\boxed{3}, \boxed{-2}", "3, -2"),
        (r"\boxed{3}\text{ and }\boxed{-2}", "3, -2"),
        (r"Either \boxed{1}, \boxed{2}, or \boxed{3}.", "1, 2, 3"),
        (r"\boxed{5}, that is \boxed{5}", "5"),
        (r"\boxed{5} and \boxed{5}", "5"),
        (r"First \boxed{3}. Then we see \boxed{-2}.", "-2"),
        (r"\boxed{3} is half of it, and so the answer is \boxed{6}", "6"),
        (r"\boxed{\boxed{7}}", "7"),
        ("#### Step 1\nadd\n\n#### Result\nSo \\boxed{5}", "5"),
        ("#### Step 1: add\n2 + 3\n#### Step 2: check\n\n#### 5", "5"),
        ("#### Answer\n\n5", "5"),
        ("#### Final Answer:\n**5**", "**5**"),
        ("#### 42\nI hope it helps", "42"),
        ("2 + 3 = 5 #### 5", "5"),
        (r"\[ \boxed{42} \]", "42"),
        ("##### 5", None),
        ("#### Step 1\nadd", None),
        ("so it is 5", None),
    ],
)
def test_final_answer(text: str, answer: str | None):
    assert final_answer(text) == answer


@pytest.mark.parametrize(
    ("text", "answer", "rule"),
    [
        ("add\n#### 5", "5", "after ####"),
        ("add, so \\boxed{4}\n#### 5", "5", "after ####"),
        ("#### Step 1\nadd\n\n#### Result\nSo \\boxed{5}", "5", "in \\boxed"),
        ("#### Adding the numbers\nSo \\boxed{5}", "5", "in \\boxed"),
        (r"So \boxed{3} and \boxed{-2}.", "3, -2", "in several \\boxed"),
        ("5", "5", "the whole text"),
        (r"\text{Evelyn}", r"\text{Evelyn}", "the whole text"),
        ("We add.\nAnswer: 5", "5", "in the last line"),
        ("We add.\nThe answer is 5.", "5.", "in the last line"),
        (
            "We add.\nFinal Answer: The final answer is $x^2$. I hope it is correct.",
            "$x^2$",
            "in the last line",
        ),
    ],
)
def test_read_reference(text: str, answer: str, rule: str):
    assert read_reference(text) == (answer, rule)


UNREADABLE = [
    "We add.\nThen we are done.",
    "#### Step 1\nadd",
    r"\frac{1}{",
    r"\boxed{5",
    r"\boxed{}",
    "### Result",
    "...",
    "We add the two numbers that are given in the text, and then we know how many there are.",
]


@pytest.mark.parametrize("text", UNREADABLE)
def test_a_reference_that_cannot_be_read_is_refused_by_its_line(tmp_path: Path, text: str):
    assert read_reference(text) is None
    path = tmp_path / "d.jsonl"
    rows = [{"problem": "1+1?", "answer": "2"}, {"problem": "2+3?", "answer": text}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(UserError, match=r"line 2: no final answer; give it alone in 'answer'"):
        MathEnv(data=str(path))


def test_the_rules_by_which_answers_were_found_are_counted(tmp_path: Path):
    path = tmp_path / "d.jsonl"
    solutions = ["add\n#### 5", "add\n#### 6", r"So \boxed{7}", r"\boxed{3} and \boxed{4}", "9"]
    rows = [{"problem": f"{i}?", "answer": text} for i, text in enumerate(solutions)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    lines = MathEnv(data=str(path)).notices
    assert any("2 after ####, 1 in \\boxed, 1 in several \\boxed, 1 the whole text" in line for line in lines)


def test_nothing_is_said_where_answers_are_given_alone(tmp_path: Path):
    path = tmp_path / "d.jsonl"
    path.write_text("".join(json.dumps({"problem": f"{i}?", "answer": str(i)}) + "\n" for i in range(5)))
    assert not any("final answers" in line for line in MathEnv(data=str(path)).notices)


@pytest.mark.parametrize(
    ("solution", "action", "reward"),
    [
        (r"So \boxed{3} and \boxed{-2}.", r"\boxed{-2}", 0.0),
        (r"So \boxed{3} and \boxed{-2}.", r"\boxed{-2} and \boxed{3}", 1.0),
        (r"So \boxed{3} and \boxed{-2}.", r"\boxed{3,-2}", 1.0),
        ("add\n#### 5.", r"\boxed{5}", 1.0),
        ("add\n#### 5", r"\boxed{5.}", 1.0),
        ("add\n#### 5", r"\boxed{5} or \boxed{6}", 0.0),
        ("4.5e33", r"\boxed{4.5 \times 10^{33}}", 1.0),
        ("4.5e33", r"\boxed{4.5 \times 10^{32}}", 0.0),
    ],
)
def test_rewards(tmp_path: Path, solution: str, action: str, reward: float):
    path = tmp_path / "d.jsonl"
    path.write_text(json.dumps({"problem": "?", "answer": solution}) + "\n")
    env = MathEnv(data=str(path), test_data=str(path))
    env.reset(options={"index": 0})
    assert env.step(action)[1] == reward


@pytest.mark.parametrize("number", [4.5e33, 1e22, 1.5e-8, 5.0, 0.1 + 0.2, 10**20])
def test_numbers_of_json_are_numbers(tmp_path: Path, number: float):
    path = tmp_path / "d.jsonl"
    path.write_text(json.dumps({"problem": "?", "answer": number}) + "\n")
    env = MathEnv(data=str(path), test_data=str(path))
    env.reset(options={"index": 0})
    mantissa, exponent = f"{number:.6e}".split("e")
    assert env.step(f"\\boxed{{{mantissa} \\times 10^{{{int(exponent)}}}}}")[1] == 1.0
    env.reset(options={"index": 0})
    assert env.step(f"\\boxed{{{mantissa} \\times 10^{{{int(exponent) + 1}}}}}")[1] == 0.0
