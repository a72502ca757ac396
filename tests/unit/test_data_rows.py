"""Rows of others: their forms, what each is read as, and which are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from data_rows import SHOTS, SYSTEM, USER, VERL, jsonl

from areal.envs.code_problems import code_problem
from areal.errors import UserError
from areal.registry import make_env
from areal.rewards.cases import StreamTests


def only(tmp_path: Path, row: Any, **options: Any) -> tuple[list[tuple[str, str]], str]:
    """Return what a model is asked by an environment of one row, and the answer that earns."""
    data = jsonl(tmp_path / f"{len(list(tmp_path.iterdir()))}.jsonl", row)
    env = make_env("data-v1" if options else "math-v1", data=data, **options)
    asked, info = env.reset(options={"index": 0})
    asked = asked.removesuffix("\nPut the final answer in \\boxed{}.")
    messages = info.get("messages", [{"role": "user", "content": asked}])
    assert set(messages[-1]) == {"role", "content"}
    assert messages[-1]["content"].startswith(asked)
    shown = [(m["role"], m["content"].removesuffix("\nPut the final answer in \\boxed{}.")) for m in messages]
    return shown, env.unwrapped.problem.answer


ROWS: dict[str, Any] = {
    "verl, DAPO": VERL,
    "Skywork": {**VERL, "reward_model": {"ground_truth": '["2"]', "style": "rule"}},
    "verl, GSM8K": {**VERL, "extra_info": {"answer": "1 + 1 = 2\n#### 2", "question": "1+1?"}},
    "TRL, conversational": {"prompt": [USER], "solution": "It is $\\boxed{2}$."},
    "TRL, text": {"prompt": "1+1?", "completion": "two", "answer": 2},
    "slime": {"prompt": [USER], "label": "2"},
    "OpenRLHF": {"input": "1+1?", "label": "2"},
    "prime-rl": {"prompt": "1+1?", "verification_info": '{"ground_truth": "2"}', "task_type": "math"},
    "verifiers": {"question": "1+1?", "answer": "2", "info": {}, "task": "default"},
    "NeMo Gym": {"responses_create_params": {"input": [USER]}, "expected_answer": "2"},
    "NeMo Gym, text": {"responses_create_params": {"input": "1+1?"}, "expected_answer": "2"},
    "SkyRL": {"prompt": [USER], "reward_spec": {"method": "rule", "ground_truth": "2"}},
    "messages": {"messages": [USER], "answer": "2"},
    "messages, a transcript": {"messages": [USER, {"role": "assistant", "content": "So \\boxed{2}"}]},
    "ShareGPT": {"conversations": [{"from": "human", "value": "1+1?"}, {"from": "gpt", "value": "#### 2"}]},
    "ORZ": [{"from": "human", "value": "1+1?"}, {"from": "assistant", "ground_truth": {"value": "2"}}],
    "Alpaca": {"instruction": "1+1?", "input": "", "output": "2"},
    "parts": {"prompt": [{"role": "user", "content": [{"type": "text", "text": "1+1?"}]}], "answer": "2"},
    "messages as JSON": {"prompt": json.dumps([USER]), "reward_model": json.dumps({"ground_truth": "2"})},
    "messages as Python": {"prompt": str([USER]), "answer": "2"},
    "messages as NumPy": {"prompt": str([USER, *SHOTS, USER]).replace("}, {", "}\n {"), "answer": "2"},
    "TRL, a completion": {"prompt": [USER], "completion": [{"role": "assistant", "content": "\\boxed{2}"}]},
    "OpenRLHF, chat": {"context_messages": [USER], "label": "2"},
    "NeMo Gym, metadata": {
        "responses_create_params": {"input": [USER]},
        "verifier_metadata": {"expected_answer": "2"},
    },
    "a list of one": {"problem": "1+1?", "answer": ["2"]},
    "a list of one, as NumPy writes it": {"problem": "1+1?", "answer": "['2']"},
    "a list of the same": {"problem": "1+1?", "answer": ["2", 2]},
    "null first": {"problem": "1+1?", "answer": None, "solution": "\\boxed{2}"},
    "not a number first": {"problem": "1+1?", "answer": float("nan"), "ground_truth": 2},
}


@pytest.mark.parametrize("form", ROWS)
def test_rows_of_others(form: str, tmp_path: Path):
    said, answer = only(tmp_path, ROWS[form])
    assert (said[-1], answer) == (("user", "1+1?"), "2")
    assert len(said) == (4 if form == "messages as NumPy" else 1)


@pytest.mark.parametrize(("answer", "text"), [(5, "5"), (5.0, "5.0"), (True, "True"), (-0.5, "-0.5")])
def test_answers_that_are_no_text(answer: object, text: str, tmp_path: Path):
    assert only(tmp_path, {"problem": "?", "answer": answer})[1] == text
    assert only(tmp_path, {"problem": "?", "a": answer}, answer="{a}")[1] == text


@pytest.mark.parametrize(
    "row",
    [
        {**VERL, "prompt": [SYSTEM, *SHOTS, USER]},
        {"messages": [{"role": "developer", "content": "Be brief."}, *SHOTS, USER], "answer": "2"},
        {"question": "1+1?", "prompt": [SYSTEM, *SHOTS, USER], "answer": "2"},
        {"question": "1+1?", "messages": [SYSTEM, *SHOTS, USER], "answer": "2"},
        {
            "responses_create_params": {"instructions": "Be brief.", "input": [*SHOTS, USER]},
            "expected_answer": "2",
        },
        {
            "conversations": [
                {"from": "system", "value": "Be brief."},
                {"from": "human", "value": "2+2?"},
                {"from": "gpt", "value": "4"},
                {"from": "human", "value": "1+1?"},
                {"from": "gpt", "value": "2"},
            ]
        },
        {"instruction": "1+1?", "history": [["2+2?", "4"]], "system": "Be brief.", "output": "2"},
    ],
)
@pytest.mark.parametrize("options", [{}, {"prompt": "{problem}"}])
def test_what_is_said_before_is_kept(row: dict[str, Any], options: dict[str, str], tmp_path: Path):
    said = [("system", "Be brief."), ("user", "2+2?"), ("assistant", "4"), ("user", "1+1?")]
    assert only(tmp_path, row, **options) == (said, "2")


def test_templates_read_only_what_they_name(tmp_path: Path):
    two = {**VERL, "prompt": [SYSTEM, USER], "reward_model": {"ground_truth": ["2"]}, "other": [{"role": 3}]}
    parts = {"prompt": "{prompt[1][content]}", "answer": "{reward_model[ground_truth]}"}
    assert only(tmp_path, two, **parts) == ([("user", "1+1?")], "2")
    # The field as a whole is the conversation; a verifier other than mathematics gets the words as they are.
    said = [("system", "Be brief."), ("user", "Q: 1+1?")]
    assert only(tmp_path, two, **{**parts, "prompt": "Q: {prompt}"}) == (said, "2")
    odd = {"q": "1+1?", "prompt": [{"role": "tool"}], "a": "so\n#### 2"}
    assert only(tmp_path, odd, prompt="{q}", answer="{a}")[1] == "2"
    assert only(tmp_path, odd, prompt="{q}", answer="{a}", verifier="exact")[1] == "so\n#### 2"
    assert only(tmp_path, {"q": "1+1?", "answer": "2"}, prompt="{q}")[1] == "2"
    in_json = {"q": "1+1?", "r": '{"a": [2]}'}
    assert only(tmp_path, in_json, prompt="{q}", answer="{r[a][0]}")[1] == "2"


@pytest.mark.parametrize(
    ("row", "options", "complaint"),
    [
        ({"prompt": "[{'role': 'user', 'content': array(1)}]", "answer": "2"}, {}, "looks like messages"),
        ({"prompt": [USER, SHOTS[1]], "answer": "2"}, {}, "ends with a message of the assistant"),
        ({"prompt": [SYSTEM], "answer": "2"}, {}, "do not end with a message of the user"),
        ({"prompt": [{"role": "tool", "content": "x"}], "answer": "2"}, {}, "the role 'tool'"),
        (
            {"prompt": [{**USER, "content": [{"type": "image"}]}], "answer": "2"},
            {},
            "other than text, such as an image",
        ),
        ({"prompt": [{**USER, "tool_calls": [{}]}], "answer": "2"}, {}, "has tool calls"),
        ({"prompt": "1+1?", "history": ["2+2?"], "answer": "2"}, {}, "history is not a list of pairs"),
        ({"prompt": [USER]}, {}, "none of the keys answer, solution, response, .*expected_answer"),
        ({"prompt": [USER], "answer": ""}, {}, "none of the keys answer"),
        ({"prompt": [USER], "answer": ["3", "-2"]}, {}, "answer has 2 answers"),
        ({"prompt": "1+1?", "answer": "['3' '-2']"}, {}, "answer has 2 answers"),  # as NumPy writes it
        ({"prompt": [USER], "reward_model": {"ground_truth": {"target": 9}}}, {}, "is an object .target."),
        (
            {"responses_create_params": {"input": [USER], "tools": [{"type": "function"}]}, "label": "2"},
            {},
            "requests tools",
        ),
        (
            {
                "responses_create_params": {"input": [USER]},
                "verifier_metadata": {"unit_tests": {"inputs": []}},
            },
            {},
            "unit tests judge this row .*code-v1",
        ),
        (
            {
                "responses_create_params": {"input": [USER]},
                "expected_answer": "B",
                "template_metadata": {"output_regex": "IS ([A-Z])"},
            },
            {},
            r"a form other than .*IS \(\[A-Z\]\).*verifier=FILE.py:FUNCTION",
        ),
        (
            {
                "responses_create_params": {"input": [USER]},
                "expected_answer": "B",
                "grading_mode": "lenient_answer_colon",
            },
            {},
            "a form other than .*lenient_answer_colon",
        ),
        (
            {
                "responses_create_params": {"input": [USER]},
                "verifier_metadata": {"rubric": "kind"},
                "agent_ref": {"name": "judge_agent"},
            },
            {},
            "its own server .judge_agent. judges it",
        ),
        ({"q": "?", "label": None}, {"prompt": "{q}", "answer": "{label}"}, "contains no answer"),
        ({"q": "?", "label": [1, 2]}, {"prompt": "{q}", "answer": "{label}"}, "has 2 answers"),
        ({"q": None, "label": 1}, {"prompt": "{q}", "answer": "{label}"}, "{q} is null"),
        ({"q": "?", "r": {"a": 1}}, {"prompt": "{q}", "answer": "{r[b]}"}, "needs {b}"),
        (
            {"q": "?", "r": "text"},
            {"prompt": "{q}", "answer": "{r[b]}"},
            "something that the row does not have",
        ),
    ],
)
def test_rows_that_are_refused(row: Any, options: dict[str, str], complaint: str, tmp_path: Path):
    with pytest.raises(UserError, match=complaint) as caught:
        only(tmp_path, row, **options)
    assert f"{tmp_path}/0.jsonl, line 1" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_stands_beside_the_text_need_not_be_readable(tmp_path: Path):
    beside = {"problem": "1+1?", "answer": "2", "messages": [{"role": "tool", "content": "x"}]}
    assert only(tmp_path, beside) == ([("user", "1+1?")], "2")


def test_code_of_verl_rows():
    cases = {"inputs": ["1\n"], "outputs": ["2\n"]}
    row = {"prompt": [SYSTEM, USER], "reward_model": {"ground_truth": json.dumps(cases)}}
    problem = code_problem(row, "here")
    assert isinstance(problem.tests, StreamTests)
    assert problem.problem.startswith("1+1?")
    assert problem.opening == (("system", "Be brief."),)
