"""Figures of a report against hand calculation."""

from __future__ import annotations

import json
import math
import random
from dataclasses import replace

import pytest
from rich.console import Console

from areal.evaluation.report import Report, conditions, markdown, report_of
from areal.evaluation.responses import Header, Response, read_responses, write_responses
from areal.thoughts import Thought


def test_what_a_figure_depends_on_is_reported():
    plain = ({"temperature": 1.0}, {"difficulty": 2}, "single-turn", {}, {})
    assert conditions(*plain) == {"temperature": 1.0, "difficulty": 2}
    shots = [{"role": "user", "content": "1+1?"}, {"role": "assistant", "content": "2"}]
    chat = {"system": "Answer.", "examples": shots, "template_kwargs": {"enable_thinking": False}}
    found = conditions({}, {}, "multi-turn", {"max_turns": 2}, chat)
    assert found == {
        "agent": "multi-turn",
        "agent_options.max_turns": 2,
        "chat.examples": "2 messages",
        "chat.system": "Answer.",
        "chat.template_kwargs": {"enable_thinking": False},
    }


def test_parts_of_a_reward_are_reported_where_there_are_several():
    base = {
        "env": "e",
        "model": "m",
        "scores": [[1.2]],
        "finishes": [["eos"]],
        "lengths": [[3]],
        "seconds": 1.0,
    }
    report = Report(**base, parts={"correct": 1.0, "format": 0.2})
    assert "correct 1.000, format 0.200" in report.markdown()
    assert Report.from_json(report.to_json()) == report
    assert "parts" not in Report(**base, parts={"correct": 1.0}).markdown()


def test_thoughts_are_reported_where_there_are_some(tmp_path):
    header = Header("sums", "e", {}, "single-turn", {}, "m", 2, 1, 0, {})
    said = [[Thought(10, "own"), Thought(0, "own")], [Thought(30, "budget"), Thought(20, "none")]]
    rows = [Response(i, 0, {}, [], 1.0, {}, "eos", 40, thoughts=thoughts) for i, thoughts in enumerate(said)]
    write_responses(tmp_path / "a.jsonl", header, rows)
    found, read = read_responses(tmp_path / "a.jsonl")
    assert (found, read) == (header, rows)
    made = report_of(found, read, seconds=0.0)
    assert "15.0 tokens, 25.0% without an end, 25.0% ended by the budget" in made.markdown()
    assert Report.from_json(made.to_json()) == made
    without = report_of(found, [replace(row, thoughts=[]) for row in rows], seconds=0.0)
    assert "thoughts" not in without.markdown()


def report(scores, **other) -> Report:
    values = {
        "env": "math-v1",
        "model": "starter",
        "finishes": [["stop"] * len(row) for row in scores],
        "lengths": [[10] * len(row) for row in scores],
        "seconds": 2.0,
        "settings": {"temperature": 1.0},
    }
    return Report(scores=scores, **{**values, **other})


def binary(right: int, n: int) -> Report:
    return report([[1.0]] * right + [[0.0]] * (n - right))


@pytest.mark.parametrize(
    ("right", "n", "low", "high"),
    [
        (8, 10, 0.4902, 0.9433),
        (0, 10, 0.0, 0.2775),  # z² / (n + z²)
        (10, 10, 0.7225, 1.0),
        (1, 2, 0.0945, 0.9055),
        (128, 256, 0.4392, 0.5608),
    ],
)
def test_wilson_interval(right, n, low, high):
    found = binary(right, n)
    assert found.accuracy == right / n
    assert found.interval == pytest.approx((low, high), abs=5e-5)


def test_interval_holds_the_accuracy_for_every_count():
    for right in range(41):
        found = binary(right, 40)
        low, high = found.interval
        assert 0.0 <= low <= found.accuracy <= high <= 1.0


def test_several_samples_are_clustered_by_problem():
    # Problem means 1, 0.5, 0: standard deviation 0.5, standard error 0.5/√3.
    found = report([[1.0, 1.0], [1.0, 0.0], [0.0, 0.0]])
    half = 1.959964 * 0.5 / math.sqrt(3)
    assert found.accuracy == 0.5
    assert found.interval == pytest.approx((max(0.0, 0.5 - half), min(1.0, 0.5 + half)))


def test_repeating_responses_adds_no_certainty():
    rng = random.Random(0)
    means = [float(rng.random() < 0.5) for _ in range(50)]
    few, many = report([[m] * 2 for m in means]), report([[m] * 20 for m in means])
    assert few.interval == pytest.approx(many.interval)


def test_graded_scores():
    found = report([[-2.0], [0.0], [5.0]])
    half = 1.959964 * math.sqrt((9 + 1 + 16) / 2) / math.sqrt(3)
    assert found.accuracy == 1.0
    assert found.interval == pytest.approx((1 - half, 1 + half))  # not clipped: these are no shares


@pytest.mark.parametrize(
    ("scores", "measure"),
    [
        ([[0.0, 1.0]], "accuracy"),
        ([[0.0]], "accuracy"),
        ([[0.0, 0.5]], "mean reward"),
        ([[2]], "mean reward"),
    ],
)
def test_only_what_is_right_or_wrong_has_an_accuracy(scores: list[list[float]], measure: str):
    found = report(scores)
    assert found.measure == measure
    for table in (found.markdown(), markdown([found, report([[1.0]])])):
        assert f"| {measure} |" in table.splitlines()[0]


def test_one_problem_says_nothing_of_others():
    assert report([[1.0, 0.0]]).interval == (0.0, 1.0)
    found = report([[3.5]])
    assert found.interval == (-math.inf, math.inf)
    assert json.loads(json.dumps(found.to_json(), allow_nan=False))["interval"] == [None, None]


@pytest.mark.parametrize(
    "shape",
    [
        {"scores": []},
        {"scores": [[]]},
        {"scores": [[1.0], [1.0, 0.0]]},
        {"scores": [[1.0]], "finishes": [["stop", "stop"]]},
        {"scores": [[1.0]], "lengths": []},
    ],
)
def test_nothing_to_report_is_refused(shape):
    with pytest.raises(ValueError, match=r"report needs|does not have"):
        report(**shape)


def test_counts():
    found = report(
        [[1.0, 0.0], [0.0, 0.0]],
        finishes=[["stop", "length"], ["stop", "abort"]],
        lengths=[[10, 64], [6, 0]],
    )
    assert (found.problems, found.samples) == (2, 2)
    assert found.mean_length == 20.0
    assert found.truncated == 0.25
    assert found.finish_counts == {"stop": 2, "length": 1, "abort": 1}
    assert found.tokens_per_s == 40.0
    assert report([[1.0]], seconds=0.0).tokens_per_s == 0.0


def test_json_round_trip():
    found = report([[0.1 + 0.2, 1.0], [0.0, 1 / 3]])
    data = json.loads(json.dumps(found.to_json()))
    assert Report.from_json(data) == found
    assert data["accuracy"] == found.accuracy


def test_tables_say_it_all_and_take_names_literally():
    found = report([[1.0]] * 8 + [[0.0]] * 2, model="org/[bold]m|n")
    console = Console(width=80)
    with console.capture() as shown:
        console.print(found.table())
    for text in ("math-v1", "org/[bold]m|n", "0.800", "0.490 to 0.943", "stop 10", "0.0%", "temperature=1.0"):
        assert text in shown.get()
    names, rule, values = found.markdown().splitlines()
    columns = names.count("|")
    assert rule.count("|") == columns
    assert values.replace("\\|", "").count("|") == columns
    assert "0.800 (95% interval 0.490 to 0.943)" in values
