"""Checks the requirements of each host of a run before anything heavy starts."""

from __future__ import annotations

import importlib
import time
from collections.abc import Iterable
from pathlib import Path

from areal import registry
from areal.config import Config
from areal.errors import UserError
from areal.placement.inventory import Host, Inventory, probe_host
from areal.runtime.agents import make_agent
from areal.workers.cluster import Cluster, ClusterHost

_DELAY = 15.0
"""Seconds after which all hosts of a shared folder see a new file."""


def probe_hosts(cluster: Cluster, device: str) -> Inventory:
    """Return the inventory of a cluster's hosts, as each host sees itself.

    Args:
        device: the setting; ``cpu`` excludes GPUs.

    Raises:
        UserError: a host has another version of areal, or does not see its GPUs.
    """
    return Inventory(tuple(probe_host_of(cluster, host, device) for host in cluster.hosts))


def probe_host_of(cluster: Cluster, host: ClusterHost, device: str) -> Host:
    """Return a host of a cluster as it sees itself; see :func:`probe_hosts`."""
    if (version := cluster.run(host.name, _version)) != (own := _version()):
        raise UserError(
            f"host {host.name} has areal {version}, and this host has {own}; install the same version on "
            "all hosts"
        )
    found = cluster.run(host.name, probe_host, device, host.name, host.cores, host.address)
    if host.gpus and device != "cpu" and not found.devices:
        raise UserError(
            f"Ray lists GPUs on host {host.name} ({host.gpus}), but torch finds none there; install the "
            "driver and a CUDA build of torch, or use device=cpu"
        )
    return found


def check_model_on_hosts(cluster: Cluster, hosts: Iterable[str], model: str) -> None:
    """Check that hosts find the model, unless it is a hub id.

    Raises:
        UserError: a host does not; the message says which one.
    """
    folder = Path(model).absolute()
    for host in sorted(set(hosts)) if folder.is_dir() else ():
        if not cluster.run(host, _appears, str(folder)):
            raise UserError(
                f"host {host} does not have {folder}; move it to a folder that all hosts share, with the "
                "same path"
            )


def check_code_on_hosts(cluster: Cluster, hosts: Iterable[str], config: Config) -> None:
    """Check that hosts of episodes find the environment, the agent, and the user's registered code.

    Raises:
        UserError: a host does not; the message names the host and what it lacks.
    """
    registered = registry.registered()
    for host in hosts:
        try:
            cluster.run(host, _find_code, config, registered)
        except UserError as error:
            raise UserError(
                f"host {host} lacks code of this run ({error}); move it to a folder that all hosts share, "
                "with the same path, or distribute it with Ray's runtime_env (py_modules, working_dir)"
            ) from error


def _find_code(config: Config, registered: bytes) -> None:
    registry.restore(registered)
    registry.find_env(config.env)
    make_agent(config)


def _version() -> str:
    return importlib.import_module("areal").__version__  # this imports areal by its functions


def _appears(path: str) -> bool:
    deadline = time.monotonic() + _DELAY
    while not Path(path).exists() and time.monotonic() < deadline:
        time.sleep(0.5)
    return Path(path).exists()
