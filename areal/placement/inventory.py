"""The hosts and devices that a run may use.

Only this module asks torch for GPUs and reads CUDA_VISIBLE_DEVICES. Everything else receives an
:class:`Inventory`, so that tests and other launchers can construct one.
"""

from __future__ import annotations

import importlib.metadata
import os
import socket
from dataclasses import dataclass

from areal.errors import UserError


@dataclass(frozen=True, slots=True)
class Device:
    """A GPU.

    Attributes:
        index: its number in a process with the same visible devices as the run's process on that host.
        uuid: its name in every process.
        visible: the name that makes it visible in CUDA_VISIBLE_DEVICES.
        model: its model, such as ``NVIDIA H100 80GB HBM3``.
        capability: CUDA's compute capability; (0, 0): unknown.
    """

    host: str
    index: int
    uuid: str
    nbytes: int
    visible: str
    model: str = ""
    capability: tuple[int, int] = (0, 0)


@dataclass(frozen=True, slots=True)
class Host:
    """A machine.

    Attributes:
        name: its name in messages.
        cores: number of CPU cores that a run may use on it.
        devices: its GPUs, by index.
        address: its address for the run's other hosts.
    """

    name: str
    cores: int
    devices: tuple[Device, ...] = ()
    address: str = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class Inventory:
    """All hosts of a run; the first one is that of the run's own process, if it is among them."""

    hosts: tuple[Host, ...]

    @property
    def devices(self) -> tuple[Device, ...]:
        """The GPUs of all hosts."""
        return tuple(device for host in self.hosts for device in host.devices)

    def address(self, host: str) -> str:
        """Return the address of the host with this name."""
        return next(each.address for each in self.hosts if each.name == host)

    def device_type(self, wanted: str) -> str:
        """Return ``cpu`` or ``cuda``, to which the setting ``device`` resolves here.

        Raises:
            UserError: the setting requires a GPU, and there is none.
        """
        if wanted == "auto":
            return "cuda" if self.devices else "cpu"
        if wanted == "cuda" and not self.devices:
            raise UserError(
                "device=cuda, but torch sees no GPU; use device=cpu or install a CUDA build of torch"
            )
        return wanted


SOLD = {16: 15.6, 24: 23.5, 32: 31.4, 40: 39.4, 48: 44.4, 80: 79.2, 141: 139.8}
"""GiB that CUDA reports, by the nominal GB of a GPU (24: RTX 4090, 48: L40S, 141: H200)."""
_RECENT = (9, 0)
"""Compute capability of a GPU of a stated machine."""
_CORES = 8
"""Number of CPU cores per GPU of a stated machine."""


def stated(machine: str) -> Inventory:
    """Return the inventory of a machine that need not exist.

    Args:
        machine: ``COUNTxSIZE``, such as ``8x80``: the number of GPUs, and the nominal GB of each.

    Raises:
        UserError: the form is invalid, or no such GPU is known.
    """
    count, _, size = machine.lower().removesuffix("gb").partition("x")
    if not (count.isdecimal() and size.isdecimal() and int(count) and int(size) in SOLD):
        sizes = ", ".join(map(str, SOLD))
        raise UserError(f"'{machine}' is not of the form COUNTxSIZE, such as 1x24; SIZE is {sizes} GB")
    nbytes, model = int(SOLD[int(size)] * 2**30), f"GPU of {size} GB"
    gpus = [
        Device("host", index, f"gpu-{index}", nbytes, str(index), model, _RECENT)
        for index in range(int(count))
    ]
    return Inventory((Host("host", _CORES * len(gpus), tuple(gpus)),))


def probe(device: str = "auto") -> Inventory:
    """Return the inventory of this machine; the setting ``device=cpu`` excludes its GPUs."""
    return Inventory((probe_host(device, socket.gethostname(), len(os.sched_getaffinity(0))),))


def probe_host(device: str, name: str, cores: int, address: str = "127.0.0.1") -> Host:
    """Return this machine as a host of a run.

    Args:
        device: the setting; ``cpu`` excludes its GPUs.
        name: its name in messages.
        cores: number of CPU cores that the run may use.
        address: its address for the run's other hosts.
    """
    return Host(name, cores, _devices(name) if device != "cpu" else (), address)


def _devices(host: str) -> tuple[Device, ...]:
    if any(torch.version.endswith("+cpu") for torch in importlib.metadata.distributions(name="torch")):
        return ()  # the import of torch takes seconds, and its build for CPUs sees no GPU
    import torch

    if not torch.cuda.is_available():
        return ()
    found = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
    names = visible_names(os.environ.get("CUDA_VISIBLE_DEVICES"), len(found))
    return tuple(
        Device(host, index, str(gpu.uuid), gpu.total_memory, name, gpu.name, (gpu.major, gpu.minor))
        for index, (gpu, name) in enumerate(zip(found, names, strict=True))
    )


def visible_names(shown: str | None, count: int) -> list[str]:
    """Return the name of each GPU in CUDA_VISIBLE_DEVICES.

    Args:
        shown: value of that variable in this process; None: it is not set.
        count: number of GPUs that this process sees.
    """
    return shown.split(",")[:count] if shown else [str(index) for index in range(count)]
