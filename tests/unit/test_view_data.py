"""What the page is told of a run: new metrics, rollouts by filter and order, texts of tokens; the report."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from viewed_runs import (
    INVISIBLE,
    PAYLOADS,
    SHOWN,
    add_hostile_step,
    add_step,
    episode,
    ids_of,
    make_run,
    metrics,
    tokenizer,
)

from areal.disk import write_whole
from areal.errors import UserError
from areal.telemetry.run_directory import METRICS, RunDirectory, json_line
from areal.trajectory import Group
from areal.viewer.index import Query
from areal.viewer.report import write_report
from areal.viewer.tokens import pieces
from areal.viewer.watched import WatchedRun, watch


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    return make_run(tmp_path / "runs", steps=4)


@pytest.fixture
def watched(run: RunDirectory, tmp_path: Path) -> WatchedRun:
    return watched_again(run, tmp_path)


def watched_again(run: RunDirectory, tmp_path: Path) -> WatchedRun:
    (found,) = watch([str(run.path)], tmp_path / "cache")
    return found


EVERY = Query()


def look(
    watched: WatchedRun, query: Query = EVERY, limit: int = 200, skip: int = 0, text: str = "", **more: int
) -> dict:
    """A list, once the index has everything."""
    while (found := watched.find(query, limit, skip, text, **more))["left"]:
        pass
    return found


@given(st.text(max_size=12))
def test_the_texts_of_tokens_are_the_whole_text(text: str):
    """Also where a letter has several tokens: here each byte is one."""
    data = list(text.encode(errors="replace"))
    found = pieces(data, lambda ids: bytes(ids).decode(errors="replace"))
    assert len(found) == len(data)
    assert "".join(found) == bytes(data).decode()


def test_each_letter_belongs_to_the_token_in_which_it_ends():
    ids = ids_of("12 漢!")
    found = pieces(ids, lambda some: tokenizer().decode(some))
    assert "".join(found) == "12 漢!"
    assert "\ufffd" not in "".join(found)
    letter = found.index("漢")
    assert found[letter - 2 : letter] == ["", ""]


def test_bytes_that_are_no_letter_hold_nothing_up():
    calls = []

    def decode(ids: list[int]) -> str:
        calls.append(len(ids))
        return bytes(ids).decode(errors="replace")

    assert "".join(pieces([0xFF] * 500 + [65], decode)).endswith("A")
    assert max(calls) < 100


def test_only_new_metrics_are_sent(watched: WatchedRun):
    run = watched.run
    first = watched.metrics("")
    assert (first["length"], first["again"], first["more"]) == (5, True, False)
    assert first["columns"]["step"] == [1, 2, 3, 3, 4]
    assert first["columns"]["eval/math-v1/avg@1"][2] is None
    assert watched.metrics(first["mark"])["length"] == 0
    add_step(run, 5)
    with (run.path / METRICS).open("a") as file:
        file.write('{"step": 6, "rew')  # is being written
    second = watched.metrics(first["mark"])
    assert (second["columns"]["step"], second["again"]) == ([5], False)
    run.truncate_metrics(3)
    third = watched.metrics(second["mark"])
    assert (third["columns"]["step"], third["again"]) == ([1, 2], True)
    for step in range(3, 12):
        add_step(run, step)
    fourth = watched.metrics(second["mark"])
    assert (fourth["columns"]["step"][0], fourth["again"]) == (1, True), "longer by now than it was"
    (run.path / METRICS).unlink()
    assert watched.metrics(third["mark"])["again"]


def test_metrics_come_in_pieces(watched: WatchedRun):
    steps, mark, more = [], "", True
    while more:
        found = watched.metrics(mark, chunk=1000)
        mark, more = found["mark"], found["more"]
        steps += found["columns"]["step"]
    assert steps == [1, 2, 3, 3, 4]


def test_filters_and_orders(watched: WatchedRun):
    whole = look(watched)
    assert (whole["count"], len(whole["rows"]), whole["left"]) == (32, 32, 0)
    assert (whole["first"], whole["last"]) == (1, 4)
    worst = look(watched, Query((4, 4), sort="reward"), 200)["rows"]
    assert [row["reward"] for row in worst] == sorted(row["reward"] for row in worst)
    assert {row["step"] for row in worst} == {4}
    assert len(worst) == 8
    right = look(watched, Query(rewards=(0.5, 1), finish="eos"), 200)
    assert right["count"] == len(right["rows"]) == sum(row["reward"] for row in whole["rows"])
    for sort in ("step", "reward", "tokens", "staleness"):
        up = [row[sort] for row in look(watched, Query(sort=sort), 200)["rows"]]
        down = [row[sort] for row in look(watched, Query(sort=sort, descending=True), 200)["rows"]]
        assert up == sorted(up) == down[::-1]
    changed = look(watched, Query(changed=True))["rows"]
    assert changed == [row for row in whole["rows"] if row["oldest"] < row["newest"]] != []
    pages = [look(watched, Query(), 10, skip) for skip in (0, 10, 20, 30)]
    assert [page["next"] for page in pages] == [10, 20, 30, None]
    assert [row for page in pages for row in page["rows"]] == whole["rows"]


def add_parts(run: RunDirectory, step: int, parts: list[dict[str, float]]) -> None:
    """Add an update with a group whose episodes have these parts of the reward."""
    said = [
        episode("How many?", [f"{number}"], [step - 1], sum(each.values()), reward_parts=each)
        for number, each in enumerate(parts)
    ]
    run.log_rollouts(step, [json_line(Group(100 * step, step - 1, said).to_json())])


def test_parts_of_the_reward_filter_and_order(watched: WatchedRun):
    add_parts(watched.run, 5, [{"correct": 1.0, "length": -x / 8} for x in (3, 1, 2)])
    add_parts(watched.run, 6, [{"correct": 0.0, "length": -1.0}, {"style": 0.25}])
    whole = look(watched)
    assert sorted(whole["parts"]) == ["correct", "length", "style"]

    def lengths(query: Query) -> list[float]:
        return [row["parts"]["length"] for row in look(watched, query)["rows"]]

    assert lengths(Query(part="length", sort="part")) == [-1.0, -0.375, -0.25, -0.125]
    assert lengths(Query(part="length", sort="part", descending=True)) == [-0.125, -0.25, -0.375, -1.0]
    assert lengths(Query(part="length", values=(-0.375, -0.2), sort="reward")) == [-0.375, -0.25]
    right_but_long = Query(rewards=(0.5, 1), part="length", values=(-1, -0.2), sort="part")
    assert lengths(right_but_long) == [-0.375, -0.25]
    assert look(watched, Query(part="style", sort="part"))["count"] == 1, "of those that have it"
    assert look(watched, Query(part="none", sort="part"))["count"] == 0
    assert look(watched, Query(part="style"))["count"] == whole["count"], "neither a range nor an order"
    add_parts(watched.run, 6, [{"correct": 0.0, "length": -0.5}])
    assert lengths(Query((6, 6), part="length", sort="part")) == [-0.5]


def test_of_very_many_parts_the_first_have_a_column_and_the_others_are_said(watched: WatchedRun):
    add_parts(watched.run, 5, [{f"part {n}": 0.0 for n in range(40)}])
    found = look(watched, Query((5, 5)))
    assert len(found["parts"]) == 16
    assert found["parts_left_out"]
    assert len(found["rows"][0]["parts"]) == 16
    assert len(watched.group(5, 500)["rollouts"][0]["parts"]) == 40


def test_search_goes_on_where_it_stopped(watched: WatchedRun):
    found, skip = [], 0
    while skip is not None:
        page = look(watched, Query(), 3, skip, "COMPUTE 12 + 3.", searched=5)
        assert len(page["rows"]) <= 3
        found += page["rows"]
        skip = page["next"]
    assert [(row["step"], row["group"], row["number"]) for row in found] == [(1, 2, n) for n in (1, 2, 3, 4)]


def test_a_rollout_has_the_values_of_each_token(watched: WatchedRun):
    (row,) = watched.group(3, 6, 2)["rollouts"]
    (conversation,) = row["conversations"]
    text = "".join(conversation["texts"])
    assert text.startswith("<|user|>Compute 16 + 9.<|end|>\n<|assistant|>16 + 9 = ")
    assert {len(conversation[name]) for name in ("texts", "ids", "versions", "logprobs", "sampled")} == {
        len(conversation["ids"])
    }
    assert sorted(set(conversation["versions"])) == [-1, 0, 2]
    assert (row["staleness"], row["oldest"], row["newest"]) == (2, 0, 2)
    assert len(watched.group(3, 6)["rollouts"]) == 4
    with pytest.raises(UserError, match="has no rollout 5 of group 6 of update 3"):
        watched.group(3, 6, 5)
    with pytest.raises(UserError, match="has no group 60 of update 3"):
        watched.group(3, 60)


def test_what_an_update_computed_of_tokens_is_there_for_some(watched: WatchedRun):
    rollouts = watched.group(3, 6)["rollouts"]
    assert [each["valued"] for each in rollouts] == [[(6, 1), (7, 1)]] * 4
    assert [bool(each["conversations"][0]["values"]) for each in rollouts] == [True, False, False, False]
    conversation = rollouts[0]["conversations"][0]
    values = conversation["values"]
    assert values.keys() == {"advantage", "entropy", "prox/behav", "theta/prox"}
    for column in values.values():
        assert [value is not None for value in column] == [bool(each) for each in conversation["sampled"]]
    found = [value for value in values["entropy"] if value is not None]
    assert (found[0], found[-1]) == (0.0, 3.0)
    (watched.run.path / "tokens" / "step-000003.jsonl").unlink()  # as of a run of an older version
    assert watched.group(3, 6)["rollouts"][0]["conversations"][0]["values"] == {}


def test_values_of_other_tokens_are_not_shown(watched: WatchedRun):
    path = watched.run.path / "tokens" / "step-000003.jsonl"
    other = '{"group": 6, "number": 1, "conversation": 0, "values": {"entropy": [1.0]}}'
    for damage, said in ((other, "have changed"), ('{"group": 6}', "of update 3 are damaged")):
        write_whole(path, [damage + "\n"])
        with pytest.raises(UserError, match=said):
            watched.group(3, 6)


def test_the_index_follows_the_run(watched: WatchedRun, tmp_path: Path):
    run = watched.run
    assert look(watched, Query(), 1)["count"] == 32
    add_step(run, 5)
    assert look(watched, Query((5, 5)), 1)["count"] == 8
    run.truncate_metrics(4)  # it is set back, and goes on otherwise
    assert look(watched, Query(), 1)["count"] == 24
    add_step(run, 4, groups=1)
    assert look(watched, Query(), 1)["count"] == 28
    again = watched_again(run, tmp_path)
    assert again.index.find(Query(), 1)[1] == 28, "what was read once is not read again"
    shutil.rmtree(tmp_path / "cache")
    assert look(watched_again(run, tmp_path))["count"] == 28


def test_settings_say_what_the_preset_of_the_objective_decides(watched: WatchedRun):
    config = yaml.safe_load((watched.run.path / "config.yaml").read_text())

    def settings(learner: dict[str, Any]) -> dict[str, str]:
        (watched.run.path / "config.yaml").write_text(yaml.safe_dump(config | {"learner": learner}))
        return watched.settings()

    assert (
        settings({"objective": "dapo", "kl": None, "advantage": "centered"})["learner.advantage"]
        == "centered"
    )
    assert settings({"objective": "dapo", "kl": None})["learner.kl"] == "0.0 (preset)"
    assert settings({"objective": "dapo", "clip": 0.2})["learner.clip_high"] == "0.28 (preset)"
    assert settings({"objective": "of the year 2030", "kl": None})["learner.kl"] == ""


def test_nothing_is_written_to_the_run(watched: WatchedRun):
    before = {path: path.stat().st_mtime_ns for path in watched.run.path.rglob("*")}
    watched.state(), watched.settings(), look(watched, Query(), 5), watched.group(1, 2)
    assert {path: path.stat().st_mtime_ns for path in watched.run.path.rglob("*")} == before


def test_damaged_records_are_said(watched: WatchedRun):
    records = watched.run.path / "rollouts"
    for damage in (
        '{"id": 1}',
        "[" * 100_000,
        "no JSON",
        '{"id": 1, "version": 0, "episodes": [{"trajectories": 7}]}',
    ):
        write_whole(records / "step-000002.jsonl", [damage + "\n"])
        found = look(watched)
        assert found["damaged"] == [2], damage
    assert {row["step"] for row in found["rows"]} == {1, 3, 4}


def test_links_that_lead_out_are_not_followed(run: RunDirectory, tmp_path: Path):
    """Neither before nor while it is shown."""
    other = make_run(tmp_path / "runs", "other")
    watched = watched_again(run, tmp_path)
    record = run.path / "rollouts" / "step-000002.jsonl"
    record.unlink()
    record.symlink_to(other.path.resolve() / "rollouts" / "step-000002.jsonl")
    assert {row["step"] for row in look(watched)["rows"]} == {1, 3, 4}
    (run.path / METRICS).unlink()
    (run.path / METRICS).symlink_to(other.path.resolve() / METRICS)
    for ask in (watched.state, lambda: watched.metrics("")):
        with pytest.raises(UserError, match=r"metrics\.jsonl leads out of the run"):
            ask()
    (run.path / METRICS).unlink()
    shutil.rmtree(run.path / "rollouts")
    (run.path / "rollouts").symlink_to(other.path.resolve() / "rollouts")
    with pytest.raises(UserError, match="rollouts leads out of the run"):
        watched_again(run, tmp_path)


def test_nothing_hides_in_what_the_page_is_told(watched: WatchedRun):
    add_hostile_step(watched.run, 5)
    told = json.dumps(
        [
            watched.state(),
            watched.metrics(""),
            look(watched, Query((5, 5)), 200),
            *(watched.group(5, 1000 + n) for n in range(len(PAYLOADS))),
        ],
        ensure_ascii=False,
    )
    assert not set(told) & set(INVISIBLE) - set(SHOWN)
    assert told.count(json.dumps(SHOWN)[1:-1]) >= len(PAYLOADS)


def test_alarms_are_those_of_the_run(run: RunDirectory, tmp_path: Path):
    for step in range(5, 11):
        run.log_metrics({**metrics(step), "reward/mean": 0.0, "reward/std": 0.0, "advantage/zero": 1.0})
    found = watched_again(run, tmp_path).state()["alarms"]
    assert [(alarm["name"], alarm["step"]) for alarm in found] == [
        ("nothing learned", 10),
        ("reward collapsed", 10),
    ]
    assert "no response earned a reward" in found[0]["line"]


def test_each_run_has_a_name_of_its_own(run: RunDirectory, tmp_path: Path):
    other = make_run(tmp_path / "elsewhere", steps=1)
    named = [each.name for each in watch([str(run.path), str(other.path)], tmp_path / "cache")]
    assert named == [str(run.path), str(other.path)]
    twice = [str(run.path), os.path.relpath(run.path)]
    assert [each.name for each in watch(twice, tmp_path / "cache")] == ["run"]


def embedded(path: Path) -> dict:
    found = re.search(r'<script type="application/json" id="report">(.*?)</script>', path.read_text())
    return json.loads(found[1])


def test_the_report_has_all_metrics_and_the_last_rollouts(watched: WatchedRun, tmp_path: Path):
    path = tmp_path / "report.html"
    assert write_report([watched], path) == "all metrics; the rollouts of steps 1 to 4"
    data = embedded(path)
    assert data["metrics"]["run"]["columns"]["step"] == [1, 2, 3, 3, 4]
    assert len(data["rollouts"]["run"]["rows"]) == 32
    size = len(json.dumps(watched.step(4)))
    assert write_report([watched], path, size) == "all metrics; the rollouts of steps 4 to 4"
    assert {row["step"] for row in embedded(path)["rollouts"]["run"]["rows"]} == {4}
    assert write_report([watched], path, size - 1) == "all metrics; no rollouts"
    with pytest.raises(UserError, match="give a file in an existing folder"):
        write_report([watched], tmp_path / "none" / "report.html")


def test_a_report_of_hostile_text_is_one_document(watched: WatchedRun, tmp_path: Path):
    add_hostile_step(watched.run, 5)
    path = tmp_path / "report.html"
    write_report([watched], path)
    page = path.read_text()
    assert page.count("<script") == page.count("</script>") == 4, "data, two libraries, the program"
    assert not [payload for payload in PAYLOADS if payload.startswith("<") and payload in page]


def test_numbers_that_json_has_none_for_become_null(run: RunDirectory, tmp_path: Path):
    groups = run.read_rollouts(4)
    logprobs = groups[0]["episodes"][0]["trajectories"][0]["logprobs"]
    logprobs[-1] = float("nan")
    groups[0]["episodes"][0]["task"] = {"x": float("inf")}
    record = run.path / "rollouts" / "step-000004.jsonl"
    record.write_text("".join(json.dumps(group) + "\n" for group in groups))
    found = watched_again(run, tmp_path).group(4, groups[0]["id"])
    json.dumps(found, allow_nan=False)
    assert found["rollouts"][0]["conversations"][0]["logprobs"][-1] is None
    assert found["rollouts"][0]["task"] == {"x": None}


def test_a_long_run_is_outlined_first(run: RunDirectory, tmp_path: Path):
    watched = watched_again(run, tmp_path)
    assert watched.outline() == watched.metrics(""), "all of a short one"
    with (run.path / METRICS).open("a") as file:
        for step in range(5, 3006):
            file.write(json_line({**metrics(step), "padding": "x" * 200}))
            if step % 500 == 0:
                file.write(json_line({"step": step, "eval/math-v1/avg@1": step / 10000}))
        file.write('{"step": 3006, "rew')
    found = watched.outline()
    steps = [step for step in found["columns"]["step"] if step % 500]
    assert found["every"] == 3
    assert steps[-1] == 3005, "what is so now is always there"
    assert len(found["columns"]["step"]) == found["length"] < 1100
    scores = [score for score in found["columns"]["eval/math-v1/avg@1"] if score is not None]
    assert len(scores) == 7, "no score is left out"
    whole = watched.metrics(found["mark"])
    assert (whole["again"], whole["columns"]["step"][:4]) == (True, [1, 2, 3, 3])


def test_nothing_is_indexed_while_somebody_waits(run: RunDirectory, tmp_path: Path):
    watched = watched_again(run, tmp_path)
    assert watched.index.update(60, go_on=lambda: False) == 4
    assert watched.index.update(60, first=(2, 2), go_on=lambda: False) == 3, "what is asked for is"
    assert watched.index.update(60) == 0
