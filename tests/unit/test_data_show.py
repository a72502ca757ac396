"""What `areal data show` says of data, and rows that cannot be read: refused, or left out and counted."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from data_rows import MANY, SYSTEM, USER, jsonl

from areal.cli import main, parse
from areal.config import load_config
from areal.envs.data import load_pairs
from areal.errors import UserError
from areal.registry import make_env

GOOD = [{"problem": f"{n}+1?", "answer": str(n + 1)} for n in range(4)]
SEVERAL = [{"problem": f"{n}?", "answer": [n, n + 1]} for n in range(3)]
PROSE = {"problem": "Why?", "solution": "So it is.\nAnd so on."}
CODE = {"text": "Return it.", "test_list": ["assert f(1) == 1"]}


def shown(capsys: pytest.CaptureFixture[str], *words: str, status: int = 0) -> str:
    with pytest.raises(SystemExit) as ended:
        main(["data", "show", *words])
    captured = capsys.readouterr()
    assert ended.value.code == status, captured.err
    return captured.out if status != 2 else captured.err


def test_rows_that_cannot_be_read_are_left_out_where_that_is_asked_for(tmp_path: Path):
    data = jsonl(tmp_path / "d.jsonl", *GOOD, *SEVERAL, PROSE, {"other": 1})
    with pytest.raises(UserError, match=r"line 5: answer has 2 answers .*areal data show"):
        load_pairs(data, None, None)
    loaded = load_pairs(data, None, None, skip_unreadable=True)
    assert len(loaded["train"]) + len(loaded["test"]) == len(GOOD)
    assert list(loaded.skipped.values()) == [3, 1, 1], "the same complaint with other answers is of one kind"
    first, prose, other = loaded.skipped
    assert first.startswith(f"{data}, line 5: answer has 2 answers (0, 1)")
    assert prose.startswith(f"{data}, line 8: no final answer")
    assert other.startswith(f"{data}, line 9: none of the keys")
    assert loaded.notices[1:] == (
        f"skipped 3 rows, the first because: {first}",
        f"skipped 1 row: {prose}",
        f"skipped 1 row: {other}",
    )
    assert load_pairs(jsonl(tmp_path / "good.jsonl", *GOOD), None, None, skip_unreadable=True).skipped == {}


def test_something_must_be_readable(tmp_path: Path):
    with pytest.raises(UserError, match=r"no row can be read: .*line 1: answer has 2 answers"):
        load_pairs(jsonl(tmp_path / "d.jsonl", *SEVERAL), None, None, skip_unreadable=True)


@pytest.mark.parametrize("env", ["math-v1", "data-v1", "code-v1"])
def test_environments_leave_rows_out(env: str, tmp_path: Path):
    rows = [{**CODE, "text": f"{n}."} for n in range(4)] if env == "code-v1" else GOOD
    data = jsonl(tmp_path / "d.jsonl", *rows, {"other": 1})
    made = make_env(env, data=data, skip_unreadable=True).unwrapped
    assert made.count("train") + made.count("test") == 4
    assert made.notices[1].startswith(f"skipped 1 row: {data}, line 5")
    with pytest.raises(UserError, match="line 5"):
        make_env(env, data=data)


def test_what_is_held_out_is_said(tmp_path: Path):
    data = jsonl(tmp_path / "some" / "train.jsonl", *MANY)
    assert load_pairs(data, None, None).notices[0].endswith("held out (one in ten, by a hash of their text)")
    other = jsonl(tmp_path / "other.jsonl", *GOOD)
    assert (
        load_pairs(data, None, other)
        .notices[0]
        .endswith(f": 30 training problems, 4 held out (from {other})")
    )
    jsonl(tmp_path / "some" / "validation.jsonl", GOOD[0])
    found = load_pairs(str(tmp_path / "some"), None, None)
    assert found.notices[0].endswith(": 30 training problems, 1 held out (its split validation)")


def test_the_first_problems_are_shown_as_the_model_gets_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    chat = {"prompt": [SYSTEM, {**USER, "content": "1+1?\nNow."}], "reward_model": {"ground_truth": "2"}}
    data = jsonl(tmp_path / "d.jsonl", chat)
    printed = shown(capsys, data)
    assert f"{data}: read as verl rows: 1 training problem, 0 held out\n" in printed
    assert (
        "train problem 0\n  system: Be brief.\n  user: 1+1?\n    Now.\n"
        "    Put the final answer in \\boxed{}.\n  answer: 2\n"
    ) in printed
    assert "  user: Q: 1+1?\n    Now.\n  answer: 2\n" in shown(capsys, "prompt=Q: {problem}", data)
    assert "train problem 0" not in shown(capsys, data, "-n", "0")


def test_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    data = jsonl(tmp_path / "d.jsonl", *({**CODE, "text": f"Give {n}."} for n in range(9)), PROSE)
    found = json.loads(shown(capsys, data, "--json", "-n", "2", status=1))
    assert found["env"] == "code-v1"
    assert sum(found["problems"].values()) == 9
    assert [left["rows"] for left in found["left_out"]] == [1]
    assert [problem["tests"] for problem in found["first"]] == ["assertions (1)"] * 2
    assert found["first"][0]["messages"][0]["content"].startswith("Give ")


@pytest.mark.parametrize(
    ("options", "rows", "env"),
    [
        ([], GOOD, "math-v1"),
        (["prompt={problem} Be quick.\n\\boxed{{}}"], GOOD, "math-v1"),
        (["answer={reward[truth]}"], [{"q": "?", "question": "1?", "reward": {"truth": "1"}}], "data-v1"),
        (["prompt=Q: {q}", "verifier=exact"], [{"q": "1?", "answer": "a"}], "data-v1"),
        ([], [CODE], "code-v1"),
        ([], [*GOOD, PROSE], "math-v1"),
    ],
)
def test_the_command_that_it_names_trains_on_what_it_showed(
    options: list[str],
    rows: list[dict[str, Any]],
    env: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
):
    data = jsonl(tmp_path / "a file.jsonl", *rows)
    status = int(PROSE in rows)
    found = json.loads(shown(capsys, data, *options, "--json", status=status))
    printed = shown(capsys, data, *options, status=status)
    words = shlex.split(printed[printed.index("train on it: ") + len("train on it: ") :])
    given = parse(words[1:])
    config = load_config(None, given.overrides, {"env": given.env})
    assert config.env == env == found["env"]
    made = make_env(config.env, **config.env_options)
    asked, _ = made.reset(options={"index": 0, "split": "train"})
    assert asked == found["first"][0]["messages"][-1]["content"]


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["{data}", "anwser={x}"], "the option 'anwser' does not exist; did you mean 'answer'?"),
        (["{data}", "verifier=maths"], "did you mean 'math'?"),
        (["{data}", "prompt={nothing}"], "no row can be read: .*needs {nothing}"),
        (["{data}", "-n", "-1"], "--count -1 must be at least 0"),
        (["{data}s"], "does not exist; did you mean 'd.jsonl'?"),
        (["{data}", "subset=main", "test_data=none.jsonl"], "none.jsonl does not exist"),
    ],
)
def test_what_it_cannot_show(
    words: list[str], complaint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):

    data = jsonl(tmp_path / "d.jsonl", *GOOD)
    said = shown(capsys, *(word.replace("{data}", data) for word in words), status=2)
    assert re.match(f"areal: error: .*{complaint.replace('?', '[?]')}", said)
    assert said.count("\n") == 1
