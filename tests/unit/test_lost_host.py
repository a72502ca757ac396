"""A host of a Ray cluster is lost in the middle of a run: the learner that was there goes on on another one.

The hosts are raylets on this machine. Engines are scripted, but weights reach them as they do in a run.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from scripted import GROUPS, ScriptedEngine, make_rollout_worker, settings

import areal
from areal.config import Config
from areal.errors import EngineLost, UserError
from areal.rollout.engine import Completion, Partial, Sampling
from areal.rollout.engines import Engines
from areal.rollout.worker import RolloutWorker
from areal.runtime.build import open_trainer
from areal.runtime.monitor import Monitor
from areal.runtime.plan import Plan, plan
from areal.runtime.recording import Records
from areal.runtime.resuming import find_resume_point
from areal.telemetry.progress import Progress
from areal.telemetry.run_directory import RunDirectory, read_metrics
from areal.workers.guard import Guard

pytest.importorskip("ray", reason="needs ray, of areal-gym[ray]")

import ray
import torch
from ray.cluster_utils import Cluster

from areal.weights.broadcast import BroadcastReceiver
from areal.weights.digest import digest as digest_of
from areal.weights.layout import WeightLayout
from areal.weights.shared_memory import SharedMemoryReceiver
from areal.workers.ray import RayCluster
from areal.workers.ray_hosts import reserve

FIRST, SECOND, THIRD = "127.0.0.2", "127.0.0.3", "127.0.0.4"


class Receives(ScriptedEngine):
    """Receives the weights of the learner, and calls something before it loads a version."""

    def __init__(self, before: Callable[[int], None]) -> None:
        super().__init__()
        self.receiver: Any = None
        self.backends, self._before = list[str](), before

    def watch(self, lost: Callable[[EngineLost], None]) -> None:
        """It lives in this process."""

    async def generate(
        self, ids: list[int], sampling: Sampling, partial: Partial | None = None, *, images: object = ()
    ) -> Completion:
        return await super().generate(ids, sampling)

    async def connect(self, init_infos: list[dict[str, Any]]) -> None:
        await self.close()
        for info in init_infos:
            kind: Any = {"broadcast": BroadcastReceiver, "shared memory": SharedMemoryReceiver}
            layout, device = WeightLayout.from_dict(info["layout"]), torch.device("cpu")
            self.receiver = await asyncio.to_thread(kind[info["backend"]], info["address"], layout, device)
            self.backends.append(info["backend"])

    async def load(self, version: int, digest: str = "") -> dict[str, float]:
        self._before(version)
        await asyncio.to_thread(self.receiver.receive)
        assert digest_of(self.receiver.tensors) == digest
        self.version = version
        return {}

    async def close(self) -> None:
        if self.receiver is not None:
            self.receiver.close()
        self.receiver = None


@pytest.fixture
def hosts() -> Iterator[Cluster]:
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    yield cluster
    ray.shutdown()
    cluster.shutdown()


async def train(
    config: Config, directory: RunDirectory, hosts: Cluster, engine: Receives, said: list[str]
) -> None:
    """Train on the hosts of a cluster; go on where the run has begun."""

    async def start(checked: Plan, guard: Guard) -> RolloutWorker:
        engines: Any = Engines({"engine 0": engine})
        return make_rollout_worker(checked, engines)

    cluster = RayCluster(reserve(hosts.address))
    with Progress(config.steps, "", False, sys.stderr) as progress:
        progress.message = said.append  # type: ignore[method-assign]
        records = Records(directory, progress)
        monitor = Monitor(config, records)
        resume = find_resume_point(directory, config) if directory.starts() else None
        try:
            checked = plan(config, cluster=cluster)
            async with (
                monitor.watching(),
                open_trainer(checked, records, resume, monitor, start) as trainer,
            ):
                await trainer.run()
        finally:
            cluster.close()


@pytest.mark.long
async def test_a_learner_whose_host_is_lost_goes_on_elsewhere(hosts: Cluster, tmp_path: Path):
    """First the host of rank 0 is lost, then the other one, and no other is left; later there is another."""
    nodes = {address: hosts.add_node(num_cpus=1, node_ip_address=address) for address in (FIRST, SECOND)}
    learner = {"threads": 1, "processes": 2, "max_mismatch": "inf"}
    run = {"max_restarts": 2}
    config = settings(
        tmp_path, "run", steps=6, learner=learner, run=run, placement="ray", checkpoint={"every": 2}
    )
    directory = RunDirectory.create(config)
    due = {3: FIRST, 5: SECOND}

    def remove(version: int) -> None:
        if address := due.pop(version, None):
            hosts.remove_node(nodes[address], allow_graceful=False)

    engine = Receives(remove)
    said = list[str]()
    with pytest.raises(UserError) as error:
        await train(config, directory, hosts, engine, said)
    line = f"host {SECOND} is gone with learner rank 0, 1, and no other host has room:  "
    assert str(error.value).startswith(line + "learner.processes=2, and no other host is left; add a host")
    assert f"host {FIRST} is gone with learner rank 0: the learner starts on {SECOND}" in said
    events = [event["event"] for event in directory.events() if event.get("part") == "learner"]
    assert events == ["lost", "restarted", "lost"]
    assert engine.backends[:2] == ["shared memory", "broadcast"], "by where the placement has this engine"

    hosts.add_node(num_cpus=1, node_ip_address=THIRD)
    await train(config, directory, hosts, engine, said)
    assert [line["step"] for line in read_metrics(directory.path)] == [1, 2, 3, 4, 5, 6]
    recorded = (directory.read_rollouts(step) for step in directory.recorded_steps())
    groups = [group["id"] for batch in recorded for group in batch]
    assert len(groups) == len(set(groups)) == 6 * GROUPS
    assert areal.replay(directory.path).verdict.startswith("the same")


HEADLESS = """
import asyncio, sys
from pathlib import Path
from ray.cluster_utils import Cluster
from scripted import settings
from test_lost_host import Receives, train
from areal.telemetry.run_directory import RunDirectory

hosts = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
hosts.add_node(num_cpus=1, node_ip_address="127.0.0.2")
learner = {"threads": 1, "max_mismatch": "inf"}
config = settings(Path(sys.argv[1]), "run", steps=100_000, learner=learner, placement="ray")
due = [2]

def kill(version):
    if version in due:
        due.remove(version)
        hosts.head_node.kill_gcs_server()

try:
    asyncio.run(train(config, RunDirectory.create(config), hosts, Receives(kill), []))
except BaseException as error:
    print(f"{type(error).__name__}: {error}", flush=True)
hosts.shutdown()
"""


@pytest.mark.long
def test_a_run_whose_cluster_has_lost_its_head_ends_at_once(tmp_path: Path):
    """Nothing can be started there any more; after 60 s Ray ends the process without a word of ours."""
    tests = Path(__file__).parent
    environment = {**os.environ, "PYTHONPATH": f"{tests}:{tests.parent}"}
    command = [sys.executable, "-c", HEADLESS, str(tmp_path)]
    found = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=400)
    assert "WorkerLost: the head of the Ray cluster, " in found.stdout, found.stdout + found.stderr
    assert "has not answered for 30 s" in found.stdout
    events = [event["event"] for event in RunDirectory.open(tmp_path / "run").events()]
    assert events.count("lost") <= 1, "it did not try again"
