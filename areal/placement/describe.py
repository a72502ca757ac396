"""A placement for the terminal: who is on which device, with how much memory for what."""

from __future__ import annotations

from areal.placement.inventory import Device
from areal.placement.memory import GIB, DeviceMemory
from areal.placement.placement import Placement

Table = tuple[tuple[str, ...], list[tuple[str, ...]]]
"""Names of the columns, and rows."""


def summary(placement: Placement) -> list[str]:
    """Return a few lines: where several engines are, and how memory is divided, equal GPUs together."""
    lines = []
    if len(placement.engines) > 1:
        devices = [_name(placement, device) for engine in placement.engines for device in engine.devices]
        where = f", on the GPUs {', '.join(devices)}" if devices else ""
        lines.append(f"{len(placement.engines)} engines{where}")
    alike: dict[str, list[str]] = {}
    for part in placement.memory:
        alike.setdefault(str(part), []).append(_name(placement, part.device))
    parts = [
        f"GPU {names[0]} of {part}" if len(names) == 1 else f"GPUs {', '.join(names)} of {part}"
        for part, names in alike.items()
    ]
    return [*lines, "; ".join(parts)] if parts else lines


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
    engines = [
        (
            f"engine {number} on {engine.host}",
            str(engine.threads),
            engine.backend or "",
            f"{cache or 1:g} GiB",
        )
        for number, engine in enumerate(placement.engines)
    ]
    return ("process", "CPU threads", "weights by", "KV cache"), [*ranks, *engines]


def _of_gpus(placement: Placement, cache: float | None) -> Table:
    memory = {part.device: part for part in placement.memory}
    rows = [_row(placement, device, memory.get(device), cache) for device in placement.inventory.devices]
    return ("GPU", "learner", "engine", "weights by", "KV cache (tokens)", "free"), rows


def _row(
    placement: Placement, device: Device, part: DeviceMemory | None, cache: float | None
) -> tuple[str, ...]:
    gpu = f"{_name(placement, device)}: {device.nbytes / GIB:.1f} GiB"
    rank = next((str(n) for n, rank in enumerate(placement.ranks) if rank.device == device), "")
    engine = next((str(n) for n, engine in enumerate(placement.engines) if device in engine.devices), "")
    backend = placement.engines[int(engine)].backend or "" if engine else ""
    if part is None:
        share = f"{cache:.0%} of the GPU" if engine and cache is not None else ""
        return gpu, rank, engine, backend, share, "" if rank or engine else f"{device.nbytes / GIB:.1f}"
    rank += f": {part.learner / GIB:.1f}" if rank else ""
    engine += f": {part.engine / GIB:.1f}" if engine else ""
    kept = f"{part.cache / GIB:.1f} ({part.cache_tokens:,})" if engine else ""
    return gpu, rank, engine, backend, kept, f"{part.free / GIB:.1f}"


def _name(placement: Placement, device: Device) -> str:
    several = len(placement.inventory.hosts) > 1
    return f"{device.host}:{device.index}" if several else str(device.index)
