"""What the page is told of evaluations: scores, responses in order, what was said, how two differ."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from starlette.testclient import TestClient
from test_view_data import embedded, look
from viewed_runs import INVISIBLE, PAYLOADS, SHOWN, make_evaluation, make_run

from areal.errors import UserError
from areal.evaluation.comparison import compare
from areal.evaluation.report import report_of
from areal.evaluation.responses import read_responses
from areal.viewer.app import make_app
from areal.viewer.evaluations import Comparisons, WatchedEvaluation, find_evaluations
from areal.viewer.index import Query
from areal.viewer.report import write_report
from areal.viewer.watched import Watched, watch


@pytest.fixture
def a(tmp_path: Path) -> Path:
    return make_evaluation(tmp_path / "runs", "a", long=0.001)


@pytest.fixture
def b(tmp_path: Path) -> Path:
    return make_evaluation(tmp_path / "runs", "b", samples=3, right=0.8, messages=True)


def watched(tmp_path: Path, *paths: Path) -> list[Watched]:
    return watch([str(path) for path in paths], tmp_path / "cache")


def one(tmp_path: Path, path: Path) -> WatchedEvaluation:
    (found,) = watched(tmp_path, path)
    assert isinstance(found, WatchedEvaluation)
    return found


def test_scores_are_those_of_the_report(a: Path, tmp_path: Path):
    make_evaluation(tmp_path / "runs", "a", benchmark="more", problems=3, done=2)
    more, sums = one(tmp_path, a).state()["benchmarks"]
    report = report_of(*read_responses(a / "sums.jsonl"), seconds=0.0)
    assert (sums["accuracy"], tuple(sums["interval"])) == (report.accuracy, report.interval)
    assert (sums["problems"], sums["samples"], sums["parts"]) == (8, 2, report.parts)
    assert (more["responses"], more["wanted"], "accuracy" in more) == (2, 6, False)


def test_responses_are_listed_by_problem_reward_and_its_parts(a: Path, tmp_path: Path):
    evaluation = one(tmp_path, a)
    whole = look(evaluation)
    assert [(row["group"], row["number"]) for row in whole["rows"]] == [
        (p, s) for p in range(8) for s in (1, 2)
    ]
    assert whole["parts"] == ["correct", "length"]
    right = look(evaluation, Query(part="correct", values=(1, 1)))
    assert right["count"] == sum(row["parts"]["correct"] for row in whole["rows"])
    lengths = [row["parts"]["length"] for row in look(evaluation, Query(part="length", sort="part"))["rows"]]
    assert lengths == sorted(row["parts"]["length"] for row in whole["rows"])
    assert look(evaluation, text="COMPUTE 7 + 21")["rows"] == whole["rows"][-2:], "prompts are searched, too"
    for row in whole["rows"]:
        group = [each["reward"] for each in whole["rows"] if each["group"] == row["group"]]
        assert row["mean"] == pytest.approx(sum(group) / 2)


def test_what_was_said_has_its_tokens(a: Path, tmp_path: Path):
    evaluation = one(tmp_path, a)
    (found,) = evaluation.group(1, 3, 2)["rollouts"]
    (conversation,) = found["conversations"]
    assert "".join(conversation["texts"]).startswith("<|user|>Compute 3 + 9.<|end|>\n<|assistant|>3 + 9 = ")
    assert min(conversation["logprobs"]) < 0
    assert conversation["versions"] is None
    assert evaluation.prompts(1, [3, 99])[99] is None
    assert "".join(evaluation.prompts(1, [3])[3]["texts"]) == "<|user|>Compute 3 + 9.<|end|>\n<|assistant|>"
    with pytest.raises(UserError, match="a has no response 5 to problem 3 of benchmark 1"):
        evaluation.group(1, 3, 5)


def test_of_an_endpoint_the_messages_are_known(b: Path, tmp_path: Path):
    evaluation = one(tmp_path, b)
    (found,) = evaluation.group(1, 3, 2)["rollouts"]
    said = found["conversations"][0]["messages"]
    assert [message["role"] for message in said] == ["user", "assistant"]
    assert said[0]["text"] == "Compute 3 + 9."
    assert evaluation.prompts(1, [3])[3] == {"messages": said[:1], "given": 1}
    assert look(evaluation, text="compute 7 + 21")["rows"][0]["group"] == 7


def test_what_is_not_kept_is_said(a: Path, tmp_path: Path):
    shutil.rmtree(a / "conversations")
    evaluation = one(tmp_path, a)
    (found,) = evaluation.group(1, 3, 2)["rollouts"]
    assert "was not recorded" in found["note"]
    assert found["actions"][0].startswith("3 + 9 = ")
    gone = one(tmp_path, make_evaluation(tmp_path / "runs", "gone", model=str(tmp_path / "gone")))
    (found,) = gone.group(1, 3, 2)["rollouts"]
    assert "The tokens cannot be read: " in found["note"]
    assert str(tmp_path / "gone") in found["note"]
    assert found["actions"]


def test_an_evaluation_is_followed(tmp_path: Path):
    path = make_evaluation(tmp_path / "runs", "a", done=5)
    evaluation = one(tmp_path, path)
    with (path / "sums.jsonl").open("a") as file:
        file.write('{"problem": 2, "sam')  # is being written
    found = look(evaluation)
    assert (found["count"], found["damaged"]) == (5, [])
    make_evaluation(tmp_path / "more", "a")
    for name in ("sums.jsonl", "conversations/sums.jsonl"):
        shutil.copy(tmp_path / "more" / "eval" / "a" / name, path / name)
    assert look(evaluation)["count"] == 16
    assert evaluation.group(1, 7)["rollouts"][1]["conversations"]
    assert evaluation.state()["benchmarks"][0]["accuracy"] >= 0


def test_two_differ_as_in_the_terminal(a: Path, b: Path, tmp_path: Path):
    first, second = watched(tmp_path, a, b)
    comparisons = Comparisons()
    found = comparisons.compare(first, second, "sums")
    (expected,) = compare(a, b)
    assert found["found"] == json.loads(json.dumps(expected.to_json()))["found"]
    assert found["verdict"] == expected.verdict
    assert found["problems"] == [[n, n] for n in range(8)]
    rows = (a / "sums.jsonl").read_text().splitlines(True)
    (a / "sums.jsonl").write_text("".join(rows[:-1]))
    with pytest.raises(UserError, match="has 15 of 16 responses; finish it with"):
        comparisons.compare(first, second, "sums")
    make_evaluation(tmp_path / "runs", "a", benchmark="more")
    with pytest.raises(UserError, match="b has no benchmark more"):
        comparisons.compare(one(tmp_path, a), second, "more")


def test_runs_and_evaluations_are_found_and_told_apart(a: Path, b: Path, tmp_path: Path):
    run = make_run(tmp_path / "runs", "a", steps=1)
    assert {path.name for path in find_evaluations(tmp_path / "runs")} == {"a", "b"}
    names = [each.name for each in watched(tmp_path, run.path, a, b)]
    assert names == [str(run.path), str(a), "b"]
    with pytest.raises(UserError, match=r"is not a run directory: .*; it has no NAME.jsonl either"):
        watched(tmp_path, tmp_path / "runs")


def test_damaged_files_are_said(a: Path, tmp_path: Path):
    lines = (a / "sums.jsonl").read_text().splitlines(True)
    for damage in ('{"problem": 1}\n', "[" * 100_000 + "\n", lines[1].replace('"reward": ', '"reward": "x')):
        (a / "sums.jsonl").write_text("".join([lines[0], damage, *lines[2:]]))
        evaluation = one(tmp_path, a)
        found = look(evaluation)
        assert (found["damaged"], found["count"]) == ([1], 15), damage[:40]
        assert evaluation.state()["benchmarks"][0]["error"]
    (a / "sums.jsonl").write_text("no header\n")
    evaluation = one(tmp_path, a)
    assert look(evaluation)["damaged"] == [1]
    assert "line 1" in evaluation.state()["benchmarks"][0]["error"]
    assert evaluation.settings() == {}


def test_links_that_lead_out_are_not_followed(a: Path, b: Path, tmp_path: Path):
    evaluation = one(tmp_path, a)
    look(evaluation)
    (a / "conversations" / "sums.jsonl").unlink()
    (a / "conversations" / "sums.jsonl").symlink_to(b / "conversations" / "sums.jsonl")
    with pytest.raises(UserError, match=r"sums\.jsonl leads out of the run"):
        evaluation.group(1, 3)
    (a / "other.jsonl").symlink_to(b / "sums.jsonl")
    assert list(one(tmp_path, a).files) == ["sums"]


def test_nothing_hides_in_what_the_page_is_told(tmp_path: Path):
    for name in ("tokens", "messages"):
        path = make_evaluation(
            tmp_path / "runs", name, problems=len(PAYLOADS), hostile=True, messages=name == "messages"
        )
        evaluation = one(tmp_path, path)
        groups = [evaluation.group(1, number) for number in range(len(PAYLOADS))]
        told = [evaluation.state(), look(evaluation), groups, evaluation.prompts(1, [1, 2])]
        text = json.dumps(told, ensure_ascii=False)
        assert not set(text) & set(INVISIBLE) - set(SHOWN)
        assert text.count(json.dumps(SHOWN)[1:-1]) >= len(PAYLOADS)


def test_nothing_is_written_to_the_evaluation(a: Path, tmp_path: Path):
    before = {path: path.stat().st_mtime_ns for path in a.rglob("*")}
    evaluation = one(tmp_path, a)
    evaluation.state(), evaluation.settings(), look(evaluation), evaluation.group(1, 2)
    assert {path: path.stat().st_mtime_ns for path in a.rglob("*")} == before


def test_over_http(a: Path, b: Path, tmp_path: Path):
    client = TestClient(make_app(watched(tmp_path, a, b)), "http://127.0.0.1:8000")
    assert [each["name"] for each in client.get("/api/states").json()["evaluations"]] == ["a", "b"]
    found = client.get("/api/rollouts?run=a&sort=part&part=length&part_least=-1&part_most=0").json()
    assert found["count"] == 16
    assert client.get("/api/comparison?a=a&b=b&benchmark=sums").json()["numbers"] == [1, 1]
    assert set(client.get("/api/prompts?run=a&step=1&problems=1,2").json()) == {"1", "2"}
    for path in (
        "comparison?a=a&b=../b&benchmark=sums", "comparison?a=a&b=b&benchmark=../b/sums", "metrics?run=a",
        "timeline?run=a", "group?run=a&step=2&group=1",
        "rollouts?run=../a", "group?run=a&step=1&group=77",
    ):  # fmt: skip
        assert client.get(f"/api/{path}").status_code == 404, path
    for problems in ("x", "1,,2", "-1", ",".join(["1"] * 201), ""):
        assert client.get(f"/api/prompts?run=a&step=1&problems={problems}").status_code == 400


def test_a_report_has_scores_and_responses(a: Path, b: Path, tmp_path: Path):
    path = tmp_path / "report.html"
    run = make_run(tmp_path / "runs", "run", steps=1)
    found = watched(tmp_path, run.path, a, b)
    said = write_report(found, path)
    assert said == (
        "all metrics; all scores; the rollouts of steps 1 to 1 of run; all of 16 responses of a; "
        "all of 24 responses of b"
    )
    data = embedded(path)
    assert len(data["rollouts"]["b"]["rows"]) == 24
    assert data["comparisons"]['["a","b","sums"]']["verdict"]
    size = len(json.dumps(found[1].step(1)))
    assert re.fullmatch(r"all scores; [789] of 16 responses", write_report(found[1:2], path, size // 2))
