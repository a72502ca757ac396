"""``code-v1`` as a Gymnasium environment: its problems, its feedback, its data."""

from __future__ import annotations

import json
import pickle
import warnings
import zlib
from base64 import b64encode
from pathlib import Path

import gymnasium
import pytest
from data import data_file
from gymnasium.utils.env_checker import check_env
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import areal
from areal.agents.python_tool import PythonTool
from areal.envs import code, programs
from areal.envs.code_blocks import code_block
from areal.envs.code_problems import code_problem, load_code_problems
from areal.errors import UserError
from areal.sandbox import shared
from areal.sandbox.interface import SandboxUnavailable

assert areal.__version__  # importing areal is what makes code-v1 known
pytestmark = pytest.mark.usefixtures("sandbox")


@pytest.fixture
def env():
    return gymnasium.make("code-v1")


def answer(source: str) -> str:
    return f"So:\n```python\n{source}\n```\nDone."


def test_check_env_has_nothing_to_say(env):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(env.unwrapped)


def test_reset_is_deterministic(env):
    assert env.reset(seed=5) == env.reset(seed=5)
    assert env.reset(seed=5) != env.reset(seed=6)
    options = {"index": 3, "split": "test"}
    assert env.reset(seed=1, options=options) == env.reset(seed=2, options=options)
    with pytest.raises(gymnasium.error.ResetNeeded):
        code.CodeEnv().step("")


@pytest.mark.parametrize("difficulty", programs.DIFFICULTIES)
def test_right_programs_and_slips(difficulty: int):
    env = gymnasium.make("code-v1", difficulty=difficulty)
    for index in range(10):
        drawn = programs.problem("test", difficulty, index)
        for expression in (drawn.right, *drawn.slips):
            observation, _ = env.reset(options={"index": index, "split": "test"})
            assert drawn.text in observation
            _, reward, terminated, truncated, info = env.step(answer(programs.program(expression)))
            right = float(expression == drawn.right)
            assert (reward, terminated, truncated) == (right, True, False)
            assert info == {"reward_parts": {"correct": right}}


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(max_size=200))
def test_any_action_is_survived(env, text: str):
    env.reset(seed=0)
    assert env.step(text)[1] == 0.0
    env.reset(seed=0)
    assert env.step(f"```python\n{text}\n```")[1] == 0.0


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_make_vec(mode: str):
    vector = gymnasium.make_vec("code-v1", num_envs=2, vectorization_mode=mode)
    try:
        vector.reset(seed=7)
        right = programs.problem("train", 3, int(gymnasium.make("code-v1").reset(seed=7)[1]["index"])).right
        _, rewards, terminated, _, info = vector.step((answer(programs.program(right)), "é𝄞"))
        assert list(rewards) == list(info["reward_parts"]["correct"]) == [1.0, 0.0]
        assert all(terminated)
    finally:
        vector.close()


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("```python\na\n```", "a\n"),
        ("x\n```\na\n```\ny\n```py\nb\n``` \nz", "b\n"),
        ("```python\na", "a"),
        ("  ```python\n  a\n  ```", "a\n"),
        ("`a`", None),
        ("```a```", None),
        ("", None),
        ("```" * 100_000, None),
        ("```\n" * 100_001, ""),
        (" " * 300_000 + "```", None),
    ],
)
def test_the_last_code_block_counts(text: str, found: str | None):
    assert code_block(text) == found


def test_feedback_shows_the_failing_case_but_not_what_it_expects():
    env = gymnasium.make("code-v1", max_turns=3, rewards={"correct": 1.0, "format": 0.25})
    drawn = programs.problem("train", 3, 0)
    env.reset(options={"index": 0})
    observation, reward, terminated, _, info = env.step(answer("def f(x):\n    return 'no' * 5000"))
    assert (reward, terminated, info) == (0.0, False, {"reward_parts": {"correct": 0.0, "format": 0.0}})
    assert "Test: f(" in observation
    assert "Result: 'nono" in observation
    assert len(observation) < 3000
    assert str(drawn.outputs[0]) not in observation.replace("5000", "")
    observation = env.step(answer("def f(x):\n    return y"))[0]
    assert "NameError: name 'y' is not defined" in observation
    assert "line 2, in f" in observation
    _, reward, terminated, _, info = env.step(answer(programs.program(drawn.right)))
    assert (reward, terminated, info) == (1.25, True, {"reward_parts": {"correct": 1.0, "format": 0.25}})


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("import time\ndef f(x): time.sleep(1000)", "too long"),
        ("def f(x): import os; os._exit(0)", "ended before"),
        ("def f(x): return bytearray(4 << 30)", "too much memory"),
        ("def f(x): return f", "an object of type function"),
        ("def f(x) return", "SyntaxError"),
        ("def g(x): return x", "name 'f' is not defined"),
    ],
)
def test_feedback_on_every_end(source: str, said: str):
    env = gymnasium.make("code-v1", max_turns=2, time_limit=0.5 if said == "too long" else 60)
    env.reset(seed=0)
    assert said in env.step(answer(source))[0]


MBPP = {
    "text": "Write add.",
    "test_list": ["assert add(1, 2) == 3", "assert add(40, 59) == 99", "assert {add(70, 7)} == {77}"],
    "test_setup_code": "",
}
HUMANEVAL = {
    "task_id": "x/0",
    "prompt": 'import math\n\ndef root(x):\n    """Return the root."""\n',
    "test": "def check(c):\n    assert c(16) == 4, 'not 4321'\n    assert c(81) == 9\n",
    "entry_point": "root",
}
APPS_STREAM = {"question": "Double.", "input_output": json.dumps({"inputs": ["2\n"], "outputs": ["4\n"]})}
APPS_CALL = {
    "question": "Pairs.",
    "starter_code": "class Solution:\n    def pairs(self, xs):\n",
    "input_output": {"fn_name": "pairs", "inputs": [[[1, 2]]], "outputs": [[[1, 2]]]},
}
PRIVATE = json.dumps([{"input": "[3]\n2", "output": "[3, 3]", "testtype": "functional"}])
LIVECODEBENCH = {
    "question_content": "Repeat.",
    "starter_code": "class Solution:\n    def rep(self, xs, n):\n",
    "metadata": json.dumps({"func_name": "rep"}),
    "public_test_cases": json.dumps([{"input": "[1]\n3", "output": "[1, 1, 1]", "testtype": "functional"}]),
    "private_test_cases": b64encode(zlib.compress(pickle.dumps(PRIVATE))).decode(),
}

ASKED = {"input": [{"role": "user", "content": "Double."}]}
NEMO_TESTS = {"inputs": ["2\n", "3"], "outputs": ["4", "6.0"]}
NEMO_STREAM = {"responses_create_params": ASKED, "verifier_metadata": {"unit_tests": NEMO_TESTS}}
NEMO_PACKED = {
    "responses_create_params": ASKED,
    "verifier_metadata": {
        "unit_tests": {
            "packed": b64encode(zlib.compress(json.dumps(NEMO_TESTS).encode())).decode(),
            "fn_name": None,
        }
    },
}
NEMO_CALL = {
    "responses_create_params": ASKED,
    "verifier_metadata": {"unit_tests": {"inputs": ["[1]\n3"], "outputs": ["[1, 1, 1]"], "fn_name": "rep"}},
}


@pytest.mark.parametrize(
    ("row", "right", "wrong", "hidden"),
    [
        (NEMO_STREAM, "print(2 * int(input()))", "print(4)", "6"),
        (NEMO_PACKED, "print(2 * int(input()))", "print(4)", "6"),
        (NEMO_CALL, "def rep(xs, n): return xs * n", "def rep(xs, n): return [1]", "[1, 1, 1]"),
        (NEMO_CALL, "class Solution:\n    def rep(self, xs, n): return xs * n", "y = 1", "[1, 1, 1]"),
        (MBPP, "def add(a, b): return a + b", "def add(a, b): return 3", "99"),
        (HUMANEVAL, "def root(x): return math.isqrt(x)", "def root(x): return 4", "9"),
        (HUMANEVAL, "    return math.isqrt(x)", "    return 5", "4321"),
        (APPS_STREAM, "print(2 * int(input()))", "print(5)", "4"),
        (APPS_CALL, "class Solution:\n    def pairs(self, xs): return tuple(xs)", "x = 1", "[1, 2]"),
        (LIVECODEBENCH, "class Solution:\n    def rep(self, xs, n): return xs * n", "y = 1", "[3, 3]"),
    ],
)
def test_data_of_every_form(tmp_path: Path, row: dict, right: str, wrong: str, hidden: str):
    path = tmp_path / "d.jsonl"
    path.write_text(json.dumps(row) + "\n")
    for shown in (False, True):
        env = gymnasium.make("code-v1", data=str(path), test_data=str(path), max_turns=2, show_expected=shown)
        observation, _ = env.reset(options={"index": 0, "split": "test"})
        assert hidden not in observation
        feedback, reward, terminated, *_ = env.step(answer(wrong))
        assert (reward, terminated) == (0.0, False)
        asked = feedback.replace("[[1, 2]]", "").replace("([1, 2])", "")
        assert shown or hidden not in asked
        assert not shown or "Expected: " in feedback
        assert env.step(answer(right))[1:3] == (1.0, True)


PEEK = """
import os, sys
def f(*args):
    frame = sys._getframe()
    while 'channel' not in frame.f_locals:
        frame = frame.f_back
    os.set_blocking(3, False)
    return frame.f_locals['channel']._incoming.peek(1 << 16).decode()
"""
CALLS = {
    "question": "x",
    "input_output": {"fn_name": "f", "inputs": [[1], [2], [87654]], "outputs": [1, 2, 3]},
}
ASSERTS = {"text": "x", "test_list": ["assert f(1) == 1", "assert f(2) == 2", "assert f(87654) == 3"]}
MIXED = {"text": "x", "test_list": ["assert f(1) == 1", "assert not f(2)", "assert len(f(87654)) == 3"]}


@pytest.mark.parametrize("row", [CALLS, ASSERTS, MIXED])
@pytest.mark.parametrize("partial", [False, True])
@pytest.mark.parametrize("raises", [False, True])
def test_an_answer_cannot_show_hidden_inputs(tmp_path: Path, row: dict, partial: bool, raises: bool):
    path = tmp_path / "d.jsonl"
    path.write_text(json.dumps(row) + "\n")
    env = gymnasium.make("code-v1", data=str(path), test_data=str(path), max_turns=2, partial=partial)
    env.reset(options={"index": 0})
    source = PEEK.replace("return frame", "raise ValueError(frame").replace("code()", "code())")
    observation, _, terminated, *_ = env.step(answer(source if raises else PEEK))
    assert not terminated
    assert "f(1)" in observation
    assert "87654" not in observation


def test_partial_credit(tmp_path: Path):
    path = tmp_path / "d.jsonl"
    path.write_text(json.dumps(MBPP) + "\n")
    env = gymnasium.make("code-v1", data=str(path), test_data=str(path), partial=True)
    env.reset(options={"index": 0})
    assert env.step(answer("def add(a, b): return 3 if a == 1 else 99"))[1] == 2 / 3


class Bomb:
    def __reduce__(self):
        return (print, ("owned",))


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        ({"text": "x"}, "no tests"),
        ({"text": "x", "test_list": []}, "cannot be read"),
        ({"text": "x", "test_list": ["assert ("]}, "cannot be read: SyntaxError"),
        ({"question": "x", "input_output": "{"}, "cannot be read"),
        ({"question": "x", "input_output": {"inputs": [1], "outputs": []}}, "1 inputs and 0 outputs"),
        ({"test_list": ["assert f() == 1"]}, "none of the keys problem, text"),
        (
            LIVECODEBENCH | {"private_test_cases": b64encode(zlib.compress(pickle.dumps(Bomb()))).decode()},
            "UnpicklingError",
        ),
    ],
)
def test_broken_rows_are_named(row: dict, complaint: str, capsys):
    with pytest.raises(UserError, match=complaint) as caught:
        code_problem(row, "d.jsonl, line 1")
    assert "d.jsonl, line 1" in str(caught.value)
    assert "owned" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"difficulty": 9}, "difficulty=9"),
        ({"split": "valid"}, "split='valid'"),
        ({"prompt": "no place"}, "does not contain"),
        ({"max_turns": 0}, "max_turns=0"),
        ({"sandbox": "locl"}, "did you mean 'local'"),
        ({"rewards": {"corect": 1}}, "did you mean 'correct'"),
    ],
)
def test_bad_options(options: dict, complaint: str):
    with pytest.raises(UserError, match=complaint):
        gymnasium.make("code-v1", **options)


def test_a_host_without_a_strong_sandbox_is_refused(monkeypatch):
    def unavailable(**_options: object) -> None:
        raise SandboxUnavailable("this host does not provide a strong sandbox")

    monkeypatch.setattr(shared, "_pools", {})
    monkeypatch.setitem(shared.sandboxes._entries, "local", unavailable)
    for make, options in ((lambda: gymnasium.make("code-v1"), "env_options"), (PythonTool, "agent_options")):
        pattern = rf"a strong sandbox.*{options}\.sandbox=container.*{options}\.allow_weak=true"
        with pytest.raises(UserError, match=pattern) as caught:
            make()
        assert "\n" not in str(caught.value)


def test_mbpp_as_it_is_published():
    path = str(data_file("mbpp.jsonl"))
    found = load_code_problems(path, None, path)["test"]
    assert len(found) == 971
    env = gymnasium.make("code-v1", data=path, test_data=path)
    assert "assert min_cost(" in env.reset(options={"index": 0, "split": "test"})[0]
