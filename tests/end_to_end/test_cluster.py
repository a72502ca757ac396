"""Training on two hosts of a Ray cluster: raylets on this machine, with an address and a core each."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("ray", reason="needs ray, of areal-gym[ray]")

from ray.cluster_utils import Cluster

AREAL = [sys.executable, "-m", "areal"]
FIRST, SECOND = "127.0.0.2", "127.0.0.3"


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    yield cluster
    cluster.shutdown()


def start(*arguments: str) -> subprocess.Popen[str]:
    settings = ["evaluation.problems=0", "checkpoint.every=1"]
    return subprocess.Popen(
        [*AREAL, "train", *arguments, *settings],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def rows(run: Path) -> list[dict[str, Any]]:
    path = run / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def test_a_run_on_two_hosts_that_loses_one(cluster: Cluster, tmp_path: Path):
    """Each host has a rank of the learner and an engine. One is lost; the run goes on with the other."""
    nodes = [cluster.add_node(num_cpus=1, node_ip_address=address) for address in (FIRST, SECOND)]
    run = tmp_path / "r"
    where = ("--ray", cluster.address, "--output", str(tmp_path), "--name", "r")
    training = start(*where, "--steps", "1000", "learner.processes=2", "engine.count=2")
    deadline = time.monotonic() + 300
    while len(list((run / "checkpoints").glob("step-*"))) < 2:
        assert training.poll() is None, training.communicate()
        assert time.monotonic() < deadline, "it takes too long"
        time.sleep(0.1)
    cluster.remove_node(nodes[1], allow_graceful=False)
    _, errors = training.communicate(timeout=120)
    assert training.returncode == 2, errors
    [line] = [line for line in errors.splitlines() if line.startswith("areal: error: ")]
    assert f"host {SECOND} is gone" in line
    assert f"`areal train --resume {run}`" in line
    assert "Traceback" not in errors

    done = rows(run)[-1]["step"]
    resumed = start("--resume", str(run), "--steps", str(done + 1), "learner.processes=1", "engine.count=1")
    _, errors = resumed.communicate(timeout=300)
    assert resumed.returncode == 0, errors
    assert rows(run)[-1]["step"] == done + 1
    assert max(row["staleness/max"] for row in rows(run) if "staleness/max" in row) <= 4


def test_a_run_on_two_hosts_is_replayed_to_the_bit(cluster: Cluster, tmp_path: Path):
    """The learner is on one host, an engine on each."""
    for address in (FIRST, SECOND):
        cluster.add_node(num_cpus=1, node_ip_address=address)
    where = ("--ray", cluster.address, "--output", str(tmp_path), "--name", "r")
    training = start(*where, "--steps", "3", "engine.count=2")
    _, errors = training.communicate(timeout=300)
    assert training.returncode == 0, errors
    replay = [*AREAL, "replay", str(tmp_path / "r")]
    found = subprocess.run(replay, capture_output=True, text=True, timeout=120)
    assert "the same to the bit: 3 updates" in found.stdout
    mismatches = [row["mismatch/logprob"] for row in rows(tmp_path / "r") if "mismatch/logprob" in row]
    assert mismatches, "no token was sampled by the weights that an update began with"
    assert max(mismatches) < 1e-3
