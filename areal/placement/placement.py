"""Who runs where: the devices and CPU threads of each rank of the learner and of each engine.

The learner has the first GPUs, one for each rank. Engines have those that follow, in a circle: first those
that the learner leaves, then its own. On CPUs hosts take the place of GPUs, and any number of processes share
one: the engines get half of its cores and the learner the other half, so that they never fight for one.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

from areal.config import Config
from areal.errors import UserError
from areal.placement.inventory import Device, Inventory
from areal.placement.memory import DeviceMemory, Shape, Workload, divide
from areal.weights.interface import TransferBackend


@dataclass(frozen=True, slots=True)
class RankPlacement:
    """Where a rank of the learner is: its host, its GPU (None: on the CPU) and its CPU threads."""

    host: str
    device: Device | None
    threads: int


@dataclass(frozen=True, slots=True)
class EnginePlacement:
    """Where an engine is.

    Attributes:
        devices: its GPUs, several of one host for tensor parallelism; none on a CPU.
        colocated: whether a rank of the learner has one of its GPUs or, on a CPU, its host.
        backend: how the learner's weights reach it; None: there is no learner.
    """

    host: str
    devices: tuple[Device, ...]
    threads: int
    colocated: bool
    backend: TransferBackend | None


@dataclass(frozen=True, slots=True)
class Placement:
    """Who runs where.

    Attributes:
        device_type: ``cpu`` or ``cuda``.
        ranks: of the learner, in order; none: there is no learner.
        memory: how each GPU in use is divided; empty on a CPU, and where the user gave ``engine.memory``.
    """

    device_type: str
    inventory: Inventory
    ranks: tuple[RankPlacement, ...]
    engines: tuple[EnginePlacement, ...]
    memory: tuple[DeviceMemory, ...] = ()

    @property
    def backends(self) -> list[TransferBackend]:
        """The weight-transfer backend of each engine; there must be a learner."""
        return [engine.backend for engine in self.engines if engine.backend is not None]

    def memory_of(self, engine: EnginePlacement) -> DeviceMemory | None:
        """Return how the first GPU of an engine is divided, if that was planned."""
        return next((part for part in self.memory if part.device in engine.devices), None)

    def with_memory(self, shape: Shape, work: Workload) -> Placement:
        """Return this with the memory of its GPUs divided; raises UserError if something does not fit."""
        ranked = {rank.device for rank in self.ranks}
        engine_of = {device: engine for engine in self.engines for device in engine.devices}
        parts = {
            device: divide(
                device,
                shape,
                work,
                learner=device in ranked,
                engine=device in engine_of,
                snapshot=device in engine_of and engine_of[device].backend == "broadcast",
            )
            for device in self.inventory.devices
            if device in ranked or device in engine_of
        }
        for engine in self.engines:  # each of its GPUs has a part of every token
            least = min((parts[device] for device in engine.devices), key=lambda part: part.cache)
            for device in engine.devices:
                parts[device] = replace(parts[device], cache=least.cache, cache_tokens=least.cache_tokens)
        return replace(self, memory=tuple(parts.values()))


def place(inventory: Inventory, config: Config, training: bool = True, tensor_parallel: int = 1) -> Placement:
    """Decide who runs where.

    Args:
        config: of the run, whose device, engine.count, engine.gpu, engine.threads, learner.processes and
            learner.threads count.
        training: whether there is a learner, beside the engines.
        tensor_parallel: GPUs of each engine, all on one host.

    Raises:
        UserError: there are not as many devices; the message says what would fit.
    """
    device_type, devices = inventory.device_type(config.device), inventory.devices
    processes = config.learner.processes if training else 0
    of_ranks: list[tuple[str, Device | None]]
    of_engines: list[tuple[str, tuple[Device, ...]]]
    if device_type == "cpu":
        hosts = itertools.cycle(host.name for host in inventory.hosts)
        of_ranks = [(next(hosts), None) for _ in range(processes)]
        of_engines = [(next(hosts), ()) for _ in range(config.engine.count or 1)]
    else:
        if processes > len(devices):
            raise UserError(
                f"learner.processes={processes}, but there {_gpus(len(devices))}, and each process needs "
                f"one: set it to {len(devices)} or less"
            )
        groups = _engine_devices(devices, config.engine.count, config.engine.gpu, processes, tensor_parallel)
        of_ranks = [(device.host, device) for device in devices[:processes]]
        of_engines = [(group[0].host, group) for group in groups]
    threads = _threads(inventory, config, [host for host, _ in of_ranks], [host for host, _ in of_engines])
    ranks = tuple(RankPlacement(host, device, threads[host][0]) for host, device in of_ranks)
    engines = tuple(
        EnginePlacement(host, group, threads[host][1], _colocated(ranks, host, group), backend)
        for (host, group), backend in zip(of_engines, _backends(ranks, of_engines), strict=True)
    )
    return Placement(device_type, inventory, ranks, engines)


def _engine_devices(
    devices: Sequence[Device], count: int | None, first: int | None, learners: int, size: int
) -> list[tuple[Device, ...]]:
    """Return the GPUs of each engine.

    Args:
        devices: all there are, the learner's first.
        count: ``engine.count``.
        first: ``engine.gpu``.
        learners: how many are the learner's.
        size: GPUs of each engine.
    """
    if first is not None and first >= len(devices):
        raise UserError(
            f"engine.gpu={first}, but there {_gpus(len(devices))}, counted from 0; give another or leave it "
            "out"
        )
    start = first if first is not None else learners % len(devices)
    groups = _groups([*devices[start:], *devices[:start]], size)
    free = [group for group in groups if set(group).isdisjoint(devices[:learners])]
    if not groups or (count is None and first is None and not free and learners < len(devices)):
        taken = f", of which the learner has {learners}" if learners else ""
        fewer = ", or lower learner.processes" if learners > 1 else ""
        raise UserError(
            f"an engine of {size} GPUs finds no room: there {_gpus(len(devices))}{taken}, and all of an "
            "engine's must be on one host; give an engine "
            f"{_largest(devices[learners:]) or _largest(devices)} or less{fewer}"
        )
    if count is None:
        count = max(1, len(free)) if first is None else 1
    if count > len(groups):
        raise UserError(
            f"engine.count={count}, but there {_gpus(len(devices))}, and each engine needs "
            f"{'one' if size == 1 else size}: set it to {len(groups)} or less"
        )
    return groups[:count]


def _groups(devices: Sequence[Device], size: int) -> list[tuple[Device, ...]]:
    """Return groups of GPUs that follow each other on one host; what is left over belongs to none."""
    groups = []
    for _, of_host in itertools.groupby(devices, key=lambda device: device.host):
        run = list(of_host)
        groups += [tuple(run[at : at + size]) for at in range(0, len(run) - size + 1, size)]
    return groups


def _largest(devices: Sequence[Device]) -> int:
    """Return how many GPUs the host with the most has."""
    hosts = [device.host for device in devices]
    return max(map(hosts.count, hosts), default=0)


def _threads(
    inventory: Inventory, config: Config, of_ranks: list[str], of_engines: list[str]
) -> dict[str, tuple[int, int]]:
    """Return the CPU threads of a rank and of an engine, by host; the hosts of all are given."""
    found = {}
    for host in inventory.hosts:
        engines = config.engine.threads or max(1, host.cores // 2)
        learner = config.learner.threads or host.cores - engines
        ranks, count = max(1, of_ranks.count(host.name)), max(1, of_engines.count(host.name))
        found[host.name] = max(1, learner // ranks), max(1, engines // count)
    return found


def _colocated(ranks: Sequence[RankPlacement], host: str, group: tuple[Device, ...]) -> bool:
    return any(rank.device in group if rank.device else rank.host == host for rank in ranks)


def _backends(
    ranks: Sequence[RankPlacement], engines: Sequence[tuple[str, tuple[Device, ...]]]
) -> list[TransferBackend | None]:
    """Return how the weights of the first rank reach each engine."""
    if not ranks:
        return [None for _ in engines]
    first = ranks[0]
    if first.device is not None:
        return ["CUDA IPC" if group == (first.device,) else "broadcast" for _, group in engines]
    shared = all(host == first.host for host, _ in engines)
    return ["shared memory" if shared else "broadcast" for _ in engines]


def _gpus(count: int) -> str:
    return f"is {count} GPU" if count == 1 else f"are {count} GPUs"
