"""A run whose episodes run in processes of their own."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

AREAL = [sys.executable, "-m", "areal"]

SUMS = '''
"""An environment in a user's file."""

import gymnasium
import helper_beside_it  # found, since the file is


class Sums(gymnasium.Env):
    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.numbers = self.np_random.integers(1, 9, 2).tolist()
        return helper_beside_it.question(*self.numbers), {}

    def step(self, action):
        return "", float(str(sum(self.numbers)) in action), True, False, {}
'''
HELPER = """
def question(a, b):
    return f"Compute {a} + {b}."
"""


def rows(run: Path) -> list[dict[str, Any]]:
    path = run / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@pytest.mark.long
def test_a_run_with_rollout_workers_and_ctrl_c(tmp_path: Path):
    """Its tokens are of exact versions, it is replayed to the bit, and nothing of it stays."""
    (tmp_path / "sums.py").write_text(SUMS)
    (tmp_path / "helper_beside_it.py").write_text(HELPER)
    run = tmp_path / "r"
    settings = ["steps=1000", "rollout.workers=2", "engine.count=2", "rollout.batch_size=32"]
    training = subprocess.Popen(
        [*AREAL, "train", "--env", "sums.py:Sums", *settings, "output=.", "name=r", "evaluation.problems=0"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 400
    while len(rows(run)) < 4:
        assert training.poll() is None, training.communicate()
        assert time.monotonic() < deadline, "it takes too long"
        time.sleep(0.1)
    processes = psutil.Process(training.pid).children(recursive=True)
    names = [" ".join(process.cmdline()) for process in processes]
    assert sum(name.startswith("areal rollout worker") for name in names) == 2, names
    training.send_signal(signal.SIGINT)
    _, errors = training.communicate(timeout=120)
    assert training.returncode == 130, errors
    assert "Traceback" not in errors
    assert psutil.wait_procs(processes, timeout=20)[1] == []

    found = rows(run)
    assert max(row["staleness/max"] for row in found) <= 4
    assert max(row["mismatch/logprob"] for row in found if "mismatch/logprob" in row) < 1e-3
    assert min(row["throughput/tokens_per_s"] for row in found) > 0
    replay = subprocess.run([*AREAL, "replay", str(run)], capture_output=True, text=True, timeout=300)
    assert "bitwise identical" in replay.stdout, replay.stderr
