"""The checker of runs accepts one that kept its promises, and finds each way in which one can be broken."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from areal.config import load_config
from areal.telemetry.run_directory import RunDirectory, json_line
from areal.trajectory import Episode, Group, Trajectory

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def check_run(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import check_run

    return check_run


def group(number: int, admitted: int, version: int, answer: int = 7) -> Group:
    def trajectory() -> Trajectory:
        return Trajectory(
            tokens=np.array([5, 6, 7], np.int32),
            loss_mask=np.array([False, True, True]),
            logprobs=np.array([0, -0.5, -0.25], np.float32),
            versions=np.array([-1, version, version], np.int32),
        )

    def episode(reward: float, action: str) -> Episode:
        return Episode([trajectory()], reward, {"correct": reward}, {"seed": number}, actions=[action])

    return Group(number, admitted, [episode(1.0, str(answer)), episode(0.0, "?")])


def expected(task: dict[str, Any], actions: list[str]) -> float:
    return float(actions == ["7"])


STEPS = 4


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run of four updates of two groups each with η=1, killed and resumed after the third one."""
    settings = ["rollout.batch_size=4", "rollout.group_size=2", "rollout.max_staleness=1", f"steps={STEPS}"]
    config = load_config(overrides=[*settings, f"output={tmp_path}", "name=r", "run.max_restarts=1"])
    directory = RunDirectory.create(config)
    for step in (1, 4):
        directory.log_start({"step": step, "weights": "w", "config": config.model_dump(mode="json")})
    for step in range(1, STEPS + 1):
        batch = [group(n, max(0, step - 2), max(0, step - 2)) for n in (2 * step - 2, 2 * step - 1)]
        directory.log_rollouts(step, (json_line(each.to_json()) for each in batch))
        directory.log_metrics({"step": step, "loss": 0.5})
        first = {"of_new_learner": True} if step == 1 else {}
        directory.log_event("published", version=step - 1, digest=f"sha {step - 1}", **first)
        directory.log_event("loaded", engine="engine 0", version=step - 1, digest=f"sha {step - 1}")
        if step == 2:
            directory.log_event("lost", part="engine 0", cause="SIGKILL")
            directory.log_event("restarted", part="engine 0", seconds=8.0)
            directory.log_event("loaded", engine="engine 0", version=1, digest="sha 1")
        if step == 3:
            directory.log_event("published", version=4, digest="sha that was lost")
            directory.log_event("loaded", engine="engine 0", version=4, digest="sha that was lost")
            directory.log_event("published", version=3, digest="sha 3", of_new_learner=True)
            directory.log_event("loaded", engine="engine 0", version=3, digest="sha 3")
            directory.log_event("resumed", version=3)
        if step == 4:
            directory.log_event("published", version=4, digest="sha 4")
            directory.log_event("loaded", engine="engine 0", version=4, digest="sha 4")
            directory.log_event("lost", part="learner", cause="SIGSEGV")
            directory.log_event("restarted", part="learner", seconds=5.0, version=4)
            directory.log_event("published", version=4, digest="sha of other sums", of_new_learner=True)
            directory.log_event("loaded", engine="engine 0", version=4, digest="sha of other sums")
    kept = tmp_path / "journals" / "1"
    kept.mkdir(parents=True)
    (kept / "recorded").write_text("3")
    journal(kept / "journal", [("finished", group(6, 2, 2))])
    journal(directory.path / "journal", [])
    return directory.path


def journal(path: Path, records: list[tuple[str, Group | int]]) -> None:
    lines = ["start 0 0"]
    for kind, what in records:
        if isinstance(what, Group):
            lines.append(f"{kind} {what.id} {what.version} {json.dumps(what.to_json())}")
        else:
            lines.append(f"{kind} {what} 0")
    path.write_text("".join(f"{zlib.crc32(line.encode()):08x} {line}\n" for line in lines))


def broken(check_run: Any, run: Path) -> dict[str, list[str]]:
    files = check_run.read_files(run, run.parent / "journals")
    return {v.promise: v.broken for v in check_run.check(files, expected) if v.broken}


def lines_of(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def rewrite(path: Path, change: Callable[[list[Any]], Any]) -> None:
    lines = lines_of(path)
    changed = change(lines)
    lines = lines if changed is None else changed
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_a_run_that_kept_its_promises(check_run: Any, run: Path):
    assert broken(check_run, run) == {}
    command = [sys.executable, "-S", str(BENCHMARKS / "check_run.py"), str(run)]
    done = subprocess.run(command, capture_output=True, text=True, cwd="/", env={})
    assert done.returncode == 0, done
    assert done.stdout.count("ok ") == 8


def in_batch(step: int, change: Callable[[list[Any]], Any]) -> Callable[[Path], None]:
    return lambda run: rewrite(run / f"rollouts/step-{step:06d}.jsonl", change)


def in_events(change: Callable[[list[Any]], Any]) -> Callable[[Path], None]:
    return lambda run: rewrite(run / "events.jsonl", change)


def in_metrics(change: Callable[[list[Any]], Any]) -> Callable[[Path], None]:
    return lambda run: rewrite(run / "metrics.jsonl", change)


def of_versions(value: int) -> Callable[[list[Any]], Any]:
    """Sets the version of one token, the last one of the last episode."""

    def change(groups: list[Any]) -> None:
        groups[-1]["episodes"][-1]["trajectories"][-1]["versions"][-1] = value

    return change


def of_episode(**fields: Any) -> Callable[[list[Any]], Any]:
    def change(groups: list[Any]) -> None:
        groups[0]["episodes"][1].update(fields)

    return change


def again(lines: list[Any], number: int) -> list[Any]:
    return [*lines, copy.deepcopy(lines[number])]


def another_digest(lines: list[Any]) -> None:
    [*_, one] = (e for e in lines if e["event"] == "loaded" and e["version"] == 1)
    one["digest"] = "sha of something else"


def twice_restarted(lines: list[Any]) -> list[Any]:
    place = next(n for n, e in enumerate(lines) if e["event"] == "restarted")
    return [*lines[: place + 1], *lines[place - 1 :]]


def with_journal(change: Callable[[Group], None]) -> Callable[[Path], None]:
    def doctor(run: Path) -> None:
        kept = group(6, 2, 2)
        change(kept)
        journal(run.parent / "journals" / "1" / "journal", [("finished", kept)])

    return doctor


def renumber(kept: Group) -> None:
    kept.id = 99


def other_tokens(kept: Group) -> None:
    kept.episodes[0].trajectories[0].tokens[2] = 8


OOM = "the program was killed by SIGKILL: killed, perhaps because the host ran out of memory"
DOCTORED: dict[str, tuple[str, Callable[[Path], None]]] = {
    "one token too old": ("staleness ≤ η", in_batch(4, of_versions(1))),
    "one token of the future": ("staleness ≤ η", in_batch(3, of_versions(3))),
    "older than its admission": ("staleness ≤ η", in_batch(2, lambda g: g[0].update(version=1))),
    "a group twice": ("no group is trained twice", in_batch(4, lambda g: g[1].update(id=0))),
    "a group too few": ("no group is trained twice", in_batch(2, lambda g: g[:1])),
    "an episode too few": (
        "no group is trained twice",
        in_batch(2, lambda g: g[0]["episodes"].pop() and None),
    ),
    "an update twice": ("each update once, none missing", in_metrics(lambda m: again(m, 1))),
    "an update missing": ("each update once, none missing", in_metrics(lambda m: m[:1] + m[2:])),
    "a batch missing": (
        "each update once, none missing",
        lambda run: (run / "rollouts/step-000002.jsonl").unlink(),
    ),
    "a finished group lost": ("nothing finished is lost", with_journal(renumber)),
    "a finished group made again": ("nothing finished is lost", with_journal(other_tokens)),
    "other weights": ("each load of weights is verified", in_events(another_digest)),
    "weights that were sent twice": (
        "each load of weights is verified",
        in_events(lambda lines: [{k: v for k, v in e.items() if k != "of_new_learner"} for e in lines]),
    ),
    "no digest": (
        "each load of weights is verified",
        in_events(lambda lines: [{k: v for k, v in e.items() if k != "digest"} for e in lines]),
    ),
    "a version that was not sent": (
        "each load of weights is verified",
        in_events(lambda lines: [e for e in lines if e.get("version") != 2]),
    ),
    "an engine that goes back": (
        "each load of weights is verified",
        in_events(lambda lines: [*lines, {**lines[1], "version": 0}]),
    ),
    "too many restarts": ("restarts within the budget", in_events(twice_restarted)),
    "a part that stays away": (
        "what was lost came back",
        in_events(
            lambda lines: [*lines, {"time": 0.0, "event": "lost", "part": "engine 0", "cause": "SIGKILL"}]
        ),
    ),
    "parts that do not add up": (
        "no reward for a failure of the infrastructure",
        in_batch(1, of_episode(reward_parts={"correct": 0.5})),
    ),
    "a wrong reward": (
        "no reward for a failure of the infrastructure",
        in_batch(1, of_episode(reward=1.0, reward_parts={"correct": 1.0})),
    ),
    "a reward for an outage": (
        "no reward for a failure of the infrastructure",
        in_batch(1, of_episode(failure=OOM)),
    ),
}


@pytest.mark.parametrize("how", DOCTORED)
def test_a_broken_promise_is_found(check_run: Any, run: Path, how: str):
    promise, doctor = DOCTORED[how]
    doctor(run)
    assert promise in broken(check_run, run)


def test_what_is_no_breach(check_run: Any, run: Path):
    """A group of a future that was not recorded; one that waits at the end; a line that was cut off; a load
    of which nobody knew yet when the engine was lost.
    """
    in_events(lambda lines: [e for e in lines if e["event"] != "loaded" or e["version"] != 2])(run)
    kept = run.parent / "journals" / "1"
    (kept / "recorded").write_text("1")
    future, waits = [group(6, 2, 2, answer=8), group(51, 2, 2)], group(50, 1, 1)
    journal(kept / "journal", [("finished", each) for each in (*future, waits)])
    journal(run / "journal", [("finished", group(50, 1, 1))])
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 5, "lo')
    assert broken(check_run, run) == {}
    journal(run / "journal", [("finished", group(50, 1, 1)), ("rejected", 50)])
    assert broken(check_run, run) == {}
    journal(run / "journal", [])
    assert list(broken(check_run, run)) == ["nothing finished is lost"]
    in_events(lambda lines: [{**e, "dropped": [50]} if e["event"] == "resumed" else e for e in lines])(run)
    lost = check_run.nothing_lost(check_run.read_files(run, run.parent / "journals"))
    assert not lost.broken
    assert lost.checked.endswith("; 6, 51 were of another future; 50 were dropped at their deadline")
