"""Who runs where, on invented machines: no GPU and no second host is needed to know."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from inventories import GIB, H100, host, machine

from areal.config import Config, parse_config
from areal.errors import UserError
from areal.placement.describe import summary, table
from areal.placement.inventory import Device, Inventory, probe, visible_names
from areal.placement.memory import Shape
from areal.placement.placement import Placement, place, place_learner
from areal.runtime.plan import workload
from areal.telemetry.tables import lines

HALF_A_BILLION = Shape(494_032_768, 24, 896, 4864, 896, 128, 151936)
TWO_HOSTS = Inventory((host([H100] * 2, "a"), host([H100] * 2, "b")))
DRIVER_WITHOUT_GPU = Inventory((host([], "head"), host([H100] * 2, "a"), host([H100], "b")))


def placed(
    inventory: Inventory, training: bool = True, tensor_parallel: int = 1, **settings: Any
) -> Placement:
    return place(inventory, configured(tensor_parallel, settings), training)


def configured(tensor_parallel: int, settings: dict[str, Any]) -> Config:
    engine = {**settings.get("engine", {}), "tensor_parallel": tensor_parallel}
    return parse_config({**settings, "engine": engine})


def engines(placement: Placement) -> list[tuple[int, ...]]:
    return [tuple(device.index for device in engine.devices) for engine in placement.engines]


def divided(inventory: Inventory, tensor_parallel: int = 1, **settings: Any) -> Placement:
    config = configured(tensor_parallel, settings)
    found = place(inventory, config)
    return found.with_memory(HALF_A_BILLION, workload(found, config, 4096))


def test_on_a_cpu_learner_and_engines_share_the_cores():
    found = placed(machine(cores=8), engine={"count": 2}, learner={"processes": 2})
    assert found.device_type == "cpu"
    assert [(rank.device, rank.threads) for rank in found.ranks] == [(None, 2)] * 2
    assert [(engine.devices, engine.threads) for engine in found.engines] == [((), 2)] * 2
    assert found.backends == ["shared memory"] * 2
    assert all(engine.colocated for engine in found.engines)
    odd = placed(machine(cores=1))
    assert (odd.ranks[0].threads, odd.engines[0].threads) == (1, 1)
    given = placed(machine(cores=8), engine={"threads": 6, "count": 2}, learner={"threads": 3})
    assert (given.ranks[0].threads, given.engines[0].threads) == (3, 3)


@pytest.mark.parametrize(
    ("count", "first", "gpus", "learners", "expected"),
    [
        (None, None, 1, 1, [0]),
        (None, None, 2, 1, [1]),
        (None, None, 4, 1, [1, 2, 3]),
        (None, None, 4, 2, [2, 3]),
        (None, None, 4, 4, [0]),
        (None, None, 3, 0, [0, 1, 2]),
        (None, None, 8, 3, [3, 4, 5, 6, 7]),
        (None, 0, 4, 1, [0]),
        (2, None, 2, 1, [1, 0]),
        (3, 2, 4, 1, [2, 3, 0]),
        (1, None, 4, 2, [2]),
    ],
)
def test_the_engines_have_the_gpus_that_the_learner_leaves_first(
    count: int | None, first: int | None, gpus: int, learners: int, expected: list[int]
):
    found = placed(
        machine(*[H100] * gpus),
        learners > 0,
        engine={"count": count, "gpu": first},
        learner={"processes": max(1, learners)},
    )
    assert [rank.device and rank.device.index for rank in found.ranks] == list(range(learners))
    assert engines(found) == [(index,) for index in expected]
    assert [engine.colocated for engine in found.engines] == [index < learners for index in expected]


def test_an_engine_on_the_first_ranks_gpu_maps_its_memory_and_the_others_get_a_broadcast():
    found = placed(machine(*[H100] * 3), engine={"count": 3}, learner={"processes": 2})
    assert engines(found) == [(2,), (0,), (1,)]
    assert found.backends == ["broadcast", "CUDA IPC", "broadcast"]
    assert placed(machine(H100)).backends == ["CUDA IPC"]
    assert placed(machine(H100), training=False).backends == []


def test_two_hosts_are_filled_one_after_the_other():
    found = placed(TWO_HOSTS, learner={"processes": 3})
    assert [(rank.host, rank.device and rank.device.index) for rank in found.ranks] == [
        ("a", 0),
        ("a", 1),
        ("b", 0),
    ]
    assert [(engine.host, engine.devices[0].index) for engine in found.engines] == [("b", 1)]
    cpus = placed(Inventory((host([], "a"), host([], "b"))), engine={"count": 2})
    assert [rank.host for rank in cpus.ranks] == ["a"]
    assert [engine.host for engine in cpus.engines] == ["b", "a"]
    assert cpus.backends == ["broadcast", "shared memory"], "no memory is shared between hosts"


EIGHT, FOUR = [H100] * 8, [H100] * 4


@pytest.mark.parametrize(
    ("sizes", "processes", "replicas", "expected", "line"),
    [
        ((EIGHT, EIGHT), 16, 2, ["a"] * 8 + ["b"] * 8, "replica 0 on a; replica 1 on b"),
        ((EIGHT, EIGHT), 12, 2, ["a"] * 6 + ["b"] * 6, "replica 0 on a; replica 1 on b"),
        ((EIGHT, EIGHT), 12, 1, ["a"] * 8 + ["b"] * 4, None),
        ((EIGHT, EIGHT), 8, 2, ["a"] * 8, "replica 0 on a; replica 1 on a"),
        ((EIGHT, EIGHT), 2, 2, ["a"] * 2, "replica 0 on a; replica 1 on a"),
        ((FOUR, EIGHT), 12, 3, ["a"] * 4 + ["b"] * 8, "replica 0 on a; replica 1 on b; replica 2 on b"),
        ((FOUR, EIGHT), 6, 1, ["a"] * 4 + ["b"] * 2, None),
        ((FOUR, EIGHT), 6, 2, ["a"] * 3 + ["b"] * 3, "replica 0 on a; replica 1 on b"),
        ((FOUR, EIGHT), 12, 2, ["a"] * 4 + ["b"] * 8, "replica 0 on a and b; replica 1 on b"),
        (([], []), 4, 2, ["a", "a", "b", "b"], "replica 0 on a; replica 1 on b"),
        (([], []), 3, 1, ["a", "a", "b"], None),
    ],
)
def test_a_replica_is_on_one_host_where_it_can_be(
    sizes: tuple[list[float], ...], processes: int, replicas: int, expected: list[str], line: str | None
):
    inventory = Inventory(tuple(host(each, name) for each, name in zip(sizes, "ab", strict=True)))
    learner = {"processes": processes, "replicas": replicas}
    found = placed(inventory, learner=learner)
    assert [rank.host for rank in found.ranks] == expected
    devices = [rank.device for rank in found.ranks if rank.device is not None]
    assert len(set(devices)) == (processes if inventory.devices else 0)
    left = [device for device in inventory.devices if device not in devices]
    assert [engine.devices[0] for engine in found.engines if engine.devices] == (left or devices[:1])
    assert f"learner: {line}" in summary(found) or line is None
    if inventory.devices:  # the state is divided by the ranks of a replica
        whole, alone = (divided(inventory, learner=each).memory[0] for each in (learner, {"processes": 1}))
        assert whole.learner < alone.learner


def test_state_is_divided_by_the_ranks_of_a_replica():
    def learner(processes: int, replicas: int) -> int:
        settings = {"processes": processes, "replicas": replicas}
        inventory = Inventory((host(EIGHT, "a"), host(EIGHT, "b")))
        return divided(inventory, learner=settings).memory[-1].learner

    assert learner(16, 2) - learner(16, 1) == pytest.approx(
        16 * HALF_A_BILLION.parameters * (1 / 8 - 1 / 16), abs=2
    )
    assert learner(16, 16) > learner(16, 8) > learner(16, 4)
    with pytest.raises(
        UserError, match=r"learner\.replicas=3 does not divide learner\.processes=16, .* set it to 1"
    ):
        learner(16, 3)


def test_each_rank_has_its_part_of_the_cores_of_its_own_host():
    inventory = Inventory((host([], "a", 4), host([], "b", 16)))
    found = placed(inventory, learner={"processes": 4}, engine={"count": 2})
    assert [(rank.host, rank.threads) for rank in found.ranks] == [("a", 1), ("a", 1), ("b", 4), ("b", 4)]
    assert [(engine.host, engine.threads) for engine in found.engines] == [("a", 2), ("b", 8)]


def test_a_driver_without_a_gpu_runs_all_on_the_other_hosts():
    found = placed(DRIVER_WITHOUT_GPU)
    assert found.device_type == "cuda"
    assert [rank.host for rank in found.ranks] == ["a"]
    assert [(engine.host, engine.devices[0].index) for engine in found.engines] == [("a", 1), ("b", 0)]
    with pytest.raises(UserError, match="device=cuda, but torch sees no GPU"):
        placed(machine(), device="cuda")
    assert placed(machine(H100), device="cpu").device_type == "cpu"


def moved(inventory: Inventory, gone: str, **settings: Any) -> tuple[Placement, list[tuple[str, int]]]:
    """Place a run, and its learner again without a host; return where ranks are then."""
    config = configured(1, settings)
    found = place_learner(place(inventory, config), config, [gone])
    return found, [(rank.host, -1 if rank.device is None else rank.device.index) for rank in found.ranks]


def test_a_learner_without_a_host_gets_gpus_that_no_engine_has():
    three = Inventory((host([H100] * 2, "a"), host([H100] * 2, "b"), host([H100] * 2, "c")))
    learner = {"processes": 3}
    found, ranks = moved(three, "b", learner=learner, engine={"count": 1})
    assert engines(found) == [(1,)]
    assert ranks == [("a", 0), ("a", 1), ("c", 0)], "of b it had one, and the engine the other"
    found, ranks = moved(three, "a", learner=learner, engine={"count": 1})
    assert ranks == [("b", 0), ("c", 0), ("c", 1)]
    assert found.backends == ["broadcast"]
    found, ranks = moved(three, "a", learner={"processes": 1}, engine={"count": 1, "gpu": 0})
    assert (ranks, found.backends) == ([("b", 0)], ["broadcast"]), "it had mapped the memory of a rank on a"
    found, ranks = moved(three, "c", learner={"processes": 4, "replicas": 2}, engine={"count": 1})
    assert ranks == [("a", 0), ("a", 1), ("b", 0), ("b", 1)], "nothing of it was there"
    with pytest.raises(
        UserError, match=r"^learner.processes=3, and without engine there are 2 GPUs on a and"
    ):
        moved(three, "b", learner=learner, engine={"count": 3})


def test_a_learner_without_a_host_gets_the_cpus_of_those_that_have_the_least_to_do():
    hosts = Inventory(tuple(host([], name, cores=4) for name in "abcd"))
    found, ranks = moved(hosts, "b", learner={"processes": 3}, engine={"count": 1})
    assert engines(found) == [()]
    assert ranks == [("a", -1), ("a", -1), ("c", -1)]
    assert [rank.threads for rank in found.ranks] == [1, 1, 2]
    with pytest.raises(UserError, match=r"^learner.processes=1, and no other host is left; add a host$"):
        moved(Inventory((host([], "a"),)), "a")


def test_devices_of_different_size_are_divided_each_by_its_own():
    found = divided(machine(H100, 24, 141), rollout={"max_concurrent": 2048})
    learner, small, large = found.memory
    assert (learner.engine, small.learner, large.learner) == (0, 0, 0)
    assert small.cache < large.cache
    for part in found.memory:
        assert part.free >= 0.1 * part.device.nbytes - 1
    with pytest.raises(UserError, match=r"the learner needs .* of the 24\.0 GiB of its GPU"):
        divided(machine(24, H100))


def test_tensor_parallel_engines_have_neighbors_of_one_host():
    assert engines(placed(machine(*[H100] * 8), tensor_parallel=2)) == [(1, 2), (3, 4), (5, 6)]
    assert engines(placed(machine(*[H100] * 3), tensor_parallel=2)) == [(1, 2)]
    assert engines(placed(machine(*[H100] * 2), tensor_parallel=2, learner={"processes": 2})) == [(0, 1)]
    assert engines(placed(TWO_HOSTS, False, tensor_parallel=2)) == [(0, 1), (0, 1)]
    (one,) = placed(TWO_HOSTS, tensor_parallel=2).engines
    assert (one.host, one.colocated, one.backend) == ("b", False, "broadcast")


def test_an_engine_that_is_too_large_for_one_host_has_as_many_gpus_on_each_of_several():
    def names(devices: tuple[Device, ...]) -> list[str]:
        return [f"{device.host}{device.index}" for device in devices]

    three = Inventory((*TWO_HOSTS.hosts, host([H100] * 2, "c")))
    [spread] = placed(three, tensor_parallel=4).engines
    assert spread.hosts == ("b", "c")
    assert names(spread.devices) == ["b0", "b1", "c0", "c1"]
    assert spread.visible_on("c") == "0,1"
    assert (spread.backend, spread.colocated) == ("broadcast", False)
    assert [engine.hosts for engine in placed(three, False, tensor_parallel=6).engines] == [("a", "b", "c")]
    assert [engine.hosts for engine in placed(three, tensor_parallel=3).engines] == [("a", "b", "c")]
    assert [engine.hosts for engine in placed(three, tensor_parallel=2).engines] == [("b",), ("c",)]
    with pytest.raises(UserError, match="does not fit"):  # its workers would need the learner's first GPU
        placed(TWO_HOSTS, tensor_parallel=4)


def test_an_engine_on_cpus_has_a_core_for_each_process_of_a_host():
    small = Inventory(tuple(host([], name, cores=1) for name in ("a", "b", "c")))
    [spread] = placed(small, tensor_parallel=2).engines
    assert (spread.hosts, spread.backend) == (("b", "c"), "broadcast")
    assert table(placed(small, tensor_parallel=2), None)[1][1][0] == "engine 0 on b and c, 2 processes"
    large = Inventory(tuple(host([], name, cores=2) for name in ("a", "b", "c")))
    assert [engine.hosts for engine in placed(large, tensor_parallel=2).engines] == [("b",)]
    assert [engine.hosts for engine in placed(machine(cores=1), tensor_parallel=2).engines] == [("one",)]


def test_all_workers_of_an_engine_that_has_the_learners_gpu_map_its_memory():
    alone = placed(machine(*[H100] * 2), tensor_parallel=2, learner={"processes": 2})
    assert alone.backends == ["CUDA IPC"]
    found = placed(machine(*[H100] * 4), tensor_parallel=2, engine={"count": 2})
    assert engines(found) == [(1, 2), (3, 0)]
    assert found.backends == ["broadcast", "CUDA IPC"]
    memory = divided(machine(*[H100] * 2), 2, learner={"processes": 2}).memory
    assert memory[0].learner > memory[1].learner, "the second worker uses the first GPU, too"


def test_engines_that_share_a_gpu_map_the_first_ranks_memory_wherever_it_is():
    found = placed(machine(H100), engine={"count": 2})
    assert (engines(found), found.backends) == ([(0,), (0,)], ["CUDA IPC"] * 2)
    assert [engine.visible_on("one") for engine in found.engines] == ["0", "0"]
    found = placed(machine(H100, H100), engine={"count": 3, "gpu": 1})
    assert engines(found) == [(1,), (1,), (0,)]
    assert found.backends == ["CUDA IPC"] * 3
    assert [engine.visible_on("one") for engine in found.engines] == ["1,0", "1,0", "0"]
    eight = divided(machine(*[H100] * 3), engine={"count": 4, "gpu": 1})
    assert engines(eight) == [(1,), (1,), (2,), (0,)], "GPU 2 has one, which gets a broadcast"
    assert eight.backends == ["CUDA IPC", "CUDA IPC", "broadcast", "CUDA IPC"]
    alone = divided(machine(*[H100] * 3), engine={"count": 2, "gpu": 1})
    assert eight.memory[0].learner - alone.memory[0].learner == pytest.approx(2 * 0.6 * GIB, abs=2)
    assert placed(machine(H100), training=False, engine={"count": 2}).backends == []


def test_a_gpu_of_another_host_is_not_shared():
    found = placed(TWO_HOSTS, engine={"count": 6})
    assert [(engine.host, engine.devices[0].index, engine.backend) for engine in found.engines] == [
        ("a", 1, "CUDA IPC"),
        ("a", 1, "CUDA IPC"),
        ("b", 0, "broadcast"),
        ("b", 1, "broadcast"),
        ("a", 0, "CUDA IPC"),
        ("a", 0, "CUDA IPC"),
    ]


def test_on_a_cpu_an_engine_has_several_processes_on_its_host():
    found = placed(machine(cores=8), tensor_parallel=2, engine={"count": 2})
    assert found.tensor_parallel == 2
    assert [(engine.devices, engine.threads) for engine in found.engines] == [((), 2)] * 2
    assert found.backends == ["shared memory"] * 2
    assert summary(found)[0] == "2 engines of 2 processes"
    assert table(found, None)[1][1][0] == "engine 0 on one, 2 processes"


def test_tensor_parallel_engines_hold_a_part_of_each_token_on_each_gpu():
    narrow, wide = divided(machine(*[H100] * 3), 1), divided(machine(*[H100] * 3), 2)
    assert wide.memory[1].cache_tokens == wide.memory[2].cache_tokens
    assert wide.memory[1].engine < narrow.memory[1].engine
    uneven = divided(machine(H100, 141, 24), 2, rollout={"max_concurrent": 4096})
    assert uneven.memory[1].cache == uneven.memory[2].cache


@pytest.mark.parametrize(
    ("inventory", "tensor_parallel", "settings", "message"),
    [
        (
            machine(*[H100] * 3),
            2,
            {"engine": {"count": 2}},
            r"engine\.count=2, but there are 3 GPUs, and each engine needs 2; set it to 1 or less",
        ),
        (
            machine(*[H100] * 3),
            2,
            {"learner": {"processes": 2}},
            r"of which the learner uses 2, .* set it to 1 or less, or decrease learner\.processes",
        ),
        (machine(*[H100] * 3), 4, {}, "there are 3 GPUs, of which the learner uses 1, .* 2 or less"),
        (TWO_HOSTS, 3, {}, r"engine\.tensor_parallel=3 .* on one host or, .* set it to 2 or less"),
        (machine(H100), 1, {"engine": {"gpu": 1}}, r"engine\.gpu=1, but there is 1 GPU, numbered from 0"),
        (
            machine(*[H100] * 2),
            1,
            {"learner": {"processes": 3}},
            r"learner\.processes=3, but there are 2 GPUs, and each process needs one; set it to 2 or less",
        ),
    ],
)
def test_what_does_not_fit_is_refused_with_what_would(
    inventory: Inventory, tensor_parallel: int, settings: dict[str, Any], message: str
):
    with pytest.raises(UserError, match=message) as refused:
        placed(inventory, tensor_parallel=tensor_parallel, **settings)
    assert "\n" not in str(refused.value)


@given(
    st.lists(st.lists(st.floats(24, 192), max_size=8), min_size=1, max_size=3),
    st.integers(1, 8),
    st.none() | st.integers(1, 24),
    st.none() | st.integers(0, 24),
    st.booleans(),
    st.integers(1, 4),
)
def test_no_gpu_has_two_ranks_of_the_learner_or_of_a_broadcast(
    sizes: list[list[float]],
    processes: int,
    count: int | None,
    first: int | None,
    training: bool,
    tensor_parallel: int,
):
    inventory = Inventory(tuple(host(each, f"host-{n}") for n, each in enumerate(sizes)))
    try:
        found = placed(
            inventory,
            training,
            tensor_parallel,
            engine={"count": count, "gpu": first},
            learner={"processes": processes},
        )
    except UserError:
        return
    assert len(found.ranks) == (processes if training else 0)
    assert len(found.engines) == count or count is None
    ranked = [rank.device for rank in found.ranks if rank.device is not None]
    assert len(set(ranked)) == len(ranked)
    for engine in found.engines if inventory.devices and training else ():
        shared = [found.engines_on(device) for device in engine.devices]
        if engine.backend == "broadcast":  # NCCL has no two ranks on one GPU
            assert ranked[0] not in engine.devices
            assert shared == [[engine]] * tensor_parallel
        else:
            assert ranked[0] in (engine.mapped, *engine.devices)
            assert tensor_parallel == 1 or shared == [[engine]] * tensor_parallel
    for engine in found.engines if inventory.devices else ():
        assert len(engine.devices) == tensor_parallel
        of_hosts = [device.host for device in engine.devices]
        assert tuple(dict.fromkeys(of_hosts)) == engine.hosts
        assert len({of_hosts.count(name) for name in engine.hosts}) == 1
        assert not engine.others or max(len(each) for each in sizes) < tensor_parallel


def test_a_placement_is_shown_as_a_table():
    rows = table(divided(machine(H100, H100, H100), engine={"count": 1}), None)[1]
    assert [row[0] for row in rows] == ["0: 79.6 GiB", "1: 79.6 GiB", "2: 79.6 GiB"]
    assert rows[0][1].startswith("0: ")
    assert rows[1][2:4] == ("0: 4.6", "broadcast")
    assert rows[1][4].endswith(" (524,304)")
    assert rows[2][1:] == ("", "", "", "", "79.6")
    by_hand = table(placed(machine(H100), engine={"memory": 0.2}), 0.2)
    assert by_hand[1] == [("0: 79.6 GiB", "0", "0", "CUDA IPC", "20% of the GPU", "")]
    sixteen = Inventory((host(EIGHT, "a"), host(EIGHT, "b")))
    rows = table(divided(sixteen, learner={"processes": 16, "replicas": 2}, engine={"gpu": 7}), None)[1]
    names = ["a:0-6", "a:7", "b:0-7"]
    assert [row[0] for row in rows] == [f"{name}: 79.6 GiB" for name in names], "equal ones share a row"
    assert [row[1].split(":")[0] for row in rows] == ["0-6", "7", "8-15"]
    assert [row[2].split(":")[0] for row in rows] == ["", "0", ""]
    rows = table(placed(sixteen, tensor_parallel=2, learner={"processes": 8}), None)[1]
    assert rows == [
        ("a:0-7: 79.6 GiB", "0-7", "", "", "", ""),
        ("b:0-7: 79.6 GiB", "", "0-3", "broadcast", "", ""),
    ]
    cpu = "\n".join(lines(*table(placed(machine(cores=4), engine={"count": 2}), None)))
    assert "learner 0 on one" in cpu
    assert "engine 1 on one" in cpu
    assert "shared memory" in cpu
    wide = summary(placed(machine(*[H100] * 5), tensor_parallel=2))
    assert wide == ["2 engines of 2 GPUs, on the GPUs 1-4"]
    hosts = summary(divided(DRIVER_WITHOUT_GPU))
    assert hosts[0] == "2 engines, on the GPUs a:1, b:0"
    assert hosts[1].startswith("GPU a:0 of 79.6 GiB: learner ")
    assert "; GPUs a:1, b:0 of 79.6 GiB: engine " in hosts[1]


def test_this_machine_has_cores_and_each_of_its_gpus_a_name_of_its_own():
    (here,) = probe().hosts
    assert here.cores >= 1
    assert len({device.uuid for device in here.devices}) == len(here.devices)
    assert all(device.nbytes > GIB and device.visible for device in here.devices)
    assert probe("cpu").devices == ()


@pytest.mark.parametrize(
    ("shown", "names"),
    [
        (None, ["0", "1"]),
        ("4,6", ["4", "6"]),
        ("GPU-a,GPU-b", ["GPU-a", "GPU-b"]),
        ("2,1,no-such", ["2", "1"]),
    ],
)
def test_a_gpu_keeps_the_name_by_which_this_process_is_shown_it(shown: str | None, names: list[str]):
    assert visible_names(shown, 2) == names


QUESTIONS = {"is_available", "device_count", "get_device_properties", "get_device_name", "mem_get_info"}
ALLOWED = {
    "areal/weights/cuda_ipc.py": "an engine checks that the memory it maps is on the GPU that it really has",
    "areal/workers/ray_actor.py": "workers on a host see the GPUs that Ray gave there, in order of number",
    "areal/learner/flops.py": "the peak is of the GPU on which the learner really computes",
}


def asks(source: str) -> bool:
    """Whether a program asks torch or the environment for devices."""
    for node in ast.walk(ast.parse(source)):
        if (
            isinstance(node, ast.Attribute)
            and node.attr in QUESTIONS
            and ast.unparse(node.value).endswith("cuda")
        ):
            return True
        if isinstance(node, (ast.Subscript, ast.Call)) and all(
            word in ast.unparse(node) for word in ("environ", "CUDA_VISIBLE_DEVICES")
        ):
            return True
    return False


def test_only_the_inventory_asks_which_devices_there_are():
    assert asks('import os\nos.environ.get("CUDA_VISIBLE_DEVICES")')
    assert asks("import torch\ntorch.cuda.device_count()")
    root = Path(__file__).parents[2]
    folders = ("areal", "envs", "agents", "rewards", "sandbox")
    product = [path for folder in folders for path in (root / folder).rglob("*.py")]
    found = {str(path.relative_to(root)) for path in product if asks(path.read_text(encoding="utf-8"))}
    assert found == {"areal/placement/inventory.py", *ALLOWED}
