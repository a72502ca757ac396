"""What is shown of runs in a terminal: their list, and what they learned from."""

from __future__ import annotations

import io
import json
import os
import re
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from areal import cli
from areal.authoring.play import Show
from areal.config import parse_config
from areal.models import load_tokenizer, resolve_model
from areal.telemetry.plain import plain
from areal.telemetry.run_directory import RunDirectory, json_line
from areal.telemetry.status import identity, write_status
from areal.trajectory import Episode, Group, Trajectory
from areal.viewer.rollouts import parts_of
from areal.viewer.runs import find_runs

HOSTILE = "\x1b[2J\x1b]0;title\x07 \u202egnp.exe \x9b31m \r"


def ids_of(text: str) -> list[int]:
    ids: list[int] = load_tokenizer(resolve_model("starter"))(text, add_special_tokens=False)["input_ids"]
    return ids


def episode(reward: float, answer: str, versions: list[int], **more: Any) -> Episode:
    """A problem and an answer, whose last tokens were sampled by later weights."""
    asked, said = ids_of("Compute 1 + 1."), ids_of(answer)
    mask = [False] * len(asked) + [True] * len(said)
    by = [versions[0]] * (len(said) - len(versions) + 1) + versions[1:]
    trajectory = Trajectory(
        np.array(asked + said, np.int32),
        np.array(mask),
        np.zeros(len(mask), np.float32),
        np.array([-1] * len(asked) + by, np.int32),
    )
    return Episode([trajectory], reward, {"correct": reward}, **more)


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    """A run of two updates, of two groups each."""
    made = RunDirectory.create(parse_config({"output": tmp_path / "runs", "name": "it", "steps": 4}))
    for step in (1, 2):
        groups = [
            Group(2 * step + i, step - 1, [episode(i, "12", [0]), episode(i / 2, "1 = 2", [step - 1, step])])
            for i in (1, 0)
        ]
        made.log_rollouts(step, (json_line(group.to_json()) for group in groups))
        made.log_metrics({"step": step, "reward/mean": step / 4})
        made.log_metrics({"step": step, "eval/math-v1/avg@1": step / 8, "eval/math-v1/problems": 40})
    return made


def output(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> str:
    with pytest.raises(SystemExit) as ended:
        cli.main(list(words))
    assert ended.value.code == code
    shown = capsys.readouterr()
    return shown.out if code == 0 else shown.err


@given(st.text())
def test_plain_text_moves_no_cursor_and_hides_nothing(text: str):
    shown = plain(text)
    harmless = {"\n", "\t", "\u200c", "\u200d"}
    assert {unicodedata.category(c) for c in set(shown) - harmless} & {"Cc", "Cf", "Cs", "Zl", "Zp"} == set()
    assert plain(shown) == shown
    shown.encode()  # to any terminal


LETTERS = ["", "1 + 1 = 2\n", "ünï 漢字", "\U0001f469\u200d\U0001f680 \U0001fae8", "\ue0a0", "a\tb", "\\x1b"]
"""Among them an emoji newer than this Python, and a letter of private use."""


@pytest.mark.parametrize("text", LETTERS)
def test_letters_are_left_alone(text: str):
    assert plain(text) == text


@given(st.text(max_size=12), st.lists(st.tuples(st.booleans(), st.integers(0, 2)), min_size=50, max_size=50))
def test_parts_are_the_whole_text_and_each_has_one_side_and_one_version(text: str, marks: list[Any]):
    """Also where a letter has several tokens: here each byte is one."""
    data = text.encode(errors="replace")[:50]
    marks = sorted(marks[: len(data)], key=lambda mark: mark[0])  # the prompt first
    trajectory = Trajectory(
        np.array(list(data), np.int32),
        np.array([sampled for sampled, _ in marks], bool),
        np.zeros(len(data), np.float32),
        np.array([version if sampled else -1 for sampled, version in marks], np.int32),
    )
    parts = parts_of(trajectory, lambda ids: bytes(ids).decode(errors="replace"))
    count = sum(not sampled for sampled, _ in marks)
    halves = [data[:count].decode(errors="replace"), data[count:].decode(errors="replace")]
    assert "".join(part.text for part in parts) == "".join(halves)
    by = [version for part in parts for version in [part.version] * part.tokens]
    assert by == [version if sampled else None for sampled, version in marks]


def test_the_worst_come_first(run: RunDirectory, capsys: pytest.CaptureFixture[str]):
    found = json.loads(output(capsys, "show", str(run.path), "--worst", "--json", "-n", "9"))
    assert [each["reward"] for each in found] == [0, 0, 0.5, 1]
    assert {each["step"] for each in found} == {2}, "the last update"
    found = json.loads(output(capsys, "show", str(run.path), "--best", "--json", "--step", "1"))
    assert [(each["step"], each["reward"]) for each in found] == [(1, r) for r in (1, 0.5, 0, 0)]


def test_where_the_weights_changed_is_seen(run: RunDirectory, capsys: pytest.CaptureFixture[str]):
    shown = output(capsys, "show", str(run.path), "-n", "2")
    first, second = shown.split("update 2, group 5, response ")[1:]
    assert first.startswith("1 of 2 · reward 1 · group mean 0.75")
    assert "Compute 1 + 1.[v0]12\n" in first
    assert "staleness 1" in first
    assert "Compute 1 + 1.[v1]1 = [v2]2\n" in second
    assert "weights 1 to 2" in second
    assert "2 more of update 2: --count 4" in second


def test_nothing_that_others_wrote_reaches_the_terminal_raw(
    run: RunDirectory, capsys: pytest.CaptureFixture[str]
):
    groups = [Group(9, 0, [episode(0, HOSTILE, [0], failure=HOSTILE, env=HOSTILE)])]
    run.log_rollouts(3, (json_line(group.to_json()) for group in groups))
    shown = output(capsys, "show", str(run.path))
    assert set(shown) & set(HOSTILE) <= set(" .;0123456789gnpextilm[]J"), "letters alone"
    assert shown.count("\\x1b[2J") == 3
    stream = io.StringIO()
    Show(stream)("action", HOSTILE)  # areal env try
    assert not set(stream.getvalue()) & set("\x1b\x07\x9b\r\u202e")


def test_what_is_not_there_is_one_line(run: RunDirectory, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (run.path / "rollouts" / "step-000001.jsonl").write_text('{"id": 1}\n')
    empty = RunDirectory.create(parse_config({"output": tmp_path / "runs", "name": "empty"}))
    for words, line in {
        (
            "show",
            str(run.path),
            "--step",
            "7",
        ): "update 7 of .* is not recorded; the record has updates 1 to 2",
        ("show", str(run.path), "--step", "1"): "the record of update 1 of .* is damaged",
        ("show", str(run.path), "--count", "0"): "--count 0: the number must be at least 1",
        ("show", str(empty.path)): "has not completed an update yet",
        ("show", str(tmp_path)): "is not a run directory",
        ("runs", str(tmp_path / "none")): "cannot read the folder .*: No such file or directory",
        ("runs", str(tmp_path)): "has no runs; start one with `areal train`",
    }.items():
        error = output(capsys, *words, code=2)
        assert len(error.splitlines()) == 1
        assert re.search(line, error), error


def test_runs_are_listed_the_newest_last(run: RunDirectory, capsys: pytest.CaptureFixture[str]):
    folder = run.path.parent
    for number, ended in enumerate(["finished", "stopped after 2 updates", "no memory", ""]):
        made = RunDirectory.create(parse_config({"output": folder, "name": f"r{number}"}))
        write_status(made.path, {**identity(), "time": 0, "ended": ended})
        os.utime(made.path / "config.yaml", (number, number))
    (folder / "r0" / "config.yaml").write_text("steps: many\n")
    os.utime(folder / "r0" / "config.yaml", (0, 0))
    found = find_runs(folder)
    assert [each.path.name for each in found] == ["r0", "r1", "r2", "r3", "it"], "and `latest` is none"
    assert [each.state for each in found] == ["", "stopped", "failed", "running", ""]
    assert "many" in found[0].error
    last = found[-1]
    assert (last.step, last.steps, last.reward, last.accuracy) == (2, 4, 0.5, 0.25)
    listed = output(capsys, "runs", str(folder))
    assert all(name in listed for name in ("r0", "r3", "it", "2 of 4", "0.500"))
    assert re.search(r"it .* 0\.250 +│ math-v1", listed)
    run.log_metrics({"step": 3, "reward/mean": 0.75})
    RunDirectory(folder / "r3").log_metrics({"step": 0, "eval/it/avg@1": 0.125})
    listed = output(capsys, "runs", str(folder))
    assert re.search(r"it .* 0\.250 after update 2", listed)
    assert re.search(r"r3 .* 0\.125 before training", listed)
    assert [each["reward"] for each in json.loads(output(capsys, "runs", str(folder), "--json"))][-1] == 0.75
