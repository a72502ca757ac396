"""The main job as a user runs it: it stops cleanly, survives SIGKILL, goes on where it was."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

AREAL = [sys.executable, "-m", "areal"]
MAX_STALENESS = 2


def metrics(run: Path) -> list[dict[str, Any]]:
    path = run / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return [json.loads(line) for line in lines]


def steps(run: Path) -> list[int]:
    return [row["step"] for row in metrics(run) if "reward/mean" in row]


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str], seconds: float = 240) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, "it takes too long"
        time.sleep(0.1)


def start(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*AREAL, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def test_stopped_killed_and_resumed(tmp_path: Path):
    run = tmp_path / "runs" / "r"
    settings = [f"rollout.max_staleness={MAX_STALENESS}", "checkpoint.every=2", "evaluation.problems=16"]
    process = start("train", "--steps", "1000", "--output", str(run.parent), "--name", "r", *settings)
    wait_for(lambda: len(steps(run)) >= 3, process)
    children = psutil.Process(process.pid).children(recursive=True)
    assert children, "the engine has a process of its own"
    # Ctrl-C reaches every process of the terminal's foreground group.
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "stopping: a checkpoint is written first; a second Ctrl-C stops at once" in errors
    assert f"areal train --resume {run}" in errors
    assert "Traceback" not in errors
    assert (run / "curve.png").is_file()
    assert psutil.wait_procs(children, timeout=10)[1] == []
    stopped = steps(run)[-1]
    assert (run / "checkpoints" / f"step-{stopped:06d}" / "model" / "model.safetensors").is_file()

    # From here on the learner is two processes, of which nobody outlives the run either.
    process = start("train", "--resume", str(run), "learner.processes=2")
    wait_for(lambda: steps(run)[-1] >= stopped + 3, process)
    children = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert psutil.wait_procs(children, timeout=10)[1] == [], "no process outlives a SIGKILL"

    end = steps(run)[-1] + 2
    process = start("train", "--resume", str(run), f"steps={end}")
    wait_for(lambda: steps(run)[-1] >= end - 1, process)
    children = psutil.Process(process.pid).children(recursive=True)
    _, errors = process.communicate(timeout=240)
    assert process.returncode == 0, errors
    assert "learner: 2 processes, " in errors
    assert psutil.wait_procs(children, timeout=10)[1] == []
    assert steps(run) == list(range(1, end + 1)), "each update once, in order"
    trained = [row for row in metrics(run) if "reward/mean" in row]
    assert max(row["staleness/max"] for row in trained) <= MAX_STALENESS
    consumed = [
        json.loads(line)["id"]
        for step in range(1, end + 1)
        for line in (run / "rollouts" / f"step-{step:06d}.jsonl").open()
    ]
    assert len(consumed) == len(set(consumed)) == end * 16, "each group once"
    assert (run / "curve.png").stat().st_size > 10_000
    replayed = subprocess.run([*AREAL, "replay", str(run)], capture_output=True, text=True)
    assert replayed.returncode == 0, replayed.stdout
    rows = {int(row.split()[0]): row for row in replayed.stdout.splitlines() if row.split()[0].isdigit()}
    assert list(rows) == list(range(1, end + 1)), "across both resumptions"
    assert [step for step, row in rows.items() if "differs" in row and step <= stopped] == [], "to the bit"
    assert "processes of the learner: 2 → 1" in replayed.stdout.splitlines()[-2], "but for the order of sums"


def test_an_engine_that_fails_is_reported_in_one_line(tmp_path: Path):
    """It cannot start, then it is killed: what is done stays, and no process."""
    run = tmp_path / "r"
    where = ("--output", str(tmp_path), "--name", "r", "evaluation.problems=0", "checkpoint.every=0")
    process = start("train", *where, "engine.memory=4000")
    _, errors = process.communicate(timeout=240)
    assert process.returncode == 2, errors
    last = errors.strip().splitlines()[-1]
    assert last.startswith("areal: error: vLLM did not start; the last error that was printed: ValueError: ")
    assert "(4000.0 GiB)" in last
    assert "--resume" not in last, "there is nothing to go on from"
    assert last.endswith(f"all output is in {run}/engine.log")
    assert "Traceback" not in errors

    shutil.rmtree(run)
    process = start("train", *where, "--steps", "1000")
    wait_for(lambda: len(steps(run)) >= 2, process)
    children = psutil.Process(process.pid).children(recursive=True)
    [engine] = [child for child in children if child.name().startswith("VLLM")]
    engine.kill()
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 2, errors
    last = errors.strip().splitlines()[-1]
    assert last.startswith("areal: error: vLLM has died without a word, mostly for lack of memory; ")
    assert f"; all output is in {run}/engine.log; go on after update {steps(run)[-1]} with `areal" in last
    assert last.endswith(f"--resume {run}`")
    assert "Traceback" not in errors
    assert psutil.wait_procs(children, timeout=10)[1] == []
    assert (run / "checkpoints" / f"step-{steps(run)[-1]:06d}").is_dir()


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
