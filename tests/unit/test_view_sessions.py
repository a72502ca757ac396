"""What the page is told of what areal serve --record kept: a list, conversations, tokens; the report."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from starlette.testclient import TestClient
from test_view_data import embedded, look
from viewed_runs import PAYLOADS, make_evaluation, make_record, make_run

from areal.errors import UserError
from areal.viewer.app import make_app
from areal.viewer.evaluations import WatchedEvaluation
from areal.viewer.index import Query
from areal.viewer.report import write_report
from areal.viewer.rollouts import read_sessions
from areal.viewer.sessions import WatchedSessions
from areal.viewer.watched import Watched, WatchedRun, watch


@pytest.fixture
def record(tmp_path: Path) -> Path:
    return make_record(tmp_path / "served" / "sessions.jsonl")


def watched(tmp_path: Path, *paths: Path) -> list[Watched]:
    return watch([str(path) for path in paths], tmp_path / "cache")


def one(tmp_path: Path, path: Path) -> WatchedSessions:
    (found,) = watched(tmp_path, path)
    assert isinstance(found, WatchedSessions)
    return found


def test_sessions_are_listed_sorted_and_searched(record: Path, tmp_path: Path):
    sessions = one(tmp_path, record)
    assert (sessions.state()["sessions"], sessions.state()["name"]) == (4, "sessions.jsonl")
    assert [row["group"] for row in look(sessions)["rows"]] == [0, 1, 2, 3]
    best = look(sessions, Query(sort="reward", descending=True))["rows"]
    assert [row["reward"] for row in best] == [1.0, 1.0, 0.0, 0.0]
    (found,) = look(sessions, text="CAPITAL OF 2")["rows"]
    assert (found["group"], found["excerpt"]) == (2, "It is town 2.<|end|>")


def test_a_session_has_its_conversations_token_for_token(record: Path, tmp_path: Path):
    sessions = one(tmp_path, record)
    (shown,) = sessions.group(1, 3)["rollouts"]
    rollouts, decode = read_sessions(record)
    kept = rollouts[3].episode.trajectories
    assert shown["session"] == "task-3"
    assert len(shown["conversations"]) == len(kept) == 2
    for conversation, trajectory in zip(shown["conversations"], kept, strict=True):
        assert conversation["ids"] == trajectory.tokens.tolist()
        assert "".join(conversation["texts"]) == decode(trajectory.tokens.tolist())
        assert conversation["logprobs"] == pytest.approx(trajectory.logprobs.tolist(), abs=1e-5)
        assert conversation["sampled"] == trajectory.loss_mask.astype(int).tolist()
        assert conversation["versions"] is None, "nothing was learned, so there are no weights to tell apart"
    with pytest.raises(UserError, match=r"sessions\.jsonl has no session 9"):
        sessions.group(1, 9)


def test_a_file_that_grows_is_followed_and_a_damaged_line_left_out(record: Path, tmp_path: Path):
    sessions = one(tmp_path, record)
    assert look(sessions)["count"] == 4
    whole = record.read_text().splitlines(keepends=True)
    with record.open("a") as file:
        file.write('{"damaged": true}\n' + whole[1] + whole[2][:40])
    found = look(sessions)
    assert [row["group"] for row in found["rows"]] == [0, 1, 2, 3, 5], "what is not whole may become so"
    assert found["damaged"] == [1]
    assert sessions.group(1, 5)["rollouts"][0]["session"] == "task-1"


def test_a_folder_stands_for_its_records_and_for_nothing_else(record: Path, tmp_path: Path):
    make_record(record.with_name("more.jsonl"))
    (record.parent / "empty.jsonl").touch()  # of a server that has just been started
    assert [each.name for each in watched(tmp_path, record.parent)] == ["more.jsonl", "sessions.jsonl"]
    assert len(watched(tmp_path, record.parent, record)) == 2, "the same file is shown once"
    run = make_run(tmp_path / "runs", steps=2)
    make_record(run.path / "sessions.jsonl")
    evaluation = make_evaluation(tmp_path / "runs", "a")
    assert [type(each) for each in watched(tmp_path, run.path, evaluation)] == [WatchedRun, WatchedEvaluation]
    make_record(evaluation / "sessions.jsonl")
    (mixed,) = watched(tmp_path, evaluation)
    assert [benchmark.get("error") is None for benchmark in mixed.state()["benchmarks"]] == [False, True]


@pytest.mark.parametrize(
    ("text", "words"),
    [("", "has no session yet"), ("{}\n", "is not a file of sessions"),
     ("[1]\n", "is not a file of sessions"), ("a, b\n", "is not a file of sessions"),
     ('{"id": 1}', "is not a file of sessions")],
)  # fmt: skip
def test_what_is_no_record_is_said(text: str, words: str, tmp_path: Path):
    path = tmp_path / "other.jsonl"
    path.write_text(text)
    with pytest.raises(UserError, match=words) as viewed:
        watched(tmp_path, path)
    with pytest.raises(UserError) as shown:
        read_sessions(path)
    assert str(viewed.value) == str(shown.value)


def test_the_page_and_the_report_have_the_same(record: Path, tmp_path: Path):
    found = watched(tmp_path, record, make_run(tmp_path / "runs", steps=2).path)
    client = TestClient(make_app(found))
    (state,) = client.get("/api/states").json()["sessions"]
    asked = {"run": "sessions.jsonl", "step": 1, "group": 3}
    assert state["sessions"] == 4
    assert client.get("/api/rollouts", params={"run": "sessions.jsonl"}).json()["count"] == 4
    assert client.get("/api/settings").json()["sessions.jsonl"] == {"model": state["model"]}
    said = write_report(found, tmp_path / "report.html")
    assert "all of 4 sessions of sessions.jsonl" in said
    report = embedded(tmp_path / "report.html")
    assert report["sessions"] == [state]
    assert (
        report["rollouts"]["sessions.jsonl"]["groups"]["1/3"]
        == (client.get("/api/group", params=asked).json()["rollouts"])
    )


def test_nothing_hides_in_what_the_page_is_told(tmp_path: Path):
    sessions = one(tmp_path, make_record(tmp_path / "s.jsonl", hostile=True))
    told = json.dumps([look(sessions), *(sessions.group(1, i) for i in range(len(PAYLOADS)))])
    assert "\\u202e" not in told.replace("\\\\u202e", "")
    assert "\\u001b" not in told
