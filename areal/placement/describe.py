"""Describes a placement for the terminal: the processes on each device, and the division of its memory."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from areal.placement.inventory import Device
from areal.placement.memory import GIB, DeviceMemory
from areal.placement.placement import Placement

Table = tuple[tuple[str, ...], list[tuple[str, ...]]]
"""Names of the columns, and rows."""


def summary(placement: Placement) -> list[str]:
    """Return a few lines: the places of replicas and engines, and the memory, with equal GPUs together."""
    lines = []
    if placement.replicas > 1:
        lines.append(f"learner: {'; '.join(_replicas(placement))}")
    engines, size = placement.engines, placement.tensor_parallel
    if len(engines) > 1 or size > 1:
        devices = list(dict.fromkeys(device for engine in engines for device in engine.devices))
        each = "" if size == 1 else f" of {size} {'GPUs' if devices else 'processes'}"
        where = f", on the {_names(placement, devices)}" if devices else ""
        lines.append(f"{len(engines)} engine{'s' * (len(engines) > 1)}{each}{where}")
    alike: dict[str, list[Device]] = {}
    for part in placement.memory:
        alike.setdefault(str(part), []).append(part.device)
    parts = [f"{_names(placement, devices)} of {part}" for part, devices in alike.items()]
    return [*lines, "; ".join(parts)] if parts else lines


def _replicas(placement: Placement) -> list[str]:
    """Describe the place of each replica; one on several hosts waits for the network at every layer."""
    ranks, found = placement.ranks, []
    size = len(ranks) // placement.replicas
    for number in range(placement.replicas):
        hosts = dict.fromkeys(rank.host for rank in ranks[number * size : (number + 1) * size])
        found.append(f"replica {number} on {' and '.join(hosts)}")
    return found


def table(placement: Placement, cache: float | None) -> Table:
    """Return a row for each GPU or, on CPUs, for each process.

    Args:
        cache: the setting ``engine.memory``.
    """
    return _of_processes(placement, cache) if placement.device_type == "cpu" else _of_gpus(placement, cache)


def _of_processes(placement: Placement, cache: float | None) -> Table:
    ranks = [
        (f"learner {number} on {rank.host}", str(rank.threads), "", "")
        for number, rank in enumerate(placement.ranks)
    ]
    parts = f", {placement.tensor_parallel} processes" if placement.tensor_parallel > 1 else ""
    engines = [
        (
            f"engine {number} on {' and '.join(engine.hosts)}{parts}",
            str(engine.threads),
            engine.backend or "",
            f"{cache or 1:g} GiB",
        )
        for number, engine in enumerate(placement.engines)
    ]
    return ("process", "CPU threads", "weights by", "KV cache"), [*ranks, *engines]


def _of_gpus(placement: Placement, cache: float | None) -> Table:
    memory = {part.device: part for part in placement.memory}
    uses = [
        _use(placement, device, memory.get(device), cache, position)
        for position, device in enumerate(placement.inventory.devices)
    ]
    runs = [list(run) for _, run in itertools.groupby(uses, key=lambda use: use.alike)]
    rows = [_row(placement, run[0], run[-1]) for run in runs]
    return ("GPU", "learner", "engine", "weights by", "KV cache (tokens)", "free"), rows


@dataclass(frozen=True, slots=True)
class _Use:
    """The use of a GPU.

    Attributes:
        rank: rank of the learner on it.
        engines: the first and the last engine on it; they are consecutive.
        cells: the other cells of the table: of the rank, of the engine and of the rest.
        alike: equal for consecutive GPUs that can share a row.
    """

    device: Device
    rank: int | None
    engines: tuple[int, int] | None
    cells: tuple[str, ...]
    alike: tuple[object, ...]


def _use(
    placement: Placement, device: Device, part: DeviceMemory | None, cache: float | None, position: int
) -> _Use:
    rank = next((n for n, rank in enumerate(placement.ranks) if rank.device == device), None)
    numbers = [number for number, engine in enumerate(placement.engines) if device in engine.devices]
    engines, backend, slot, times = None, "", None, ""
    if numbers:
        devices, backend = placement.engines[numbers[0]].devices, placement.engines[numbers[0]].backend or ""
        engines, times = (numbers[0], numbers[-1]), f"{len(numbers)} × " if len(numbers) > 1 else ""
        slot = numbers[0] * len(devices) + devices.index(device) - position * len(numbers)
    if part is not None:
        kept = f"{times}{part.cache / GIB:.1f} ({part.cache_tokens:,})" if numbers else ""
        sizes = f": {part.learner / GIB:.1f}", f": {times}{part.engine / GIB:.1f}"
        cells = (*sizes, backend, kept, f"{part.free / GIB:.1f}")
    else:
        share = f"{cache:.0%} of the GPU" if numbers and cache is not None else ""
        free = f"{device.nbytes / GIB:.1f}" if rank is None and not numbers else ""
        cells = ("", "", backend, share, free)
    number = None if rank is None else rank - position
    where = (device.host, device.index - position, device.nbytes, number, slot)
    return _Use(device, rank, engines, cells, (*where, *cells))


def _row(placement: Placement, first: _Use, last: _Use) -> tuple[str, ...]:
    """Return the row of consecutive GPUs with the same use."""
    gpu = f"{_name(placement, first.device, last.device)}: {first.device.nbytes / GIB:.1f} GiB"
    rank = "" if first.rank is None else _span(first.rank, last.rank) + first.cells[0]
    engine = ""
    if first.engines is not None and last.engines is not None:
        engine = _span(first.engines[0], last.engines[1]) + first.cells[1]
    return gpu, rank, engine, *first.cells[2:]


def _names(placement: Placement, devices: Sequence[Device]) -> str:
    """Name GPUs in their order; three or more consecutive ones by the first and the last."""
    runs: list[list[Device]] = []
    for device in devices:
        if runs and (device.host, device.index) == (runs[-1][-1].host, runs[-1][-1].index + 1):
            runs[-1].append(device)
        else:
            runs.append([device])
    names: list[str] = []
    for run in runs:
        alone = [_name(placement, device, device) for device in run]
        names += alone if len(run) < 3 else [_name(placement, run[0], run[-1])]
    return f"{'GPU' if len(devices) == 1 else 'GPUs'} {', '.join(names)}"


def _name(placement: Placement, first: Device, last: Device) -> str:
    numbers = _span(first.index, last.index)
    return f"{first.host}:{numbers}" if len(placement.inventory.hosts) > 1 else numbers


def _span(first: int | None, last: int | None) -> str:
    return f"{first}" if first == last else f"{first}-{last}"
