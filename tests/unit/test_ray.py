"""Workers on hosts of Ray: raylets on this machine, each with an address of its own, and a head without."""

from __future__ import annotations

import asyncio
import os
import pickle
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import psutil
import pytest
import test_workers
from toys import Toy, never_made
from until import until

from areal.config import parse_config
from areal.errors import UserError, WorkerLost
from areal.runtime.host_checks import check_code_on_hosts
from areal.workers.cluster import ClusterHost, Survey
from areal.workers.handle import Launch

pytest.importorskip("ray", reason="needs ray, of areal-gym[ray]")

import ray
from ray._raylet import GcsClient
from ray.cluster_utils import Cluster
from ray.core.generated import autoscaler_pb2

from areal.workers.network import join_network
from areal.workers.ray import RayCluster
from areal.workers.ray_actor import END
from areal.workers.ray_hosts import reserve

FIRST, SECOND = "127.0.0.2", "127.0.0.3"

# What holds of every launcher holds here.
test_calls_answers_and_arguments = test_workers.test_calls_answers_and_arguments
test_async_methods_run_beside_plain_ones = test_workers.test_async_methods_run_beside_plain_ones
test_a_cancelled_call_is_cancelled = test_workers.test_a_cancelled_call_is_cancelled_on_the_other_side
test_errors_are_what_they_were = test_workers.test_errors_are_what_they_were_and_say_where_they_came_from
test_a_worker_that_cannot_be_made_is_no_worker = test_workers.test_a_worker_that_cannot_be_made_is_no_worker
test_closed_in_order = test_workers.test_closed_in_order
test_what_waits_for_a_killed_worker_is_told = test_workers.test_what_waits_for_a_killed_worker_is_told
test_a_group_does_the_same_on_all = test_workers.test_a_group_does_the_same_on_all


@pytest.fixture(scope="module")
def hosts() -> Iterator[Cluster]:
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    for address in (FIRST, SECOND):
        cluster.add_node(num_cpus=2, node_ip_address=address)
    yield cluster
    ray.shutdown()
    cluster.shutdown()


@pytest.fixture(scope="module")
async def cluster(hosts: Cluster) -> AsyncIterator[RayCluster]:
    cluster = RayCluster(reserve(hosts.address))
    yield cluster
    cluster.close()


@pytest.fixture
def launch(cluster: RayCluster) -> Launch:
    return cluster.launch_on(SECOND)


async def test_each_host_has_its_workers_with_an_environment_of_their_own(cluster: RayCluster):
    assert cluster.hosts == [ClusterHost(FIRST, 2, FIRST), ClusterHost(SECOND, 2, SECOND)]
    toys = await asyncio.gather(
        *(cluster.launch_on(host)(f"toy {host}", {"AREAL_TOY": host}, Toy) for host in (FIRST, SECOND, FIRST))
    )
    about = [await toy.call(Toy.about) for toy in toys]
    assert [found["given"] for found in about] == [FIRST, SECOND, FIRST]
    assert [found["name"] for found in about] == [f"areal toy {host}" for host in (FIRST, SECOND, FIRST)]
    assert {found["main"] for found in about} == {None}
    assert [found["heavy"] for found in about] == [[], [], []]
    assert "AREAL_TOY" not in os.environ
    actors = [psutil.Process(toy.pid).ppid() for toy in toys]
    assert actors[0] == actors[2] != actors[1]
    await asyncio.gather(*(toy.close() for toy in toys))


async def test_a_worker_that_ends_says_on_which_host(cluster: RayCluster):
    toy = await cluster.launch_on(SECOND)("toy", {}, Toy)
    with pytest.raises(WorkerLost, match=rf"^toy ended: exit code 7, on host {SECOND}$"):
        await asyncio.wait_for(toy.call(Toy.fail, "end"), 60)
    killed = await cluster.launch_on(FIRST)("toy", {}, Toy)
    waiting = asyncio.ensure_future(killed.call(Toy.wait, ""))
    os.kill(killed.pid, signal.SIGKILL)
    with pytest.raises(WorkerLost, match=rf"^toy ended: killed by SIGKILL, on host {FIRST}$"):
        await asyncio.wait_for(waiting, 60)


async def test_a_start_that_is_cancelled_leaves_nothing(cluster: RayCluster):
    launch = cluster.launch_on(FIRST)
    starting = [asyncio.ensure_future(launch("toy cancelled", {}, never_made)) for _ in range(3)]
    await asyncio.sleep(0.1)
    for task in starting:
        task.cancel()
    await asyncio.wait(starting)
    assert all(task.cancelled() for task in starting)
    await until_gone("areal toy cancelled")


async def test_a_stranger_is_shut_out_before_anything_of_it_is_read(cluster: RayCluster):
    toy = await cluster.launch_on(FIRST)("toy", {}, Toy)
    address = cluster._listening.getsockname()
    reader, writer = await asyncio.open_connection(*address)
    writer.write(bytes(32) + pickle.dumps(os.abort))
    assert await asyncio.wait_for(reader.read(), 60) == b""
    writer.close()
    assert await toy.call(Toy.add) == 1
    await toy.close()


async def test_what_others_hold_is_not_taken(cluster: RayCluster):
    """Also: a host that holds nothing for a run may be its driver's, as the head here."""
    begun = time.monotonic()
    with pytest.raises(UserError, match="the Ray cluster has no room now") as error:
        reserve("auto", patience=1)
    assert time.monotonic() - begun < 30
    assert f"{FIRST} (0 GPUs, 2 CPU cores), {SECOND} (0 GPUs, 2 CPU cores), each as a whole" in str(
        error.value
    )
    assert "0 GPUs and 0 CPU cores are free in total; missing: 4 CPU cores" in str(error.value)


@pytest.mark.parametrize(
    ("gpus", "count", "line"),
    [
        (
            None,
            3,
            "too small: the run needs 3 hosts with CPU cores (ray.hosts); the cluster has HOSTS; 1 host "
            "missing; add",
        ),
        (
            True,
            None,
            "too small: the run needs 1 host with GPUs; the cluster has HOSTS; 1 host missing; add hosts to "
            "it",
        ),
    ],
)
async def test_too_small_a_cluster(cluster: RayCluster, gpus: bool | None, count: int | None, line: str):
    with pytest.raises(UserError) as error:
        reserve("auto", gpus, count, patience=1)
    there = f"{FIRST} (0 GPUs, 2 CPU cores), {SECOND} (0 GPUs, 2 CPU cores)"
    assert line.replace("HOSTS", there) in str(error.value)


async def test_a_host_that_leaves_ends_its_workers_alone(hosts: Cluster, cluster: RayCluster):
    third = "127.0.0.4"
    node = hosts.add_node(num_cpus=3, node_ip_address=third)
    more = RayCluster(reserve("auto", count=1))
    assert [host.name for host in more.hosts] == [third], "the largest one, and the only one that is free"
    lost = await more.launch_on(third)("lost", {}, Toy)
    kept = await cluster.launch_on(FIRST)("kept", {}, Toy)
    waiting = asyncio.ensure_future(lost.call(Toy.wait, ""))
    await test_workers.all_begun(lost)
    hosts.remove_node(node, allow_graceful=False)
    with pytest.raises(WorkerLost, match=rf"^lost ended: host {third} is gone"):
        await asyncio.wait_for(waiting, 60)
    with pytest.raises(WorkerLost, match=f"^late did not start: host {third} is gone"):
        await more.launch_on(third)("late", {}, Toy)
    with pytest.raises(WorkerLost, match=f"^host {third} is gone"):
        await asyncio.to_thread(more.run, third, os.getpid)
    assert await kept.call(Toy.add) == 1
    await until_gone("areal lost")
    await kept.close()
    more.close()


async def test_hosts_that_join_drain_leave_and_come_back(hosts: Cluster, cluster: RayCluster):
    """One is reserved from the start, one is held when it has joined; both leave, and come back."""
    first, second = "127.0.0.21", "127.0.0.22"
    nodes = [hosts.add_node(num_cpus=1, node_ip_address=first)]
    held = RayCluster(reserve("auto", count=1))
    assert held.survey() == Survey()
    assert held.hold(second) is None, "it is not there"
    nodes.append(hosts.add_node(num_cpus=1, node_ip_address=second))
    await until(lambda: held.survey() == Survey(free=(second,)))
    assert held.hold(second) == ClusterHost(second, 1, second)
    assert held.hosts[1].name == second
    assert held.survey() == Survey()
    await until(lambda: cluster.survey() == Survey())  # another run does not see it as free
    assert cluster.hold(second) is None, "it is held"
    toys = [await held.launch_on(host)("toy", {}, Toy) for host in (first, second)]
    drain = [nodes[1].node_id, autoscaler_pb2.DRAIN_NODE_REASON_PREEMPTION, "a test"]
    in_an_hour = int(1000 * (time.time() + 3600))
    assert GcsClient(address=hosts.address).drain_node(*drain, in_an_hour)[0]
    await until(lambda: held.survey().draining)
    found = held.survey()
    assert (found.free, list(found.draining), found.gone) == ((), [second], ())
    assert 3500 < found.draining[second] <= 3600
    assert [await toy.call(Toy.add) for toy in toys] == [1, 1]
    held.release(second)
    assert await asyncio.wait_for(toys[1].ended, 60)
    assert held.survey() == Survey(), "what drains is not taken again"
    for node in nodes:
        hosts.remove_node(node, allow_graceful=False)
    await until(lambda: held.survey() == Survey(gone=(first,)))
    assert await asyncio.wait_for(toys[0].ended, 60)
    held.release(first)
    assert held.survey() == Survey()
    with pytest.raises(WorkerLost, match=f"^host {first} is gone"):
        await asyncio.to_thread(held.run, first, os.getpid)
    nodes = [hosts.add_node(num_cpus=1, node_ip_address=address) for address in (first, second)]
    await until(lambda: sorted(held.survey().free) == [first, second])
    for address in (first, second):
        assert held.hold(address) == ClusterHost(address, 1, address)
        toy = await held.launch_on(address)("toy", {}, Toy)
        assert await toy.call(Toy.add) == 1
    held.close()
    await until(lambda: sorted(cluster.survey().free) == [first, second])
    for node in nodes:
        hosts.remove_node(node)


async def test_two_runs_have_a_host_each(hosts: Cluster, cluster: RayCluster):
    """The hosts that another run holds are the largest; a run that asks for one has the other, soon."""
    nodes = [hosts.add_node(num_cpus=3, node_ip_address=f"127.0.0.{end}") for end in (10, 9)]
    first = RayCluster(reserve("auto", count=1))
    second = RayCluster(reserve("auto", count=1))
    assert [host.name for host in first.hosts] == ["127.0.0.9"], "10 comes after 9"
    assert [host.name for host in second.hosts] == ["127.0.0.10"]
    toys = [await held.launch_on(held.hosts[0].name)("toy", {}, Toy) for held in (first, second)]
    assert [await toy.call(Toy.add) for toy in toys] == [1, 1]
    first.close()
    assert await toys[1].call(Toy.add) == 2, "the end of one is not that of the other"
    second.close()
    for node in nodes:
        hosts.remove_node(node)


def test_a_host_that_was_started_twice(hosts: Cluster):
    nodes = [hosts.add_node(num_cpus=4, node_ip_address="127.0.0.7") for _ in range(2)]
    with pytest.raises(UserError, match=r"^Ray was started twice on host 127.0.0.7; start it once on each"):
        reserve("auto", count=1, patience=2)
    for node in nodes:
        hosts.remove_node(node)


async def test_a_host_that_stops_keeps_nobody_waiting(cluster: RayCluster):
    """Its actor is stopped, which Ray does not see: a start gives up, and so does the end of a worker."""
    toy = await cluster.launch_on(SECOND)("stopped", {}, Toy)
    worker = psutil.Process(toy.pid)
    actor = worker.parent()
    assert actor is not None
    actor.send_signal(signal.SIGSTOP)
    try:
        starting = asyncio.ensure_future(cluster.launch_on(SECOND)("late", {}, Toy))
        worker.send_signal(signal.SIGSTOP)
        await asyncio.wait_for(toy.close(grace=0.5), 60)
        assert toy.ended.done()
        with pytest.raises(WorkerLost, match=f"^late did not start: host {SECOND} has not answered for 40 s"):
            await asyncio.wait_for(starting, 120)
    finally:
        worker.send_signal(signal.SIGCONT)
        actor.send_signal(signal.SIGCONT)
    await until_gone("areal stopped")
    await until_gone("areal late")
    again = await cluster.launch_on(SECOND)("again", {}, Toy)
    assert await again.call(Toy.add) == 1
    await again.close()


def gpus_shown(hosts: Cluster, variables: dict[str, str], count: int) -> str | None:
    """Return CUDA_VISIBLE_DEVICES of workers on a new host of so many GPUs, whose raylet has variables."""
    node = hosts.add_node(num_cpus=1, num_gpus=count, node_ip_address="127.0.0.6", env_vars=variables)
    held = RayCluster(reserve("auto", gpus=True))
    try:
        return held.run("127.0.0.6", os.getenv, "CUDA_VISIBLE_DEVICES")
    finally:
        held.close()
        hosts.remove_node(node)


async def test_workers_see_the_gpus_of_ray_in_order(hosts: Cluster, cluster: RayCluster):
    """Whatever Ray itself was shown, and also where it is set up to show every GPU of the host to all."""
    assert gpus_shown(hosts, {}, 12) == "0,1,2,3,4,5,6,7,8,9,10,11"
    assert gpus_shown(hosts, {"CUDA_VISIBLE_DEVICES": "11,3,10,9"}, 4) == "3,9,10,11"
    assert gpus_shown(hosts, {"CUDA_VISIBLE_DEVICES": "GPU-c,MIG-b,GPU-a"}, 3) == "GPU-a,GPU-c,MIG-b"
    assert gpus_shown(hosts, {"RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES": "1"}, 2) == "0,1"


async def test_hosts_without_gpu_beside_those_with_some(hosts: Cluster, cluster: RayCluster):
    with pytest.raises(UserError, match="cluster has 0 hosts without"):
        reserve("auto", cpu_hosts=1, patience=1)
    nodes = [
        hosts.add_node(num_cpus=1, num_gpus=count, node_ip_address=address)
        for address, count in (("127.0.0.6", 0), ("127.0.0.7", 2))
    ]
    held = RayCluster(reserve("auto", cpu_hosts=1))
    try:
        assert [host.name for host in held.hosts] == ["127.0.0.7", "127.0.0.6"]
        assert held.run("127.0.0.6", os.getenv, "CUDA_VISIBLE_DEVICES") in (None, "")
    finally:
        held.close()
        for node in nodes:
            hosts.remove_node(node)


RUN = """
import asyncio, sys, time
from toys import Toy
from areal.workers.ray_hosts import reserve
from areal.workers.ray import RayCluster

async def main():
    cluster = RayCluster(reserve(sys.argv[1], count=1))
    toy = await cluster.launch_on(cluster.hosts[0].name)("orphan", {}, Toy)
    print("\\nworkers", toy.pid, await toy.call(Toy.fork), flush=True)
    await toy.ended
    print("\\nended", toy.ended.result(), flush=True)
    began = time.monotonic()
    cluster.close()
    print("\\nclosed", time.monotonic() - began, flush=True)

asyncio.run(main())
"""


def test_no_worker_outlives_its_run(hosts: Cluster):
    hosts.add_node(num_cpus=3, node_ip_address="127.0.0.5")
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    arguments = [sys.executable, "-c", RUN, hosts.address]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, env=environment) as run:
        assert run.stdout is not None
        line = next(line for line in run.stdout if line.startswith(b"workers"))  # Ray prints, too
        ours = [psutil.Process(int(pid)) for pid in line.split()[1:]]
        assert len(ours) == 2, "a worker, and its own child"
        run.send_signal(signal.SIGKILL)
    assert psutil.wait_procs(ours, timeout=60)[1] == []
    RayCluster(reserve("auto", count=1)).close()  # and its host is free again


def test_a_cluster_that_loses_its_head():
    """Ray would end the run's process after 60 s, without a word that a user sees."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    cluster.add_node(num_cpus=1, node_ip_address=FIRST)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    address = cluster.address
    arguments = [sys.executable, "-c", RUN, address]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, env=environment, text=True) as run:
        assert run.stdout is not None
        pids = next(line for line in run.stdout if line.startswith("workers")).split()[1:]
        ours = [psutil.Process(int(pid)) for pid in pids]
        cluster.head_node.kill_gcs_server()
        ended = next((line for line in run.stdout if line.startswith("ended")), "")
        assert f"the head of the Ray cluster, {address}, has not answered for 30 s" in ended
        closed = next(line for line in run.stdout if line.startswith("closed"))
        assert float(closed.split()[1]) < END, "it asks a head that is gone"
        assert run.wait(60) == 0, "it waits for ever for what cannot be released any more"
        assert psutil.wait_procs(ours, timeout=60)[1] == []
    cluster.shutdown()


def test_within_a_users_own_ray(hosts: Cluster):
    """It has joined Ray by itself, with a namespace and a runtime_env, and stays in it."""
    code = """
import os, ray, sys
ray.init(sys.argv[1], namespace="mine", runtime_env={"env_vars": {"AREAL_TOY": "theirs"}})
from areal.workers.ray import RayCluster
from areal.workers.ray_hosts import reserve
cluster = RayCluster(reserve("auto", count=1))
assert cluster.run(cluster.hosts[0].name, os.getenv, "AREAL_TOY") == "theirs"
cluster.close()
assert ray.is_initialized()
reserve("127.0.0.1:1")
"""
    node = hosts.add_node(num_cpus=3, node_ip_address="127.0.0.8")
    found = subprocess.run([sys.executable, "-c", code, hosts.address], capture_output=True, text=True)
    line = f"ray.address=127.0.0.1:1, but this process has already joined the cluster at {hosts.address}"
    assert line in found.stderr, found.stderr
    hosts.remove_node(node)


def test_another_version_of_ray(hosts: Cluster):
    code = """
import sys, ray
ray.__version__ = "2.1.0"
from areal.workers.ray_hosts import reserve
reserve(sys.argv[1])
"""
    found = subprocess.run([sys.executable, "-c", code, hosts.address], capture_output=True, text=True)
    *_, line = found.stderr.strip().splitlines()
    assert "Version mismatch: The cluster was started with: Ray: " in line
    assert line.endswith("; run areal with the Python and the Ray with which the cluster was started")


def test_a_host_with_an_ipv6_address(hosts: Cluster, cluster: RayCluster):
    node = hosts.add_node(num_cpus=1, node_ip_address="::1")
    with pytest.raises(UserError, match=r"^Ray knows host ::1 by an IPv6 address, .* --node-ip-address$"):
        reserve("auto", count=1, patience=1)
    hosts.remove_node(node)


AGENT = "class Mine:\n    async def run(self, env, model): ...\n"


async def test_code_that_a_host_lacks(cluster: RayCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The module was found here, after the hosts were asked for; they look where this process did then."""
    (tmp_path / "lacking.py").write_text(AGENT)
    monkeypatch.syspath_prepend(tmp_path)
    config = parse_config({"agent": "lacking:Mine"})
    with pytest.raises(UserError, match=rf"^host {FIRST} lacks code of this run \(.*lacking.* runtime_env"):
        check_code_on_hosts(cluster, [FIRST], config)
    check_code_on_hosts(cluster, [FIRST, SECOND], parse_config({}))


def test_code_that_ray_brings(hosts: Cluster, tmp_path: Path):
    """A module of the job's working_dir, which no other place has any more."""
    code = """
import ray, shutil, sys
ray.init(sys.argv[1], runtime_env={"working_dir": sys.argv[2]})
shutil.rmtree(sys.argv[2])
from areal.config import parse_config
from areal.runtime.host_checks import _find_code
from areal.registry import registered
from areal.workers.ray import RayCluster
from areal.workers.ray_hosts import reserve
cluster = RayCluster(reserve("auto", count=1))
cluster.run(cluster.hosts[0].name, _find_code, parse_config({"agent": "brought:Mine"}), registered())
cluster.close()
"""
    (tmp_path / "job").mkdir()
    (tmp_path / "job" / "brought.py").write_text(AGENT)
    node = hosts.add_node(num_cpus=3, node_ip_address="127.0.0.11")
    arguments = [sys.executable, "-c", code, hosts.address, str(tmp_path / "job")]
    found = subprocess.run(arguments, capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    hosts.remove_node(node)


def test_an_address_without_a_cluster():
    code = "import sys; from areal.workers.ray_hosts import reserve; reserve(sys.argv[1], patience=3)"
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        silent = f"127.0.0.1:{nobody.getsockname()[1]}"
        for address, line in (
            (silent, "no answer within 3 s; check that Ray is running on this host"),
            ("ray://host:10001", "run areal on a host of the cluster"),
        ):
            command = [sys.executable, "-c", code, address]
            found = subprocess.run(command, capture_output=True, text=True, timeout=60)
            assert f"UserError: ray.address={address}: {line}" in found.stderr


def test_the_network_of_a_host():
    assert join_network("lo", "10.0.0.1") == "127.0.0.1"
    assert os.environ["GLOO_SOCKET_IFNAME"] == os.environ["NCCL_SOCKET_IFNAME"] == "lo"
    assert join_network(None, "10.0.0.1") == "10.0.0.1"
    assert join_network(None, "localhost") == "127.0.0.1", "`ray start` may be given names"
    with pytest.raises(
        UserError, match=r"^host no_such.host cannot resolve its own name .* --node-ip-address"
    ):
        join_network(None, "no_such.host")
    with pytest.raises(UserError, match=r"^ray.interface=ib7, but host 10.0.0.1 has no .* choose one of lo"):
        join_network("ib7", "10.0.0.1")


async def until_gone(name: str) -> None:
    def there() -> bool:
        return any(name in (it.info["cmdline"] or ()) for it in psutil.process_iter(["cmdline"]))

    await until(lambda: not there())
