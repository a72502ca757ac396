"""A learner on two hosts of a Ray cluster that share no folder: raylets here, with a file system each."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("ray", reason="needs ray, of areal-gym[ray]")

from ray.cluster_utils import Cluster
from transformers import AutoModelForCausalLM

from areal.runtime import checkpoint

AREAL = [sys.executable, "-m", "areal"]
FIRST, SECOND = "127.0.0.2", "127.0.0.3"


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[Cluster]:
    """A head, where the runs are, and two hosts where their folder is another one."""
    (tmp_path / "runs").mkdir()
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    nodes = []
    for address in (FIRST, SECOND):
        own = tmp_path / address
        own.mkdir()
        ray = f"{Path(sys.executable).parent}/ray start --block --num-cpus 1"
        join = f"exec {ray} --address {cluster.address} --node-ip-address {address}"
        command = ["unshare", "-rm", "sh", "-c", f"mount --bind {own} {tmp_path}/runs && {join}"]
        nodes.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True))
        said = iter(nodes[-1].stdout or ())
        assert any("Ray runtime started" in line for line in said), f"no Ray at {address}"
    yield cluster
    for node in nodes:
        node.terminate()
        node.wait(60)
    cluster.shutdown()


def areal(*arguments: str) -> str:
    done = subprocess.run([*AREAL, *arguments], capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def rows(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.skipif(
    subprocess.run(["unshare", "-rm", "true"], capture_output=True).returncode != 0,
    reason="needs user namespaces, to mount a folder for one process",
)
@pytest.mark.long
def test_replicas_on_hosts_that_share_no_folder(hosts: Cluster, tmp_path: Path):
    """Each host has a replica of the learner and an engine; the driver's has the whole run directory."""
    run = tmp_path / "runs" / "r"
    where = ("--ray", hosts.address, "ray.hosts=2", "learner.processes=2", "learner.replicas=2")
    settings = ("engine.count=2", "evaluation.problems=0", "checkpoint.every=6")
    new = ("--steps", "12", "--output", str(run.parent), "--name", "r")
    shown = areal("train", *where, *settings, *new)
    assert f"{FIRST} and {SECOND} do not share {run}, " in shown
    assert f"learner: replica 0 on {FIRST}; replica 1 on {SECOND}" in shown
    kept = checkpoint.versions(run / "checkpoints")
    assert list(kept) == [6, 12]
    assert [checkpoint.damage(folder) for folder in kept.values()] == ["", ""]
    assert {path.name[:4] for path in (kept[12] / "learner").glob("*.distcp")} == {"__0_", "__1_"}
    AutoModelForCausalLM.from_pretrained(run / "model")
    for address in (FIRST, SECOND):
        assert not [path for path in (tmp_path / address).rglob("*") if path.is_file()], "left behind"
    rewards = [row["reward/mean"] for row in rows(run) if "loss" in row]
    assert sum(rewards[-3:]) / 3 > sum(rewards[:3]) / 3 + 0.1, "it learns"
    assert "the same" in areal("replay", str(run))

    areal("train", "--resume", str(run), "--steps", "13", *where)
    assert [row["step"] for row in rows(run) if "loss" in row] == list(range(1, 14))
    assert "the same" in areal("replay", str(run), "--from-step", "13")
    assert not list(run.rglob(".partial*"))
