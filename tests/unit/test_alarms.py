"""What a run's metrics say is wrong, and what they do not."""

from __future__ import annotations

from typing import Any

import pytest

from areal.telemetry.alarms import PATIENCE, Alarm, Alarms, alarms

LONG = 20
"""Updates that what costs time is looked for in."""
WELL = {
    "reward/mean": 0.5,
    "reward/std": 0.5,
    "reward/right": 0.4,
    "reward/form": 0.1,
    "response/truncated": 0.1,
    "response/unfinished": 0.0,
    "response/failed": 0.4,
    "response/length_mean": 12.0,
    "advantage/zero": 0.4,
    "policy/entropy": 0.7,
    "grad_norm": 0.3,
    "learner/tokens_per_s": 900.0,
    "mismatch/logprob": 0.03,
    "time/step": 2.0,
    "time/wait": 1.0,
    "time/generate": 1.6,
    "time/held": 0.1,
    "latency/episode": 1.0,
    "latency/env": 0.3,
    "latency/env_queue": 0.1,
}
NOTHING = {"reward/mean": 0.0, "reward/std": 0.0, "advantage/zero": 1.0}


def run(*stretches: tuple[int, dict[str, Any]]) -> list[dict[str, Any]]:
    """Lines of a run that was well but for some stretches: how many updates, and what was different."""
    lines: list[dict[str, Any]] = []
    for length, different in stretches:
        for _ in range(length):
            step = len(lines) + 1
            # no two updates are the same, but where they are said to be
            moving = {"reward/right": 0.4 + step / 1e4, "reward/form": 0.1 - step / 1e4}
            lines.append({"step": step, **WELL, **moving, **different})
    return lines


def names(lines: list[dict[str, Any]], over: bool = False) -> list[str]:
    return [alarm.name for alarm in alarms(lines, over)]


def test_a_run_that_is_well_is_left_alone():
    lines = [{"step": 0, "eval/e/avg@1": 0.4, "eval/e/problems": 256}, *run((60, {}))]
    assert [name for n in range(len(lines)) for name in names(lines[:n])] == []
    assert names(lines, over=True) == []
    assert names([]) == names([], over=True) == []


@pytest.mark.parametrize(
    ("wrong", "name", "says"),
    [
        (NOTHING, "nothing learned", "no response earned a reward in the last 5 updates"),
        (
            {**NOTHING, "reward/mean": 1.0},
            "nothing learned",
            "earned the same reward in the last 5 updates (1.000)",
        ),
        ({**NOTHING, "reward/mean": 0.1, "reward/std": 1.4e-17}, "nothing learned", "use harder problems"),
        ({"response/failed": 0.6}, "programs failed", "failed in 60% of the episodes of the last 5 updates"),
        ({**NOTHING, "response/failed": 1.0}, "programs failed", "areal.log has the errors"),
        # All groups agree within themselves, and differ from each other.
        ({"advantage/zero": 1.0}, "nothing learned", "increase rollout.group_size"),
        ({"grad_norm": 0.0}, "nothing learned", "every token was clipped or masked"),
        ({"response/truncated": 1.0}, "responses truncated", "all responses were truncated"),
        ({"response/truncated": 0.96}, "responses truncated", "of 12 tokens on average"),
        (
            {"response/truncated": 1.0, "response/thought_unended": 0.6},
            "responses truncated",
            "shorter responses, or set rollout.thinking_budget, because most were still thinking",
        ),
        ({"policy/entropy": 0.001}, "entropy collapsed", "learner.learning_rate"),
        ({"response/unfinished": 1.0}, "no episode ended", "--agent multi-turn"),
        (
            {"mismatch/logprob": 0.11},
            "log-probability mismatch",
            "log-probabilities of the engine and the learner differ (by 0.11 on average)",
        ),
    ],
)
def test_what_is_wrong_long_enough_is_said(wrong: dict[str, Any], name: str, says: str):
    assert names(run((3, {}), (PATIENCE - 1, wrong))) == []
    [alarm] = alarms(run((3, {}), (PATIENCE, wrong)))
    assert (alarm.name, alarm.step) == (name, 3 + PATIENCE)
    assert says in alarm.line
    assert "\n" not in alarm.line
    assert names(run((PATIENCE, wrong), (1, {}))) == [], "it is over"


@pytest.mark.parametrize(
    ("cut", "suspected"),
    [
        ({"response/truncated": 1.0}, True),
        ({"response/truncated": 0.96}, False),  # some do end
        ({"response/truncated": 1.0, "response/thought_unended": 0.6}, False),  # thoughts explain it
    ],
)
def test_the_end_of_turn_is_suspected_where_nothing_ends(cut: dict[str, Any], suspected: bool):
    [alarm] = alarms(run((PATIENCE, cut)))
    assert ("`areal models check`" in alarm.line) == suspected


@pytest.mark.parametrize(
    "well",
    [
        {"advantage/zero": 0.99},
        {"response/truncated": 0.9},
        {"policy/entropy": 0.02},
        {"response/unfinished": 0.9},
        {"reward/mean": 0.0},  # as where rewards below 0 make up for those above
        {"mismatch/logprob": 0.09},
        {"policy/entropy": None, "response/truncated": None, "advantage/zero": None, "grad_norm": None},
    ],
)
def test_what_is_nearly_wrong_is_not(well: dict[str, Any]):
    assert names(run((30, well))) == []


SLOW = [
    ({"time/held": 0.21}, "staleness at its limit", "increase rollout.max_staleness"),
    ({"time/wait": 1.9, "time/generate": 1.2}, "idle engines", "increase rollout.max_concurrent"),
    ({"latency/env": 0.41}, "slow environment", "make reset, step or the verifier faster"),
    ({"latency/env_queue": 0.31}, "slow environment", "increase rollout.env_workers"),
]


@pytest.mark.parametrize(("wrong", "name", "says"), SLOW)
def test_what_costs_time_in_many_updates_is_said(wrong: dict[str, Any], name: str, says: str):
    assert names(run((LONG - 1, wrong))) == []
    [alarm] = alarms(run((LONG, wrong)))
    assert (alarm.name, alarm.step) == (name, LONG)
    assert says in alarm.line
    assert "\n" not in alarm.line
    assert names(run((LONG, wrong), (LONG, {}))) == [], "it is over"
    for key in wrong:
        assert names(run((LONG - 1, wrong), (1, {**wrong, key: None}))) == [], "it is not known of all"


@pytest.mark.parametrize(
    "well",
    [
        {"time/held": 0.19},
        {"time/wait": 1.9, "time/generate": 1.4},
        {"time/wait": 1.9, "time/generate": 1.9},  # as at η=0, where the learner waits while engines generate
        {"time/wait": 0.01, "time/generate": 0.1},  # the learner has enough: it is what the run waits for
        {"latency/env": 0.39},
        {"latency/env": 0.9, "time/wait": 0.19},  # slow, but nobody waits for it
        {"time/step": 0.0},
    ],
)
def test_what_costs_little_time_is_not(well: dict[str, Any]):
    assert names(run((2 * LONG, well))) == []


def test_stragglers_need_not_come_in_each_update():
    now_and_then = [(1, {"time/held": 0.9}), (2, {"time/held": 0.0})] * 7
    assert names(run(*now_and_then)) == ["staleness at its limit"]
    assert names(run((1, {"time/held": 2.0}), (LONG - 1, {"time/held": 0.0}))) == [], "as at the start"


def test_what_was_found_elsewhere_is_not_said_again():
    watched = Alarms()
    watched.note(Alarm("log-probability mismatch", 2, "found by others"))
    assert [alarm for line in run((9, {"mismatch/logprob": 0.5})) for alarm in watched.look(line)] == []
    assert watched.summary == "log-probability mismatch (update 2)"


def test_entropy_that_went_with_the_task_is_no_fault_of_its_own():
    solved = {"reward/mean": 1.0, "reward/std": 0.0, "policy/entropy": 0.0}
    assert names(run((PATIENCE, solved))) == ["nothing learned"]


def test_a_short_run_is_judged_by_what_it_has():
    lines = run((2, NOTHING))
    assert names(lines) == []
    [alarm] = alarms(lines, over=True)
    assert "in the last 2 updates" in alarm.line
    [alarm] = alarms(lines[:1], over=True)
    assert "in the only update" in alarm.line


@pytest.mark.parametrize(
    ("first", "then", "expected"),
    [
        (0.5, 0.1, ["reward collapsed"]),
        (0.5, 0.3, []),
        (0.02, 0.0, []),  # there was not much
        (-0.5, -2.0, []),  # half of what is below 0 says nothing
        (0.1, 0.5, []),
    ],
)
def test_a_reward_that_falls(first: float, then: float, expected: list[str]):
    assert names(run((10, {"reward/mean": first}), (PATIENCE, {"reward/mean": then}))) == expected


def test_one_bad_batch_is_no_collapse():
    assert names(run((20, {}), (1, {"reward/mean": 0.0}))) == []


def test_a_part_of_the_reward_that_never_changes():
    same = {"reward/form": 0.1}
    assert names(run((19, same))) == []
    [alarm] = alarms(run((20, same)))
    assert "the part 'form' of the reward was 0.100 on average" in alarm.line
    assert names(run((20, same), (1, {}))) == []
    only = [{key: value for key, value in line.items() if key != "reward/right"} for line in run((30, same))]
    assert names(only) == [], "it is the whole reward"


def test_few_held_out_problems():
    [alarm] = alarms([{"step": 0, "eval/e/avg@1": 0.5, "eval/e/problems": 4}])
    assert "is measured on 4 problems" in alarm.line
    assert "±0.49" in alarm.line
    assert names([{"step": 0, "eval/e/avg@1": 0.5, "eval/e/problems": 32}]) == []


def test_each_is_said_once():
    watched = Alarms(run((3, {})))
    said = [alarm for line in run((30, NOTHING)) for alarm in watched.look(line)]
    assert [(alarm.name, alarm.step) for alarm in said] == [("nothing learned", 5), ("reward collapsed", 7)]
    assert watched.end() == []
    assert watched.summary == "nothing learned (update 5); reward collapsed (update 7)"
