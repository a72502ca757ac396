"""Rows of multiple choice: what is asked, which letter is right, and which rows are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from data_rows import USER, jsonl

from areal.envs.data import load_pairs
from areal.errors import UserError
from areal.registry import make_env

LISTED = "1+1?\nA. one\nB. two\nAnswer with the letter of the right choice."


def read(tmp_path: Path, row: dict[str, Any]) -> tuple[str, str]:
    (pair,) = load_pairs(jsonl(tmp_path / "d.jsonl", row), None, None)["train"]
    return pair.problem, pair.answer


ROWS: dict[str, dict[str, Any]] = {
    "MMLU": {"question": "1+1?", "subject": "algebra", "choices": ["one", "two"], "answer": 1},
    "MMLU-Pro": {"question": "1+1?", "options": ["one", "two"], "answer": "B", "answer_index": 1},
    "ARC": {"question": "1+1?", "choices": {"text": ["one", "two"], "label": ["A", "B"]}, "answerKey": "B"},
    "ARC, numbers": {
        "question": "1+1?",
        "choices": {"text": ["one", "two"], "label": ["1", "2"]},
        "answerKey": "2",
    },
    "AQuA": {"question": "1+1?", "options": ["A)one", "B)two"], "rationale": "…", "correct": "B"},
    "MedQA": {"question": "1+1?", "options": {"A": "one", "B": "two"}, "answer": "two", "answer_idx": "B"},
    "HellaSwag": {"ctx": "1+1?", "endings": ["one", "two"], "label": "1"},
    "NeMo Gym": {
        "responses_create_params": {"input": [USER]},
        "options": [{"A": "one"}, {"B": "two"}],
        "expected_answer": "B",
    },
    "labels beside": {
        "question": "1+1?",
        "choices": [{"label": "A", "text": "one"}, {"label": "B", "text": "two"}],
        "answer": "(B)",
    },
    "CSV, as NumPy writes it": {"question": "1+1?", "choices": "['one'\n 'two']", "answer": "1"},
    "CSV, as JSON": {"question": "1+1?", "choices": '["one", "two"]', "answer": "1"},
    "CSV": {"question": "1+1?", "choices": "['one', 'two']", "answer": "b"},
}


@pytest.mark.parametrize("form", ROWS)
def test_choices_are_listed_and_a_letter_is_right(form: str, tmp_path: Path):
    assert read(tmp_path, ROWS[form]) == (LISTED, "B")


@pytest.mark.parametrize(
    "row",
    [
        {
            "Question": "1+1?",
            "Correct Answer": "two\n",
            **{f"Incorrect Answer {n}": word for n, word in enumerate(("one", "three", "four"), start=1)},
        },
        {"question": "1+1?", "correct_answer": "two", "distractor1": "one", "distractor2": "three"},
    ],
)
def test_choices_in_fields_of_their_own_are_in_an_order_that_tells_nothing(
    row: dict[str, Any], tmp_path: Path
):
    letters = set()
    for number in range(40):
        asked = {key: f"{number}. 1+1?" if key in ("Question", "question") else v for key, v in row.items()}
        problem, letter = read(tmp_path, asked)
        assert f"\n{letter}. two\n" in problem
        assert (problem, letter) == read(tmp_path, dict(reversed(asked.items())))
        letters.add(letter)
    assert letters == set("ABCD" if "Question" in row else "ABC")


@pytest.mark.parametrize(
    ("choices", "answer", "letter"),
    [
        (["1", "2", "3"], 1, "B"),  # a number is a place, as MMLU has it
        (["3", "1"], "3", "A"),
        ([2, 3, 5, 7], 5, "C"),  # here it can only be the number itself
        (["False", "True"], True, "B"),
        (["A", "O"], "A", "A"),
        ("[\"it's\" '\"it\"' 'it']", 2, "C"),
    ],
)
def test_which_choice_an_answer_names(choices: Any, answer: object, letter: str, tmp_path: Path):
    assert read(tmp_path, {"question": "Which?", "choices": choices, "answer": answer})[1] == letter


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        ({"choices": ["x", "y"], "answer": "C"}, "answer is 'C', which is not one of the 2 choices"),
        ({"choices": ["x", "y"], "answer": 2}, "answer is '2', which is not one of"),
        ({"choices": ["1", "2"], "answer": "1"}, "'1', which may mean '1' or '2'; give .* as a letter"),
        ({"choices": [1, 2], "answer": 1}, "which may mean '1' or '2'"),
        ({"choices": ["O", "A"], "answer": "A"}, "which may mean 'O' or 'A'"),
        (
            {"options": "a ) 38 , b ) 27 , c ) none", "answer": "a"},
            r"options is text instead of a list of choices: 'a \) 38",
        ),
        (
            {"choices": "{'text': array(['x', 'y'], dtype=object)}", "answerKey": "B"},
            "choices is text instead",
        ),
        ({"choices": ["x", "y"]}, "it has choices, but no field for the correct choice"),
        ({"options": ["x"] * 27, "answer": "A"}, "options has 27 choices, more than there are letters"),
    ],
)
def test_choices_that_are_refused(row: dict[str, Any], complaint: str, tmp_path: Path):
    with pytest.raises(UserError, match=complaint) as caught:
        read(tmp_path, {"question": "Which?", **row})
    assert f"{tmp_path}/d.jsonl, line 1" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "row",
    [
        {"question": "a or b?", "choices": ["a", "b"], "answer": "b"},
        {"question": "Which?\n(A) one\n(B) two", "choices": ["one", "two"], "answer": "B"},
        {"question": "Which?\nA. one\nB. two", "options": {"A": "one", "B": "two"}, "answer": "B"},
        {"question": "1+1?", "options": [], "answer": "2"},
        {"question": "1+1?", "options": "none", "answer": "2"},
        {"question": "Which: x, y?", "options": "x, y", "answer": "B"},
        {"question": "1+1?", "options": {"seed": 1, "level": "easy"}, "answer": "2"},
        {"question": "1+1?", "choices": None, "answer": "2"},
    ],
)
def test_what_needs_no_list(row: dict[str, Any], tmp_path: Path):
    assert read(tmp_path, row) == (row["question"], row["answer"])


def test_words_of_the_question_are_no_list(tmp_path: Path):
    row = {"question": "Is 2 a prime, or 4?", "choices": ["2", "4"], "answer": "A"}
    assert read(tmp_path, row)[0].endswith("\nA. 2\nB. 4\nAnswer with the letter of the right choice.")


@pytest.mark.parametrize("env", ["math-v1", "data-v1"])
def test_the_letter_earns_the_reward(env: str, tmp_path: Path):
    options = {"prompt": "Be quick. {problem}\nUse \\boxed{{}}."}
    made = make_env(env, data=jsonl(tmp_path / "d.jsonl", ROWS["MMLU"]), **options)
    asked, _ = made.reset(options={"index": 0})
    assert asked == f"Be quick. {LISTED}\nUse \\boxed{{}}."
    for answer, reward in (("B", 1.0), ("(B) two", 1.0), ("A", 0.0), ("1", 0.0)):
        made.reset(options={"index": 0})
        assert made.step(f"\\boxed{{{answer}}}")[1] == reward
    assert "read as rows of question and answer with choices" in made.unwrapped.notices[0]


@pytest.mark.parametrize(
    ("row", "answer"),
    [
        ({"question": "Which?\n(A) one\n(B) two", "choices": ["one", "two"], "answer": 1}, "B"),
        (
            {"question": "Which?\n1) one\n2) two", "choices": {"text": ["one", "two"], "label": ["1", "2"]}},
            "2",
        ),
    ],
)
def test_of_a_question_that_lists_them_the_label_is_right(row: dict[str, Any], answer: str, tmp_path: Path):
    assert read(tmp_path, {"answerKey": "2", **row} if "answer" not in row else row) == (
        row["question"],
        answer,
    )


def test_a_template_shows_the_choices(tmp_path: Path):
    data = jsonl(tmp_path / "d.jsonl", ROWS["MMLU"])
    made = make_env("data-v1", data=data, prompt="{question} A: {choices[0]} B: {choices[1]}")
    assert made.reset(options={"index": 0})[0] == "1+1? A: one B: two"
    assert made.unwrapped.problem.answer == "B"
    with pytest.raises(UserError, match=r"line 1: its choices are not in the prompt; use \{problem\}"):
        make_env("data-v1", data=data, prompt="{question}")
    # A template for the answer says what is right.
    own = make_env("data-v1", data=data, prompt="{question}", answer="{choices[1]}", verifier="exact")
    assert own.reset(options={"index": 0})[0] == "1+1?"
    assert own.step("two")[1] == 1.0
