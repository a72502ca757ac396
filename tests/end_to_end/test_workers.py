"""Engines join and leave a run that goes on, by commands in another terminal."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

AREAL = [sys.executable, "-m", "areal"]


def rows(run: Path) -> list[dict[str, Any]]:
    path = run / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def until(found: Callable[[], bool], training: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 300
    while not found():
        assert training.poll() is None, training.communicate()
        assert time.monotonic() < deadline, "it takes too long"
        time.sleep(0.1)


def workers(action: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [*AREAL, "workers", action, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


@pytest.mark.long
def test_an_engine_is_added_and_the_first_one_removed(tmp_path: Path):
    run = tmp_path / "r"
    settings = ["--steps", "1000", "evaluation.problems=0", "checkpoint.every=0", "rollout.max_staleness=1"]
    training = subprocess.Popen(
        [*AREAL, "train", "--output", str(tmp_path), "--name", "r", *settings],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    until(lambda: len(rows(run)) >= 2, training)
    refused = workers("remove", str(run), "0")
    assert refused.returncode == 2
    assert refused.stderr == (
        "areal: error: engine 0 is the last engine, and a run needs one; add another one first\n"
    )
    added = workers("add", str(run))
    assert (added.returncode, added.stdout) == (0, "engine 1 has joined\n"), added.stderr
    listed = json.loads(workers("list", str(run), "--json").stdout)
    assert [(row["engine"], row["state"]) for row in listed] == [("0", "runs"), ("1", "runs")]
    joined = len(rows(run))
    until(lambda: len(rows(run)) >= joined + 3, training)
    removed = workers("remove", str(run), "0")
    assert (removed.returncode, removed.stdout) == (0, "engine 0 has left\n"), removed.stderr
    left = len(rows(run))
    until(lambda: len(rows(run)) >= left + 3, training)
    [row] = json.loads(workers("list", str(run), "--json").stdout)
    assert row["engine"] == "1"
    assert row["requests"] > 0
    training.terminate()
    _, errors = training.communicate(timeout=120)
    assert training.returncode == 130, errors
    found = [row for row in rows(run) if "staleness/max" in row]
    counts = [int(row["engine/count"]) for row in found]
    assert [n for n, before in zip(counts, [0, *counts], strict=False) if n != before] == [1, 2, 1]
    assert max(row["staleness/max"] for row in found) <= 1
    # The learner computes what either engine did: one that joined with other weights would be far off.
    assert max(row["mismatch/logprob"] for row in found if "mismatch/logprob" in row) < 1e-3
    assert any("mismatch/logprob" in row for row in found[counts.index(2) :]), "none had weights of now"
    gone = workers("list", str(run))
    assert gone.returncode == 2
    assert "is not active" in gone.stderr
