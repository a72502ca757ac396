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
RAY = [str(Path(sys.executable).parent / "ray")]
CHECK = Path(__file__).parents[2] / "benchmarks" / "check_run.py"
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


def events(run: Path) -> list[tuple[str, str]]:
    """Return what happened to which part of a run."""
    found = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    return [(event["event"], event.get("part", "")) for event in found]


def until_rows(training: subprocess.Popen[str], run: Path, count: int) -> None:
    """Wait until a run has made so many updates."""
    deadline = time.monotonic() + 400
    while len(rows(run)) < count:
        assert training.poll() is None, training.communicate()
        assert time.monotonic() < deadline, "it takes too long"
        time.sleep(0.1)


def stop(training: subprocess.Popen[str]) -> str:
    """Stop a run in order; return what it said."""
    training.terminate()
    output, errors = training.communicate(timeout=120)
    assert training.returncode == 130, errors
    return output + errors


def test_a_run_on_two_hosts_that_loses_one(cluster: Cluster, tmp_path: Path):
    """Each host has a rank of the learner and an engine. Both that are lost start on the other host."""
    nodes = [cluster.add_node(num_cpus=1, node_ip_address=address) for address in (FIRST, SECOND)]
    run = tmp_path / "r"
    where = ("--ray", cluster.address, "--output", str(tmp_path), "--name", "r")
    training = start(*where, "--steps", "1000", "learner.processes=2", "engine.count=2")
    until_rows(training, run, 2)
    cluster.remove_node(nodes[0], allow_graceful=False)
    until_rows(training, run, len(rows(run)) + 2)
    deadline = time.monotonic() + 300
    while {"learner", "engine 0"} - {part for event, part in events(run) if event == "restarted"}:
        assert training.poll() is None, training.communicate()
        assert time.monotonic() < deadline, "it takes too long"
        time.sleep(0.1)
    said = stop(training)
    assert f"host {FIRST} is gone with learner rank 0: the learner starts on {SECOND}" in said, said
    assert sorted(part for event, part in events(run) if event == "lost") == ["engine 0", "learner"]
    steps = [row["step"] for row in rows(run)]
    assert steps == list(range(1, len(steps) + 1))
    assert max(row["staleness/max"] for row in rows(run) if "staleness/max" in row) <= 4


@pytest.mark.long
def test_a_run_goes_on_without_a_host_that_had_only_an_engine(cluster: Cluster, tmp_path: Path):
    """The learner stays, the engine starts again on the host that is left, and no promise is broken."""
    nodes = [cluster.add_node(num_cpus=1, node_ip_address=address) for address in (FIRST, SECOND)]
    run = tmp_path / "r"
    where = ("--ray", cluster.address, "--output", str(tmp_path), "--name", "r")
    training = start(*where, "--steps", "1000", "engine.count=2", "rollout.max_staleness=1")
    until_rows(training, run, 2)
    workers = json.loads((run / "status.json").read_text())["workers"]
    [engine] = [worker["name"] for worker in workers if worker["host"] == SECOND]
    assert engine.startswith("engine ")
    cluster.remove_node(nodes[1], allow_graceful=False)
    deadline = time.monotonic() + 300
    while ("restarted", engine) not in events(run):
        assert training.poll() is None, training.communicate()
        assert time.monotonic() < deadline, "it takes too long"
        time.sleep(0.1)
    until_rows(training, run, len(rows(run)) + 3)
    said = stop(training)
    assert f"host {SECOND} is gone" in said, said
    assert [part for event, part in events(run) if event == "lost"] == [engine]
    checked = subprocess.run([sys.executable, CHECK, run], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout + checked.stderr


@pytest.mark.long
def test_a_host_joins_a_run_and_is_drained(cluster: Cluster, tmp_path: Path):
    """The engine of the new host takes part in training, and leaves in order before the host does."""
    cluster.add_node(num_cpus=1, node_ip_address=FIRST)
    run = tmp_path / "r"
    where = ("--ray", cluster.address, "--output", str(tmp_path), "--name", "r")
    training = start(*where, "--steps", "1000", "ray.grow=1", "rollout.max_staleness=1", "checkpoint.every=0")

    def until_engines(count: int, engines: int) -> None:
        deadline = time.monotonic() + 300
        while sum(row.get("engine/count") == engines for row in rows(run)) < count:
            assert training.poll() is None, training.communicate()
            assert time.monotonic() < deadline, "it takes too long"
            time.sleep(0.1)

    until_engines(2, engines=1)
    node = cluster.add_node(num_cpus=1, node_ip_address=SECOND)
    until_engines(3, engines=2)
    before = len(rows(run))
    drain = [*RAY, "drain-node", "--address", cluster.address, "--node-id", node.node_id]
    why = ["--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "a test"]
    subprocess.run([*drain, *why, "--deadline-remaining-seconds", "120"], check=True, timeout=60)
    while not [row for row in rows(run)[before:] if row.get("engine/count") == 1]:
        assert training.poll() is None, training.communicate()
        time.sleep(0.1)
    cluster.remove_node(node, allow_graceful=False)
    left = len(rows(run))
    while len(rows(run)) < left + 3:
        assert training.poll() is None, training.communicate()
        time.sleep(0.1)
    training.terminate()
    output, errors = training.communicate(timeout=120)
    assert training.returncode == 130, errors
    said = output + errors
    for line in (
        f"host {SECOND} has joined",
        f"host {SECOND} will leave in",
        "engine 1 has left: 1 engine",
    ):
        assert line in said, said
    found = [row for row in rows(run) if "staleness/max" in row]
    assert max(row["staleness/max"] for row in found) <= 1
    assert max(row["mismatch/logprob"] for row in found if "mismatch/logprob" in row) < 1e-3


@pytest.mark.long
def test_an_evaluation_on_two_hosts(cluster: Cluster, tmp_path: Path):
    """Greedy responses are those of this machine. One that loses a host says how to go on."""
    nodes = [cluster.add_node(num_cpus=1, node_ip_address=address) for address in (FIRST, SECOND)]
    asked = ["--problems", "48", "--temperature", "0", "--output", str(tmp_path)]
    on_ray = ["--ray", cluster.address, "engine.count=2"]
    reports = []
    for where in ([], on_ray):
        found = subprocess.run([*AREAL, "eval", *asked, *where, "--json"], capture_output=True, text=True)
        assert found.returncode == 0, found.stderr
        reports.append(json.loads(found.stdout))
    assert reports[0]["accuracy"] == reports[1]["accuracy"] > 0

    # Long enough that a host is lost in the middle.
    name = ["--name", "kept", "--problems", "20000", "--output", str(tmp_path)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    evaluation = subprocess.Popen([*AREAL, "eval", *name, *on_ray, "evaluation.samples=1"], **pipes)
    kept = tmp_path / "eval" / "kept"
    deadline = time.monotonic() + 300
    while not any(len(file.read_text().splitlines()) > 300 for file in kept.glob("*.jsonl")):
        assert evaluation.poll() is None, evaluation.communicate()
        assert time.monotonic() < deadline, "it takes too long"
        time.sleep(0.1)
    cluster.remove_node(nodes[1], allow_graceful=False)
    _, errors = evaluation.communicate(timeout=120)
    assert evaluation.returncode == 2, errors
    [line] = [line for line in errors.splitlines() if line.startswith("areal: error: ")]
    assert f"host {SECOND} is gone" in line
    assert "`areal eval --resume" in line


@pytest.mark.long
def test_a_run_on_two_hosts_is_replayed_to_the_bit(cluster: Cluster, tmp_path: Path):
    """The learner is on one host, an engine and a rollout worker on each; engines load weights in turn."""
    for address in (FIRST, SECOND):
        cluster.add_node(num_cpus=1, node_ip_address=address)
    where = ("--ray", cluster.address, "--output", str(tmp_path), "--name", "r")
    workers = ("rollout.workers=2", "rollout.batch_size=32", "engine.swap=in_turn")
    training = start(*where, "--steps", "3", "engine.count=2", *workers)
    output, errors = training.communicate(timeout=300)
    assert training.returncode == 0, errors
    assert f"rollout workers: 2, on {FIRST} and {SECOND}" in output + errors
    replay = [*AREAL, "replay", str(tmp_path / "r")]
    found = subprocess.run(replay, capture_output=True, text=True, timeout=120)
    assert "bitwise identical: 3 updates" in found.stdout
    mismatches = [row["mismatch/logprob"] for row in rows(tmp_path / "r") if "mismatch/logprob" in row]
    assert mismatches, "no token was sampled by the weights that an update began with"
    assert max(mismatches) < 1e-3


@pytest.mark.long
def test_an_engine_on_two_hosts_learns_and_goes_on_on_one_that_is_left(cluster: Cluster, tmp_path: Path):
    """Neither host has a core for both workers of the engine; the learner shares one of them."""
    nodes = [cluster.add_node(num_cpus=1, node_ip_address=address) for address in (FIRST, SECOND)]
    where = ("--ray", cluster.address, "--output", str(tmp_path), "--name", "r")
    wide = ("engine.tensor_parallel=2", "rollout.batch_size=32", "rollout.max_new_tokens=24")
    training = start(*where, *wide, "--steps", "1000")
    until_rows(training, tmp_path / "r", 3)
    cluster.remove_node(nodes[1], allow_graceful=False)
    while ("restarted", "engine 0") not in events(tmp_path / "r"):
        assert training.poll() is None, training.communicate()
        time.sleep(0.1)
    until_rows(training, tmp_path / "r", len(rows(tmp_path / "r")) + 3)
    stop(training)
    found = [row["mismatch/logprob_max"] for row in rows(tmp_path / "r") if "mismatch/logprob_max" in row]
    assert found, "no token was sampled by the weights that an update began with"
    assert max(found) < 1e-4
