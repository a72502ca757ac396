"""Who did what when, as the page is told: spans of learner and engines, marks, staleness, what is missing."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from viewed_runs import (
    INVISIBLE,
    PAYLOADS,
    SHOWN,
    START,
    add_hostile_step,
    add_step,
    end_of,
    make_run,
)

from areal.telemetry.run_directory import EVENTS, METRICS, RunDirectory, json_line, parsed
from areal.telemetry.status import identity, write_status
from areal.viewer import timeline
from areal.viewer.tail import Tail
from areal.viewer.timeline import EngineLanes, LearnerLane, Timeline, marks_of, updates_of
from areal.viewer.updates import Span
from areal.viewer.watched import WatchedRun, watch

Line = dict[str, Any]


def row(step: int, end: float, length: float = 10.0, wait: float = 2.0, train: float = 5.0) -> Line:
    """A line of metrics: it begins with the wait for the batch."""
    return {"step": step, "time": end, "time/step": length, "time/wait": wait, "time/train": train}


def event(name: str, at: float, **fields: Any) -> Line:
    return {"time": at, "event": name, **fields}


def published(version: int, at: float, seconds: float = 1.0) -> Line:
    return event("published", at, version=version, seconds=seconds)


def loaded(version: int, at: float, engine: str = "engine 0", pause: float = 0.5) -> Line:
    return event("loaded", at, engine=engine, version=version, pause=pause)


def learner(rows: Sequence[Line], events: Sequence[Line], end: float = 100.0) -> list[Span]:
    lane, updates = LearnerLane(), updates_of(rows)
    for each in events:
        lane.note(each)
    for update in updates:
        lane.add(update)
    return sorted(lane.spans(end, bool(updates)))


def engine_spans(rows: Sequence[Line], events: Sequence[Line], end: float) -> dict[str, list[Span]]:
    lanes = EngineLanes()
    for each in events:
        lanes.note(each, [update.end for update in updates_of(rows)])
    return {name: sorted(spans) for name, spans in lanes.spans(end).items()}


def test_a_step_of_the_learner():
    spans = learner([row(3, 110.0)], [published(3, 110.0)])
    assert spans == [(100, 102, "wait", 3), (104, 109, "train", 3), (109, 110, "publish", 3)]


def test_it_waits_until_engines_have_loaded_the_version_before():
    events = [loaded(2, 109.4), loaded(2, 109.7, "engine 1"), published(3, 110.0)]
    assert learner([row(3, 110.0)], events)[2:] == [(109, 109.7, "load", 2), (109.7, 110, "publish", 3)]
    early = [loaded(2, 108.9), published(3, 110.0), loaded(3, 110.6), loaded(2, 111.0, "engine that joined")]
    assert learner([row(3, 110.0)], early)[2:] == [(109, 110, "publish", 3)]


def test_without_staleness_it_waits_for_its_own_load():
    spans = learner([row(3, 110.0)], [published(3, 109.0), loaded(3, 109.9)])
    assert spans[1:] == [(103, 108, "train", 3), (108, 109, "publish", 3), (109, 109.9, "load", 3)]


def test_a_learner_that_is_lost_and_comes_back():
    events = [
        event("lost", 105.0, part="learner", cause="x"),
        event("restarted", 120.0, part="learner", seconds=14.0),
    ]
    spans = learner([row(3, 130.0, 30.0)], [*events, published(3, 130.0)])
    assert spans == [
        (100, 102, "wait", 3),
        (105, 120, "lost", 0),
        (124, 129, "train", 3),
        (129, 130, "publish", 3),
    ]
    assert learner([], events[:1], 107.0) == [(105, 107, "lost", 0)], "it is not back yet"
    resumed = [*events[:1], event("resumed", 500.0, version=2)]
    assert learner([], resumed, 600.0) == [], "nobody knows for how long the run went on"


def test_an_update_whose_publication_failed():
    """The learner was lost then; the version is published again by another one."""
    again = event("published", 109.9, version=3, of_new_learner=True)
    assert learner([row(3, 110.0)], [again]) == [(100, 102, "wait", 3), (102, 107, "train", 3)]


def test_an_engine_is_paused_lost_and_back():
    events = [
        event("published", 0.0, version=0, of_new_learner=True),
        loaded(0, 1.0),
        loaded(1, 11.0),
        event("lost", 15.0, part="engine 0", cause="x"),
        loaded(1, 20.0),
        event("restarted", 20.1, part="engine 0", seconds=5.0),
        event("left", 25.0, part="engine 0"),
    ]
    assert engine_spans([], events, 30.0) == {
        "engine 0": [(1, 15, "up", 0), (10.5, 11, "load", 1), (15, 20, "lost", 0), (20, 25, "up", 0)]
    }
    assert engine_spans([], events[:4], 30.0)["engine 0"][-1] == (15, 30, "lost", 0)
    several = [loaded(0, 1.0, f"engine {number}") for number in (1, 10, 2, 0)]
    assert list(engine_spans([], several, 30.0)) == ["engine 0", "engine 1", "engine 2", "engine 10"]
    assert engine_spans([], events[:3], 30.0)["engine 0"][0] == (1, 30, "up", 0)


def test_engines_end_with_the_run_and_not_with_the_learner():
    begun = [event("published", 0.0, version=0, of_new_learner=True), loaded(0, 1.0), published(1, 10.0)]
    new = event("published", 50.0, version=1, of_new_learner=True)
    resumed = [*begun, new, loaded(1, 51.0), event("resumed", 52.0, version=1)]
    assert engine_spans([], resumed, 60.0) == {"engine 0": [(1, 10, "up", 0), (51, 60, "up", 0)]}
    assert engine_spans([row(1, 12.0)], resumed, 60.0)["engine 0"][0] == (1, 12, "up", 0), (
        "until it was last heard of"
    )
    lost = [event("lost", 40.0, part="learner"), event("restarted", 49.0, part="learner", seconds=9.0)]
    assert engine_spans([], [*begun, *lost, new, loaded(1, 51.0)], 60.0) == {
        "engine 0": [(1, 60, "up", 0), (50.5, 51, "load", 1)]
    }


def test_marks_stand_after_the_updates_that_were_made_by_then():
    marks = marks_of(
        [
            published(7, 1.0),
            event("lost", 2.0, part="engine 0", cause="SIGKILL"),
            event("restarted", 3.0, part="engine 0", seconds=1.25),
            published(8, 4.0),
            event("restarted", 5.0, part="learner", seconds=2.0, version=7),
            event("resumed", 6.0, version=6),
            loaded(6, 7.0),
        ]
    )
    assert [(m["step"], m["part"], m["what"], m["text"]) for m in marks] == [
        (7, "engine 0", "lost", "SIGKILL"),
        (7, "engine 0", "started again", "after 1.25 s"),
        (7, "learner", "started again", "after 2 s"),
        (6, "the run", "resumed", ""),
    ]


def test_what_may_be_looked_at():
    rows = [row(step, 10.0 * step) for step in range(1, 11)]
    whole = Timeline(rows, [])
    assert whole.window("all") == (0, 100, 0)
    assert whole.window(25.0) == (75, 100, 0)
    assert whole.window(1e6) == (0, 100, 0)
    assert whole.window((3, 4)) == (20, 40, 0)
    assert whole.window((50, 60)) == (100, 100, 0), "there is none"
    shown = whole.view((3, 4))
    assert (shown["start"], shown["end"], shown["taken"]) == (20, 40, {3: 22, 4: 32})
    assert shown["updates"]["step"] == [3, 4]
    many = Timeline([row(step, 10.0 * step) for step in range(1, timeline.MOST + 11)], []).view("all")
    assert (many["left_out"], many["updates"]["step"][0]) == (10, 11)
    assert len(many["updates"]["step"]) == timeline.MOST
    nothing = Timeline([], []).view("all")
    assert (nothing["start"], nothing["end"], nothing["lanes"]) == (0, 0, [{"name": "learner", "spans": []}])


def test_a_run_that_goes_on_shows_what_it_waits_for():
    def now(who: str, what: str) -> list[Span]:
        status = {"time": 120.0, "waits": [{"who": who, "what": what, "seconds": 8.0}]}
        return Timeline([row(3, 110.0)]).lanes(status)["learner"][2:]

    assert now("the learner", "a batch") == [(112, 120, "wait", 4)]
    assert now("the run", "the learner's update") == [(112, 120, "train", 4)]
    assert now("the user", "tea") == []


def test_where_the_time_of_rollouts_went():
    parts = {"episode": 4.0, "model": 1.0, "env": 0.5, "env_queue": 0.25, "buffer": 9.0}
    line = {**row(1, 10.0), "time/generate": 12.0, **{f"latency/{name}": x for name, x in parts.items()}}
    (update,) = updates_of([line])
    rest = {"model": 1.0, "env_queue": 0.25, "buffer": 9.0, "other": 2.25}
    assert update.latency == rest | {"env": 0.5, "verifier": 0.0}, "an older run"
    (verified,) = updates_of([{**line, "latency/verifier": 0.375}])
    assert verified.latency == rest | {"env": 0.125, "verifier": 0.375}
    assert update.generate == 1.0
    (update,) = updates_of([{**line, "latency/model": 7.0}])
    assert update.latency is not None
    assert update.latency["other"] == 0, "calls at once"
    del line["latency/env"]
    assert updates_of([line])[0].latency is None


def test_only_new_lines_are_read(tmp_path: Path):
    path, tail = tmp_path / "file", Tail({"a"})
    assert tail.read(path) == ([], False)
    path.write_text('{"a": 1, "b": 2}\n{"a": 2')
    assert tail.read(path) == ([{"a": 1}], False)
    assert tail.read(path) == ([], False)
    with path.open("a") as file:
        file.write("}\nno JSON\n")
    assert tail.read(path) == ([{"a": 2}], False)
    (tmp_path / "new").write_text('{"a": 3}\n')
    os.replace(tmp_path / "new", path)
    assert tail.read(path) == ([{"a": 3}], True), "it was replaced"
    path.unlink()
    assert tail.read(path) == ([], True)
    assert tail.read(path) == ([], False)


@pytest.mark.parametrize("size", [1, 3])
def test_what_comes_bit_by_bit_is_what_comes_at_once(run: RunDirectory, size: int):
    """Also where events are known before the row that they led to, as in a run that is being written."""
    run.log_event("lost", part="learner", cause="x", time=end_of(4) + 1)
    run.log_event("restarted", part="learner", seconds=1.0, time=end_of(4) + 2)
    run.log_event("published", version=4, time=end_of(4) + 2.1, of_new_learner=True)
    rows = [parsed(line) for line in (run.path / METRICS).read_text().splitlines()]
    events = [parsed(line) for line in (run.path / EVENTS).read_text().splitlines()]
    status = {"time": end_of(4) + 9.0, "waits": []}
    whole, bits = Timeline(rows, events), Timeline()
    for line in rows:
        upto = [each for each in events if each["time"] <= line.get("time", 0.0) + size]
        bits.add([line], upto)
        events = events[len(upto) :]
        bits.view("all", status)
    bits.add([], events)
    assert bits.view("all", status) == whole.view("all", status)
    assert bits.marks == whole.marks


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    return make_run(tmp_path / "runs", steps=4)


@pytest.fixture
def watched(run: RunDirectory, tmp_path: Path) -> WatchedRun:
    (found,) = watch([str(run.path)], tmp_path / "cache")
    return found


def test_a_run_as_it_is_written(watched: WatchedRun):
    found = watched.timeline("all")
    json.dumps(found, allow_nan=False)
    lanes = {lane["name"]: lane["spans"] for lane in found["lanes"]}
    assert list(lanes) == ["learner", "engine 0", "engine 1"]
    assert [kind for _, _, kind, _ in lanes["learner"]] == ["wait", "train", "publish"] * 4
    assert [kind for _, _, kind, _ in lanes["engine 1"]] == ["up"] + ["load"] * 4
    assert (found["zero"], found["bound"], found["missing"], found["live"]) == (START - 0.5, 4, [], False)
    taken = {step: time for time, step, _, _ in found["groups"]}
    assert end_of(1) < found["zero"] + taken[2] < end_of(2)
    assert [(step, group, stale) for _, step, group, stale in found["groups"]] == [
        (1, 2, 0), (1, 3, 0), (2, 4, 1), (2, 5, 1), (3, 6, 2), (3, 7, 2), (4, 8, 2), (4, 9, 2),
    ]  # fmt: skip
    assert found["updates"]["generate"] == [0.9] * 4
    assert found["updates"]["other"] == [0.1] * 4
    add_step(watched.run, 5)
    assert watched.timeline((5, 5))["groups"][0][1] == 5
    unbounded = watched.run.path / "config.yaml"
    unbounded.write_text(unbounded.read_text().replace("max_staleness: 4", "max_staleness: .inf"))
    assert watched.timeline("all")["bound"] is None


def test_a_run_that_was_set_back(watched: WatchedRun):
    """Its events stay: they have happened."""
    assert watched.timeline("all")["updates"]["step"] == [1, 2, 3, 4]
    watched.run.truncate_metrics(3)
    watched.run.log_event("resumed", version=2, time=end_of(9))
    found = watched.timeline("all")
    assert found["updates"]["step"] == [1, 2]
    assert {step for _, step, _, _ in found["groups"]} == {1, 2}
    assert [(mark["what"], mark["step"]) for mark in watched.state()["marks"]] == [("resumed", 2)]


@pytest.mark.parametrize("kept", ["events without lengths", "no events"])
def test_runs_of_older_versions_open_and_say_what_they_lack(watched: WatchedRun, kept: str):
    run = watched.run
    old = [
        {k: v for k, v in line.items() if k != "time" and "latency" not in k} for line in _lines(run, METRICS)
    ]
    events = [
        {k: v for k, v in line.items() if k not in ("seconds", "pause")} for line in _lines(run, EVENTS)
    ]
    (run.path / METRICS).write_text("".join(map(json_line, old)))
    (run.path / EVENTS).write_text("".join(map(json_line, events)))
    if kept == "no events":
        (run.path / EVENTS).unlink()
    found = watched.timeline("all")
    said = " ".join(found["missing"])
    assert "The times of updates were not recorded" in said
    assert "How rollouts spent their time was not recorded." in said
    assert ("There is no events.jsonl" in said) == (kept == "no events")
    assert ("The length of some pauses" in said) == (kept != "no events")
    assert found["updates"]["step"] == []
    if kept == "no events":
        assert found["groups"] == []
        return
    lanes = {lane["name"]: lane["spans"] for lane in found["lanes"]}
    assert {(end - begin, kind) for begin, end, kind, _ in lanes["learner"]} == {(0, "publish")}
    assert {(end - begin, kind) for begin, end, kind, _ in lanes["engine 0"][1:]} == {(0, "load")}
    assert {step for _, step, _, _ in found["groups"]} == {1, 2, 3, 4}


def _lines(run: RunDirectory, name: str) -> list[Line]:
    return [json.loads(line) for line in (run.path / name).read_text().splitlines()]


def test_a_run_is_live_while_its_process_is(watched: WatchedRun):
    status = {**identity(), "ended": "", "time": end_of(5), "version": 4, "steps": 9}
    status["waits"] = [{"who": "the learner", "what": "a batch", "seconds": 1.5}]
    write_status(watched.run.path, status)
    found = watched.timeline("all")
    assert found["live"]
    begin, end, kind, step = found["lanes"][0]["spans"][-1]
    assert (end - begin, kind, step) == (1.5, "wait", 5)
    write_status(watched.run.path, {**status, "ended": "finished"})
    assert not watched.timeline("all")["live"]


def test_nothing_hides_in_names_and_causes(watched: WatchedRun):
    add_hostile_step(watched.run, 5)
    told = json.dumps([watched.timeline("all"), watched.state()], ensure_ascii=False)
    assert not set(told) & set(INVISIBLE) - set(SHOWN)
    lanes = [lane["name"] for lane in watched.timeline("all")["lanes"]]
    assert set(PAYLOADS) <= set(lanes)


def test_damaged_lines_are_left_out(watched: WatchedRun):
    before = watched.timeline("all")
    for line in (
        {"time": "x", "event": "lost"},
        {"time": 1e999, "event": "loaded"},
        {"event": 7, "time": START},
        {"time": START + 1, "event": "loaded", "version": "x", "engine": "engine 0"},
        {"time": START + 1, "event": "published", "version": None},
    ):
        with (watched.run.path / EVENTS).open("a") as file:
            file.write(json.dumps(line) + "\n")
    watched.run.log_metrics({"step": "x", "time": [], "time/step": {}})
    found = watched.timeline("all")
    assert found["updates"] == before["updates"]
    assert found["lanes"][0] == before["lanes"][0]


def test_nothing_is_written_to_the_run(watched: WatchedRun):
    before = {path: path.stat().st_mtime_ns for path in watched.run.path.rglob("*")}
    watched.timeline("all")
    assert {path: path.stat().st_mtime_ns for path in watched.run.path.rglob("*")} == before
