"""Assigns devices and CPU threads to each rank of the learner and to each engine.

The learner has the first GPUs, one for each rank; if the hosts have enough GPUs, a replica has GPUs of one
host. Engines have the following GPUs, in a circle: first those without a rank, then the learner's. Engines
share a GPU if that is faster (areal.placement.sharing). On CPUs, hosts take the place of GPUs, and any number
of processes share one; the engines get half of its cores and the learner the other half, so that they never
compete for a core.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace

from areal.config import Config
from areal.config.settings import EngineConfig
from areal.errors import UserError
from areal.placement.inventory import Device, Inventory
from areal.placement.memory import DeviceMemory, Shape, Workload, divide
from areal.placement.sharing import EngineLoad, engines_per_gpu
from areal.placement.spread import next_hosts, spread_groups
from areal.weights.interface import TransferBackend

_FP8 = (8, 9)
"""The lowest compute capability of GPUs that multiply in FP8."""


@dataclass(frozen=True, slots=True)
class RankPlacement:
    """The place of a rank of the learner: its host, its GPU (None: on the CPU) and its CPU threads."""

    host: str
    device: Device | None
    threads: int


@dataclass(frozen=True, slots=True)
class EnginePlacement:
    """The place of an engine.

    Attributes:
        host: host of its scheduler, and of its first workers.
        devices: its GPUs, several for tensor parallelism, those of one host consecutively; none on a CPU.
        threads: number of its threads on one host.
        colocated: whether a rank of the learner has one of its GPUs or, on a CPU, its host.
        backend: backend that transfers the learner's weights to it; None: there is no learner.
        others: hosts of its other workers, if it is too large for one host; each has the same number.
        mapped: GPU of the learner's first rank, if the engine maps the weights there and has other GPUs.
    """

    host: str
    devices: tuple[Device, ...]
    threads: int
    colocated: bool
    backend: TransferBackend | None
    others: tuple[str, ...] = ()
    mapped: Device | None = None

    @property
    def hosts(self) -> tuple[str, ...]:
        """All hosts of the engine, that of its scheduler first."""
        return self.host, *self.others

    def visible_on(self, host: str) -> str:
        """Return CUDA_VISIBLE_DEVICES of its workers on one of its hosts, their own GPUs first."""
        seen = [*self.devices, *([self.mapped] if self.mapped else [])]
        return ",".join(device.visible for device in seen if device.host == host)


@dataclass(frozen=True, slots=True)
class Placement:
    """The places of all processes of a run.

    Attributes:
        device_type: ``cpu`` or ``cuda``.
        ranks: ranks of the learner, in order; empty: there is no learner.
        replicas: number of copies of the learner's state, each on the same number of consecutive ranks.
        tensor_parallel: number of worker processes of each engine; each has one GPU, if there are any.
        memory: division of each GPU in use; empty on a CPU, and if the user sets ``engine.memory``.
    """

    device_type: str
    inventory: Inventory
    ranks: tuple[RankPlacement, ...]
    engines: tuple[EnginePlacement, ...]
    replicas: int = 1
    tensor_parallel: int = 1
    memory: tuple[DeviceMemory, ...] = ()

    @property
    def backends(self) -> list[TransferBackend]:
        """The weight-transfer backend of each engine; requires a learner."""
        return [engine.backend for engine in self.engines if engine.backend is not None]

    @property
    def rollout_hosts(self) -> list[str]:
        """Hosts for separate processes of rollout workers: those without a GPU, if there are any."""
        without = [host.name for host in self.inventory.hosts if not host.devices]
        return without or [host.name for host in self.inventory.hosts]

    def engines_on(self, device: Device) -> list[EnginePlacement]:
        """Return the engines on a GPU, which may share it."""
        return [engine for engine in self.engines if device in engine.devices]

    def memory_of(self, engine: EnginePlacement) -> DeviceMemory | None:
        """Return the division of an engine's first GPU, if it is planned."""
        return next((part for part in self.memory if part.device in engine.devices), None)

    def with_memory(self, shape: Shape, work: Workload) -> Placement:
        """Return a copy with the memory of its GPUs divided; raises UserError if something does not fit."""
        ranked = {rank.device for rank in self.ranks}
        first = self.ranks[0].device if self.ranks else None
        on = {device: self.engines_on(device) for device in self.inventory.devices}
        mapping = sum(engine.mapped == first for engine in self.engines) if first else 0
        parts = {
            device: divide(
                device,
                shape,
                work,
                learner=device in ranked,
                engines=len(on[device]),
                snapshot=any(engine.backend == "broadcast" for engine in on[device]),
                # Each process that maps memory of this GPU has a context on it.
                mapping=mapping + len(on[device]) * (work.tensor_parallel - 1) if device == first else 0,
            )
            for device in self.inventory.devices
            if device in ranked or on[device]
        }
        for engine in self.engines:  # each of its GPUs holds a part of every token
            least = min((parts[device] for device in engine.devices), key=lambda part: part.cache)
            for device in engine.devices:
                parts[device] = replace(parts[device], cache=least.cache, cache_tokens=least.cache_tokens)
        return replace(self, memory=tuple(parts.values()))


def place(
    inventory: Inventory, config: Config, training: bool = True, load: EngineLoad | None = None
) -> Placement:
    """Decide the places of all processes.

    Args:
        config: configuration of the run; uses device, engine.count, engine.tensor_parallel, engine.gpu,
            engine.threads, learner.processes and learner.threads.
        training: whether there is a learner in addition to the engines.
        load: load of the engines, which determines how many share a GPU; None: none do unless
            ``engine.count`` requires it.

    Raises:
        UserError: there are not enough devices; the message suggests what would fit.
    """
    device_type, devices = inventory.device_type(config.device), list(inventory.devices)
    processes = config.learner.processes if training else 0
    of_ranks: list[tuple[str, Device | None]]
    of_engines: list[tuple[tuple[str, ...], tuple[Device, ...]]]
    if device_type == "cpu":
        hosts = itertools.cycle(host.name for host in inventory.hosts)
        of_ranks = [(next(hosts), None) for _ in range(processes)]
        order = [host.name for host in inventory.hosts]  # ranks of one host are consecutive
        of_ranks.sort(key=lambda rank: order.index(rank[0]))
        workers = config.engine.tensor_parallel
        of_engines = [
            (next_hosts(inventory.hosts, hosts, workers), ()) for _ in range(config.engine.count or 1)
        ]
    else:
        if processes > len(devices):
            raise UserError(
                f"learner.processes={processes}, but there {_gpus(len(devices))}, and each process needs "
                f"one; set it to {len(devices)} or less"
            )
        devices = _learner_first(devices, processes, config.learner.replicas)
        groups = _engine_devices(inventory, devices, config.engine, processes, load)
        of_ranks = [(device.host, device) for device in devices[:processes]]
        of_engines = [(tuple(dict.fromkeys(device.host for device in group)), group) for group in groups]
    taken = [host for hosts, _ in of_engines for host in hosts]
    threads = _threads(inventory, config, [host for host, _ in of_ranks], taken)
    ranks = tuple(RankPlacement(host, device, threads[host][0]) for host, device in of_ranks)
    engines = tuple(
        _reached(
            ranks, hosts, group, min(threads[host][1] for host in hosts), of_engines.count((hosts, group))
        )
        for hosts, group in of_engines
    )
    _check_quantization(config, device_type, [device for engine in engines for device in engine.devices])
    replicas = config.learner.replicas if training else 1
    return Placement(device_type, inventory, ranks, engines, replicas, config.engine.tensor_parallel)


def _check_quantization(config: Config, device_type: str, devices: Iterable[Device]) -> None:
    """Raise a UserError if engines would not compute in FP8."""
    if (wanted := config.engine.quantization) is None:
        return
    if device_type == "cpu":
        raise UserError(f"engine.quantization={wanted} needs a GPU; remove it on a CPU")
    for device in devices:
        if device.capability < _FP8:
            found = ".".join(map(str, device.capability))
            raise UserError(
                f"engine.quantization={wanted} needs GPUs of compute capability 8.9 or more (Ada, Hopper or "
                f"later); GPU {device.index} of {device.host} ({device.model}) has {found}; remove it"
            )


def _learner_first(devices: Sequence[Device], processes: int, replicas: int) -> list[Device]:
    """Return all GPUs, those of the learner's ranks first; each replica is on one host, if possible."""
    on_one_host = _groups(devices, processes // replicas)[:replicas] if replicas > 1 and processes else []
    if len(on_one_host) < replicas:
        return list(devices)
    ranked = list(itertools.chain(*on_one_host))
    return [*ranked, *(device for device in devices if device not in ranked)]


def place_another(
    placement: Placement, config: Config, host: str | None = None, without: Collection[str] = ()
) -> EnginePlacement:
    """Decide the place of one more engine of a run: free GPUs, or the CPU host with the fewest processes.

    Args:
        placement: the current placement.
        config: configuration of the run.
        host: required host; None: any.
        without: excluded hosts.

    Raises:
        UserError: no GPU is free, or not enough on one host for an engine; or no host is left.
    """
    inventory, ranks, engines = placement.inventory, placement.ranks, placement.engines
    usable = [each for each in inventory.hosts if each.name not in without and host in (None, each.name)]
    if not usable:
        where = host or "each host"
        raise UserError(f"no room for another engine: {where} is gone, or is about to leave")
    group: tuple[Device, ...] = ()
    if placement.device_type == "cpu":
        taken = [rank.host for rank in ranks] + [engine.host for engine in engines]
        where = min((each.name for each in usable), key=taken.count)
    else:
        used = {rank.device for rank in ranks} | {device for engine in engines for device in engine.devices}
        free = [device for each in usable for device in each.devices if device not in used]
        groups = _groups(free, placement.tensor_parallel)
        if not groups:
            raise UserError(
                f"no room for another engine: {len(free)} of {len(inventory.devices)} GPUs are free, and it "
                f"needs {placement.tensor_parallel} on one host; remove an engine first"
            )
        group = groups[0]
        where = group[0].host
    _check_quantization(config, placement.device_type, group)
    hosts = [engine.host for engine in engines] + [where]
    threads = _threads(inventory, config, [rank.host for rank in ranks], hosts)[where][1]
    return _reached(ranks, (where,), group, threads)


def place_learner(placement: Placement, config: Config, without: Collection[str]) -> Placement:
    """Decide the places of the ranks of a learner that is restarted; engines keep their places.

    Ranks on other hosts keep their places. The others get GPUs without an engine or, on CPUs, the hosts with
    the fewest processes.

    Args:
        placement: the current placement.
        config: configuration of the run.
        without: hosts that cannot have a rank.

    Raises:
        UserError: there is no room.
    """
    inventory, ranks, engines = placement.inventory, placement.ranks, placement.engines
    kept = [(rank.host, rank.device) for rank in ranks if rank.host not in without]
    usable = {host.name: host for host in inventory.hosts if host.name not in without}
    names = list(dict.fromkeys([*(host for host, _ in kept), *usable]))  # rank 0 keeps its place if it can
    taken = [host for engine in engines for host in engine.hosts]
    if placement.device_type == "cpu":
        while usable and len(kept) < len(ranks):
            kept.append((min(names, key=(taken + [host for host, _ in kept]).count), None))
        kept.sort(key=lambda rank: names.index(rank[0]))
    else:
        mine = {device for _, device in kept}
        used = {device for engine in engines for device in engine.devices} - mine
        order = [d for name in names for d in sorted(usable[name].devices, key=lambda d: d not in mine)]
        free = [device for device in order if device not in used]
        kept = [(d.host, d) for d in _learner_first(free, len(ranks), placement.replicas)[: len(ranks)]]
    if len(kept) < len(ranks):
        room = "no other host is left"
        if usable and placement.device_type == "cuda":
            room = f"without engine there {_gpus(len(kept))} on {' and '.join(usable)}"
        raise UserError(f"learner.processes={len(ranks)}, and {room}; add a host")
    threads = _threads(inventory, config, [host for host, _ in kept], taken)
    moved = tuple(RankPlacement(host, device, threads[host][0]) for host, device in kept)
    taken_gpus = [engine.devices for engine in engines]
    reached = (
        _reached(moved, engine.hosts, engine.devices, engine.threads, taken_gpus.count(engine.devices))
        for engine in engines
    )
    return replace(placement, ranks=moved, engines=tuple(reached))


def _engine_devices(
    inventory: Inventory,
    devices: Sequence[Device],
    wanted: EngineConfig,
    learners: int,
    load: EngineLoad | None,
) -> list[tuple[Device, ...]]:
    """Return the GPUs of each engine; engines that share one are consecutive.

    Args:
        devices: all GPUs, the learner's first.
        wanted: the settings.
        learners: number of the learner's GPUs.
        load: load of the engines; None: they share no GPU unless there are more engines than GPUs.
    """
    count, first, size = wanted.count, wanted.gpu, wanted.tensor_parallel
    if first is not None and first >= len(devices):
        raise UserError(
            f"engine.gpu={first}, but there {_gpus(len(devices))}, numbered from 0; choose one of them, or "
            "remove the setting"
        )
    start = first if first is not None else learners % len(devices)
    order = [*devices[start:], *devices[:start]]
    if _largest(devices) >= size:
        groups = _groups(order, size)
    else:  # its workers on other hosts could not map the memory of the learner's first GPU
        groups = spread_groups([each for each in order if each not in devices[: min(1, learners)]], size)
    free = [group for group in groups if set(group).isdisjoint(devices[:learners])]
    if not groups or (count is None and first is None and not free and learners < len(devices)):
        taken = f", of which the learner uses {learners}" if learners else ""
        fewer = ", or decrease learner.processes" if learners > 1 else ""
        raise UserError(
            f"engine.tensor_parallel={size} does not fit: there {_gpus(len(devices))}{taken}, and the GPUs "
            "of an engine must be on one host or, if no host has enough, in equal numbers on several; set "
            f"it to {_largest(devices[learners:]) or _largest(devices)} or less{fewer}"
        )
    # Engines on another host could not map the memory of the learner's first GPU.
    near = [group for group in groups if not learners or group[0].host == devices[0].host]
    sharable = near if size == 1 else []
    if count is None:
        chosen = groups[: max(1, len(free))] if first is None else groups[:1]
        shares = _sharing(inventory, devices[0].host, load, len(chosen))
        # Not every machine lets a process map memory of a GPU that is not its own, so this only happens if
        # the user requests more engines than GPUs.
        own = [group for group in sharable if not learners or group == (devices[0],)]
        return [group for group in chosen for _ in range(shares if group in own else 1)]
    chosen = groups[:count]
    if count > len(groups) and not sharable:
        raise UserError(
            f"engine.count={count}, but there {_gpus(len(devices))}, and each engine needs {size}; set it "
            f"to {len(groups)} or less"
        )
    counts = Counter([*chosen, *itertools.islice(itertools.cycle(sharable), count - len(chosen))])
    return [group for group in chosen for _ in range(counts[group])]


def _sharing(inventory: Inventory, host: str, load: EngineLoad | None, gpus: int) -> int:
    """Return the number of engines that share each GPU."""
    if load is None:
        return 1
    [found] = [each for each in inventory.hosts if each.name == host]
    return engines_per_gpu(load, gpus, found.cores / len(found.devices))


def _groups(devices: Sequence[Device], size: int) -> list[tuple[Device, ...]]:
    """Return groups of consecutive GPUs of one host; remaining GPUs belong to no group."""
    groups = []
    for _, of_host in itertools.groupby(devices, key=lambda device: device.host):
        run = list(of_host)
        groups += [tuple(run[at : at + size]) for at in range(0, len(run) - size + 1, size)]
    return groups


def _largest(devices: Sequence[Device]) -> int:
    """Return the number of GPUs of the host with the most."""
    hosts = [device.host for device in devices]
    return max(map(hosts.count, hosts), default=0)


def _threads(
    inventory: Inventory, config: Config, of_ranks: list[str], of_engines: list[str]
) -> dict[str, tuple[int, int]]:
    """Return the CPU threads of a rank and of an engine, by host, given the hosts of all of them."""
    found = {}
    for host in inventory.hosts:
        engines = config.engine.threads or max(1, host.cores // 2)
        learner = config.learner.threads or host.cores - engines
        ranks, count = max(1, of_ranks.count(host.name)), max(1, of_engines.count(host.name))
        found[host.name] = max(1, learner // ranks), max(1, engines // count)
    return found


def _reached(
    ranks: Sequence[RankPlacement],
    hosts: tuple[str, ...],
    devices: tuple[Device, ...],
    threads: int,
    sharing: int = 1,
) -> EnginePlacement:
    """Return the placement of an engine, with the backend that transfers the first rank's weights to it.

    NCCL does not support two ranks on one GPU. An engine that shares its GPU, with the first rank or with
    other engines, therefore maps that rank's memory in all of its workers. Hosts share no memory.
    """
    colocated = any(rank.device in devices if rank.device else rank.host in hosts for rank in ranks)
    backend: TransferBackend | None = "broadcast" if ranks else None
    mapped = None
    if ranks and len(hosts) == 1:
        if (first := ranks[0].device) is None:
            backend = "shared memory" if hosts[0] == ranks[0].host else "broadcast"
        elif first in devices:
            backend = "CUDA IPC"
        elif sharing > 1 and hosts[0] == first.host:
            backend, mapped = "CUDA IPC", first
    return EnginePlacement(hosts[0], devices, threads, colocated, backend, hosts[1:], mapped)


def _gpus(count: int) -> str:
    return f"is {count} GPU" if count == 1 else f"are {count} GPUs"
