"""Inventories for tests: hosts with GPUs of given sizes."""

from __future__ import annotations

from collections.abc import Sequence

from areal.placement.inventory import Device, Host, Inventory

GIB = 2**30
H100 = 79.6


def gpu(gib: float = H100, index: int = 0, host: str = "one", capability: tuple[int, int] = (9, 0)) -> Device:
    uuid, model = f"{host}-{index}", "NVIDIA H100 80GB HBM3"
    return Device(host, index, uuid, int(gib * GIB), str(index), model, capability)


def host(sizes: Sequence[float] = (), name: str = "one", cores: int = 8) -> Host:
    return Host(name, cores, tuple(gpu(gib, index, name) for index, gib in enumerate(sizes)))


def machine(*sizes: float, cores: int = 8) -> Inventory:
    """One host with GPUs of so many GiB; without any, a CPU."""
    return Inventory((host(sizes, cores=cores),))
