"""The main job as a user runs it: it stops cleanly, survives SIGKILL, goes on where it was."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

AREAL = [sys.executable, "-m", "areal"]
MAX_STALENESS = 2
SILENCE = 4
"""Seconds without a heartbeat after which a process counts as frozen."""


def metrics(run: Path) -> list[dict[str, Any]]:
    return lines_of(run / "metrics.jsonl")


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def kill_learner(process: subprocess.Popen[str]) -> None:
    """Kill the learner of a run."""
    children = psutil.Process(process.pid).children()
    [learner] = [child for child in children if (child.cmdline() or [""])[0].startswith("areal learner")]
    learner.kill()


def steps(run: Path) -> list[int]:
    return [row["step"] for row in metrics(run) if "reward/mean" in row]


def rollouts(run: Path) -> dict[int, list[dict[str, Any]]]:
    """The groups that each update consumed."""
    files = sorted((run / "rollouts").glob("step-*.jsonl"))
    return {int(file.stem[5:]): [json.loads(line) for line in file.open()] for file in files}


def finished(run: Path) -> dict[int, dict[str, Any]]:
    """The groups of the journal that have finished, whatever became of them then."""
    lines = (line.split(" ", 4) for line in (run / "journal").read_text().splitlines())
    return {int(number): json.loads(*group) for _, kind, number, _, *group in lines if kind == "finished"}


def of_engine(run: Path) -> list[dict[str, Any]]:
    """What became of the engine."""
    return [event for event in lines_of(run / "events.jsonl") if event.get("part") == "engine 0"]


def newest(group: dict[str, Any]) -> int:
    return max(v for e in group["episodes"] for t in e["trajectories"] for v in t["versions"])


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str], seconds: float = 240) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, "it takes too long"
        time.sleep(0.1)


_started: list[subprocess.Popen[str]] = []


@pytest.fixture(autouse=True)
def nothing_goes_on() -> Iterator[None]:
    """A test that fails leaves no run behind, which would take the cores from all that follow."""
    yield
    while _started:
        with _started.pop() as process:
            process.kill()


def start(*arguments: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [*AREAL, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    _started.append(process)
    return process


def test_stopped_killed_and_resumed(tmp_path: Path):
    run = tmp_path / "runs" / "r"
    settings = [f"rollout.max_staleness={MAX_STALENESS}", "checkpoint.every=2", "evaluation.problems=16"]
    process = start("train", "--steps", "1000", "--output", str(run.parent), "--name", "r", *settings)
    wait_for(lambda: len(steps(run)) >= 3, process)
    # The learner is killed, and brought back while the engine goes on.
    kill_learner(process)
    wait_for(lambda: "restarted" in [event["event"] for event in lines_of(run / "events.jsonl")], process)
    back = len(steps(run))
    wait_for(lambda: len(steps(run)) >= back + 2, process)
    children = psutil.Process(process.pid).children(recursive=True)
    assert children, "the engine has a process of its own"
    # Ctrl-C reaches every process of the terminal's foreground group.
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "stopping: the run writes a checkpoint first; press Ctrl-C again to stop immediately" in errors
    assert f"areal train --resume {run}" in errors
    assert "learner rank 0 ended: killed by SIGKILL; " in errors
    assert "Traceback" not in errors
    assert (run / "curve.png").is_file()
    assert psutil.wait_procs(children, timeout=10)[1] == []
    stopped = steps(run)[-1]
    assert (run / "checkpoints" / f"step-{stopped:06d}" / "model" / "model.safetensors").is_file()

    # From here on the learner is two processes, of which nobody outlives the run either.
    process = start("train", "--resume", str(run), "learner.processes=2", "checkpoint.every=0")
    wait_for(lambda: steps(run)[-1] >= stopped + 3, process)
    children = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert psutil.wait_procs(children, timeout=10)[1] == [], "no process outlives a SIGKILL"
    before = rollouts(run)
    killed = max(before)
    gone = {group["id"] for groups in before.values() for group in groups}
    kept = ((number, group) for number, group in finished(run).items() if number not in gone)
    waiting = {number: group for number, group in kept if newest(group) <= killed}

    end = killed + 9  # with what waits, and what was in flight
    process = start("train", "--resume", str(run), f"steps={end}", f"run.stall_limit={10 * SILENCE}")
    wait_for(lambda: steps(run)[-1] > killed, process)
    # vLLM is stopped for ever; its front end still answers.
    below = psutil.Process(process.pid).children(recursive=True)
    [vllm] = [child for child in below if child.name().startswith("VLLM")]
    vllm.send_signal(signal.SIGSTOP)
    wait_for(lambda: of_engine(run)[1:] != [], process)
    lost, back = of_engine(run)
    silent = re.match(
        rf"engine 0 ended: no work for (\d+) s; its process {vllm.pid} .* is stopped", lost["cause"]
    )
    assert silent is not None, lost
    assert SILENCE <= int(silent[1]) <= SILENCE + 2, "it looks each second"
    assert (lost["event"], back["event"]) == ("lost", "restarted")
    children = psutil.Process(process.pid).children(recursive=True)
    _, errors = process.communicate(timeout=240)
    assert process.returncode == 0, errors
    assert "learner: 2 processes, " in errors
    assert psutil.wait_procs(children, timeout=10)[1] == []
    assert steps(run) == list(range(1, end + 1)), "each update once, in order"
    after = rollouts(run)
    assert {step: after[step] for step in before} == before, "no update that was recorded is given up"
    later = {group["id"]: group for step in range(killed + 1, end + 1) for group in after[step]}
    assert all(later[number] == group for number, group in waiting.items()), "what had finished is used"
    events = (json.loads(line) for line in (run / "events.jsonl").read_text().splitlines())
    *_, resumed = (event for event in events if event["event"] == "resumed")
    assert (resumed["version"], resumed["redone"]) == (killed, killed - stopped)
    assert resumed["kept"] == len(waiting)
    assert resumed["regenerated"] <= (MAX_STALENESS + 1) * 16
    trained = [row for row in metrics(run) if "reward/mean" in row]
    assert max(row["staleness/max"] for row in trained) <= MAX_STALENESS
    consumed = [group["id"] for groups in after.values() for group in groups]
    assert len(consumed) == len(set(consumed)) == end * 16, "each group once"
    assert (run / "curve.png").stat().st_size > 10_000
    replayed = subprocess.run([*AREAL, "replay", str(run)], capture_output=True, text=True)
    assert replayed.returncode == 0, replayed.stdout
    rows = {int(row.split()[0]): row for row in replayed.stdout.splitlines() if row.split()[0].isdigit()}
    assert list(rows) == list(range(1, end + 1)), "across both resumptions"
    assert [step for step, row in rows.items() if "differs" in row and step <= stopped] == [], "to the bit"
    assert "learner processes: 2 → 1" in replayed.stdout.splitlines()[-2], "but for the order of sums"


@pytest.mark.long
def test_at_eta_zero_a_killed_run_is_the_undisturbed_one_to_the_bit(tmp_path: Path):
    """Killed between two checkpoints: no update is lost, and only what was in flight is generated again."""
    settings = [
        "rollout.max_staleness=0",
        "rollout.batch_size=64",
        "evaluation.problems=0",
        "checkpoint.every=0",
    ]
    arguments = ["--steps", "12", "--output", str(tmp_path), *settings]
    whole = subprocess.run([*AREAL, "train", "--name", "whole", *arguments], capture_output=True, text=True)
    assert whole.returncode == 0, whole.stderr
    run = tmp_path / "killed"
    process = start("train", "--name", "killed", *arguments)
    wait_for(lambda: len(steps(run)) >= 4, process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    done = max(rollouts(run))
    assert done < 12, "it was killed before its end"
    resumed = subprocess.run([*AREAL, "train", "--resume", str(run)], capture_output=True, text=True)
    assert resumed.returncode == 0, resumed.stderr
    assert f"resuming after update {done}: {done} updates were repeated from their" in resumed.stderr
    for name in ("loss", "grad_norm", "reward/mean"):
        expected = [row[name] for row in metrics(tmp_path / "whole")]
        assert [row[name] for row in metrics(run)] == expected, name
    again = {row["rollout/regenerated"] for row in metrics(run)[done:]}
    assert len(again) == 1
    assert again.pop() <= 8, "at most a batch was in flight"
    replayed = subprocess.run([*AREAL, "replay", str(run)], capture_output=True, text=True)
    assert "bitwise identical: 12 updates" in replayed.stdout


def test_an_engine_that_fails_is_reported_in_one_line(tmp_path: Path):
    """It cannot start; then it is killed, and another one takes its place, as often as that is allowed."""
    run = tmp_path / "r"
    where = ("--output", str(tmp_path), "--name", "r", "evaluation.problems=0", "checkpoint.every=0")
    process = start("train", *where, "engine.memory=4000")
    _, errors = process.communicate(timeout=240)
    assert process.returncode == 2, errors
    last = errors.strip().splitlines()[-1]
    assert last.startswith("areal: error: vLLM did not start; the last error in its output: ValueError: ")
    assert "(4000.0 GiB)" in last
    assert "--resume" not in last, "there is nothing to go on from"
    assert last.endswith(f"{run}/engine.log has all output")
    assert "Traceback" not in errors

    shutil.rmtree(run)
    # So few at once take longer than an update: the engine is at work whenever it is killed.
    slow = ("rollout.max_concurrent=16", "rollout.max_staleness=2")
    process = start("train", *where, "--steps", "1000", "run.max_restarts=2", *slow)
    every = set[psutil.Process]()
    for victim in ("areal engine 0", "VLLM", "VLLM"):
        done = len(steps(run))
        # More than can be made of groups that had finished when the engine was lost: it is back.
        wait_for(lambda done=done: len(steps(run)) > done + MAX_STALENESS + 1, process)  # type: ignore[misc]
        every |= set(psutil.Process(process.pid).children(recursive=True))
        [engine] = [child for child in every if child.is_running() and is_named(child, victim)]
        engine.kill()
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 2, errors
    lines = errors.strip().splitlines()
    died = "vLLM has died (killed by SIGKILL); "
    assert len([line for line in lines if f"engine 0 was lost: {died}a new one replaces it" in line]) == 2
    assert len([line for line in lines if "engine 0 is back after" in line]) == 2
    assert lines[-1].startswith(f"areal: error: {died}engine 0 was restarted 2 times within an hour")
    assert f"; {run}/engine.log has all output; resume after update {steps(run)[-1]} with `areal" in lines[-1]
    assert lines[-1].endswith(f"--resume {run}`")
    assert "Traceback" not in errors
    assert psutil.wait_procs(list(every), timeout=10)[1] == []
    assert (run / "checkpoints" / f"step-{steps(run)[-1]:06d}").is_dir()
    rows = [row for row in metrics(run) if "reward/mean" in row]
    assert max(row["staleness/max"] for row in rows) <= MAX_STALENESS
    assert max(row["mismatch/logprob_max"] for row in rows if "mismatch/logprob_max" in row) < 1e-3
    assert rows[-1]["rollout/continued"] + rows[-1]["rollout/restarted"] > 0
    assert rows[-1]["rollout/failures"] == 0
    events = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    assert [e["event"] for e in events if e["event"] not in ("published", "loaded")] == [
        "lost",
        "restarted",
    ] * 2 + ["lost"]
    loaded = {e["version"]: e["digest"] for e in events if e["event"] == "loaded"}
    assert list(loaded) == sorted(loaded), "each later than the one before"
    assert len(set(loaded.values())) == len(loaded)


def test_a_run_whose_directory_is_removed_ends_in_one_line(tmp_path: Path):
    run = tmp_path / "r"
    where = ("--output", str(tmp_path), "--name", "r", "evaluation.problems=0", "checkpoint.every=1")
    process = start("train", "--env", "math-v1", *where, "--steps", "1000")
    wait_for(lambda: len(steps(run)) >= 2, process)
    children = psutil.Process(process.pid).children(recursive=True)
    while run.exists():  # the run writes meanwhile
        shutil.rmtree(run, ignore_errors=True)
    _, errors = process.communicate(timeout=240)
    assert process.returncode == 2, errors
    lines = errors.splitlines()
    assert (
        lines[-1]
        == f"areal: error: {run} no longer exists: it was removed or moved while the run was writing to it"
    )
    assert [line for line in lines if "rror" in line or "Traceback" in line] == lines[-1:]
    assert psutil.wait_procs(children, timeout=10)[1] == []
    assert not run.exists(), "nothing makes a part of it anew"


def is_named(process: psutil.Process, name: str) -> bool:
    return process.name().startswith(name) or "".join(process.cmdline()[:1]).startswith(name)


@pytest.mark.skipif(
    subprocess.run(["unshare", "-rm", "true"], capture_output=True).returncode != 0,
    reason="needs user namespaces, to mount a small disk",
)
def test_a_full_disk_loses_nothing(tmp_path: Path):
    """A disk that holds one checkpoint (15 MB) and not two: one clear line, and the first one still works."""
    settings = ["checkpoint.every=2", "evaluation.problems=0", "--steps", "50"]
    script = (
        f"mount -t tmpfs -o size=21m tmpfs {tmp_path} && cd {tmp_path} && "
        f"{' '.join(AREAL)} train --name r {' '.join(settings)}; code=$?; "
        "ls runs/r/checkpoints; ls -a runs/r/checkpoints | grep partial; exit $code"
    )
    out = subprocess.run(["unshare", "-rm", "sh", "-c", script], capture_output=True, text=True)
    assert out.returncode == 2, out
    last = out.stderr.strip().splitlines()[-1]
    assert last.startswith("areal: error: no space left")
    assert "--resume" in last
    assert "Traceback" not in out.stderr
    assert out.stdout.split() == ["step-000002"], "the whole checkpoint is there and nothing else"
