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
from toys import Toy

from areal.errors import UserError, WorkerLost
from areal.workers.cluster import ClusterHost
from areal.workers.handle import Launch

pytest.importorskip("ray", reason="needs ray, of areal-gym[ray]")

import ray
from ray.cluster_utils import Cluster

from areal.workers.network import join_network
from areal.workers.ray import RayCluster
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
        await asyncio.wait_for(toy.call(Toy.fail, "end"), 30)
    killed = await cluster.launch_on(FIRST)("toy", {}, Toy)
    waiting = asyncio.ensure_future(killed.call(Toy.wait, ""))
    os.kill(killed.pid, signal.SIGKILL)
    with pytest.raises(WorkerLost, match=rf"^toy ended: SIGKILL, exit code -9, on host {FIRST}$"):
        await asyncio.wait_for(waiting, 30)


async def test_a_start_that_is_cancelled_leaves_nothing(cluster: RayCluster):
    starting = [asyncio.ensure_future(cluster.launch_on(FIRST)("toy cancelled", {}, Toy)) for _ in range(3)]
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
    assert await asyncio.wait_for(reader.read(), 30) == b""
    writer.close()
    assert await toy.call(Toy.add) == 1
    await toy.close()


async def test_what_others_hold_is_not_taken(cluster: RayCluster):
    """Also: a host that holds nothing for a run may be its driver's, as the head here."""
    begun = time.monotonic()
    with pytest.raises(UserError, match="the Ray cluster has no room now") as error:
        reserve("auto", patience=1)
    assert time.monotonic() - begun < 30
    assert f"{FIRST} (0 GPUs, 2 CPU cores), {SECOND} (0 GPUs, 2 CPU cores) asked for" in str(error.value)
    assert "free in all: 0 GPUs and 0 CPU cores; missing: 4 CPU cores" in str(error.value)


@pytest.mark.parametrize(
    ("gpus", "count", "line"),
    [
        (
            None,
            3,
            "too small: 3 hosts with CPU cores asked for (ray.hosts); there: HOSTS; missing: 1 host; add",
        ),
        (True, None, "too small: 1 host with GPUs asked for; there: HOSTS; missing: 1 host; add hosts to it"),
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
    await lost.call(Toy.seen)
    hosts.remove_node(node, allow_graceful=False)
    with pytest.raises(WorkerLost, match=rf"^lost ended: host {third} is gone"):
        await asyncio.wait_for(waiting, 30)
    with pytest.raises(WorkerLost, match=f"^late did not start: host {third} is gone"):
        await more.launch_on(third)("late", {}, Toy)
    assert await kept.call(Toy.add) == 1
    await until_gone("areal lost")
    await kept.close()
    more.close()


RUN = """
import asyncio, sys
from toys import Toy
from areal.workers.ray_hosts import reserve
from areal.workers.ray import RayCluster

async def main():
    cluster = RayCluster(reserve(sys.argv[1], count=1))
    toys = [await launch("orphan", {}, Toy) for launch in [cluster.launch_on(cluster.hosts[0].name)]]
    print("\\nworkers", toys[0].pid, await toys[0].call(Toy.fork), flush=True)
    await toys[0].call(Toy.work, 1000, "")

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
    assert psutil.wait_procs(ours, timeout=30)[1] == []


def test_an_address_without_a_cluster():
    code = "import sys; from areal.workers.ray_hosts import reserve; reserve(sys.argv[1], patience=3)"
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        silent = f"127.0.0.1:{nobody.getsockname()[1]}"
        for address, line in (
            (silent, "no answer within 3 s; is Ray started on this host"),
            ("ray://host:10001", "areal has to run on a host of the cluster"),
        ):
            command = [sys.executable, "-c", code, address]
            found = subprocess.run(command, capture_output=True, text=True, timeout=60)
            assert f"UserError: ray.address={address}: {line}" in found.stderr


def test_the_network_of_a_host():
    assert join_network("lo", "10.0.0.1") == "127.0.0.1"
    assert os.environ["GLOO_SOCKET_IFNAME"] == os.environ["NCCL_SOCKET_IFNAME"] == "lo"
    assert join_network(None, "10.0.0.1") == "10.0.0.1"
    with pytest.raises(UserError, match=r"^ray.interface=ib7, but host 10.0.0.1 has no .* it has lo"):
        join_network("ib7", "10.0.0.1")


async def until_gone(name: str) -> None:
    def there() -> bool:
        return any(name in (it.info["cmdline"] or ()) for it in psutil.process_iter(["cmdline"]))

    async with asyncio.timeout(30):
        while there():  # noqa: ASYNC110 (another process does it)
            await asyncio.sleep(0.05)
