"""Where tokens/s fell, and the causes that are named."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from areal.viewer.falls import USUAL, FallWatch, Lane, Seconds, falls
from areal.viewer.updates import Span, Update

LATENCY = {"model": 1.0, "env": 0.05, "verifier": 0.01, "env_queue": 0.02, "buffer": 1.0, "other": 0.0}


def update(step: int, rate: float | None = 1000.0, **latency: float) -> Update:
    """An update of two seconds."""
    start = 2.0 * step
    return Update(
        step,
        start,
        start + 0.5,
        start + 2,
        1.4,
        0.9,
        rate,
        100.0,
        {**LATENCY, **latency} if latency else LATENCY,
    )


def found(updates: Sequence[Update], **lanes: Sequence[Span]) -> list[tuple[int, int, list[str]]]:
    """Return the first and the last step of each fall, and its causes."""
    watch = FallWatch()
    for place, each in enumerate(updates):
        watch.add(place, each)
    known = {name: Lane.of(spans) for name, spans in {"learner": [], **lanes}.items()}
    return [
        (updates[fall.updates[0]].step, updates[fall.updates[-1]].step, why)
        for fall, why in falls(updates, watch.low, known)
    ]


def run(count: int, changed: dict[int, Update]) -> list[Update]:
    return [changed.get(step, update(step)) for step in range(count)]


def test_a_run_like_itself_has_no_falls():
    assert found([update(step, 1000 + 150 * (step % 2)) for step in range(100)]) == []
    assert found(run(40, {3: update(3, 10)})) == [], "too early for anything to be usual"
    assert found([update(step, None) for step in range(40)]) == [], "not recorded"


def test_a_fall_lasts_until_tokens_are_back():
    slow = {step: update(step, 100, env=3.0) for step in range(20, 20 + USUAL - 1)}
    assert [(first, last) for first, last, _ in found(run(100, slow))] == [(20, 68)]


def test_what_lasts_becomes_usual():
    slow = {step: update(step, 100, env=3.0) for step in range(20, 200)}
    slow[190] = update(190, 20, env=9.0)
    said = found(run(200, slow))
    assert [(first, last) for first, last, _ in said] == [(20, 19 + USUAL), (190, 190)]
    assert "usually 3 s" in said[1][2][0]


def test_falls_of_other_causes_are_two():
    changed = {step: update(step, 300, env=3.0) for step in range(20, 30)}
    changed |= {step: update(step, 300, model=4.0) for step in range(30, 40)}
    said = found(run(60, changed))
    assert [words[0].partition(" took")[2].partition(" in")[2] for *_, words in said] == [
        " their environment, usually 50 ms",
        " the model, usually 1 s",
    ]


def test_calls_queue_because_those_before_take_long():
    changed = {20: update(20, 100, env=2.0, env_queue=20.0)}
    ((_, _, said),) = found(run(30, changed))
    assert said == [
        "rollouts took up to 2 s in their environment, usually 50 ms",
        "rollouts waited up to 20 s for one of rollout.env_workers, usually 20 ms",
    ]
    ((_, _, said),) = found(run(30, {20: update(20, 100, env_queue=20.0)}))
    assert said == ["rollouts waited up to 20 s for one of rollout.env_workers, usually 20 ms"]


def test_what_took_little_explains_nothing():
    ((_, _, said),) = found(run(30, {20: update(20, 100, model=9.0, env=0.3)}))
    assert len(said) == 1
    ((_, _, said),) = found(run(30, {20: update(20, 100, verifier=0.05)}))
    assert said == []


def test_an_engine_that_is_lost_comes_first():
    engine: list[Span] = [(0, 35, "up", 0), (35, 41, "lost", 0), (41, 100, "up", 0)]
    changed = {step: update(step, 500, env=1.0) for step in (18, 19, 20)}
    ((first, last, said),) = found(run(30, changed), engine_1=engine)
    assert (first, last) == (18, 20)
    assert said[0] == "engine_1 was lost for 6 s"
    assert "environment" in said[1]


@pytest.mark.parametrize(("pause", "named"), [(0.2, False), (0.9, True)])
def test_longer_pauses(pause: float, named: bool):
    loads: list[Span] = [(2.0 * n, 2.0 * n + (pause if n > 19 else 0.1), "load", n) for n in range(40)]
    changed = {step: update(step, 500) for step in range(20, 26)}
    said = [words for *_, causes in found(run(30, changed), engine=loads) for words in causes]
    assert any("paused for new weights" in words for words in said) is named


def test_other_programs_on_the_machine():
    slow = replace(update(20, 300, model=4.0), taken=40.2, end=45.0)
    (*_, said) = found([*run(20, {}), slow])[0]
    assert said[-1].endswith("other programs may have used the machine")
    (*_, said) = found([*run(20, {}), replace(slow, length=400.0)])[0]
    assert "other programs" not in " ".join(said), "the responses are longer"
    assert any("responses had 400 tokens, usually 100" in words for words in said)


def test_seconds_within():
    seconds = Seconds([(0, 2, "load", 1), (3, 4, "load", 2), (3, 9, "up", 0)], "load")
    assert [
        seconds.within(*span) for span in ((0, 9), (1, 3.5), (2, 3), (3.2, 3.4), (5, 9))
    ] == pytest.approx([3, 1.5, 0, 0.2, 0])
