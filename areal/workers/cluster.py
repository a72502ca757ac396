"""Hosts beyond this machine on which workers can be started."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from areal.workers.guard import Guard
from areal.workers.handle import Launch

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ClusterHost:
    """A host that a run holds.

    Attributes:
        name: its name in messages.
        cores: number of its CPU cores.
        address: its address for the other hosts.
        gpus: number of its GPUs according to the cluster.
    """

    name: str
    cores: int
    address: str
    gpus: int = 0


@dataclass(frozen=True, slots=True)
class Survey:
    """The current hosts of a cluster, by name.

    Attributes:
        free: hosts that the run does not hold, but could.
        draining: hosts of the run that the cluster is about to take away, with the seconds until then.
        gone: hosts of the run that no longer exist.
    """

    free: tuple[str, ...] = ()
    draining: Mapping[str, float] = field(default_factory=dict)
    gone: tuple[str, ...] = ()


class Cluster(Protocol):
    """The hosts that a run holds.

    Attributes:
        hosts: the hosts; the one of the run's own process comes first, if it is among them.
    """

    hosts: list[ClusterHost]

    def run(self, host: str, function: Callable[..., T], *args: Any) -> T:
        """Call a module-level function by name on a host, with the run's devices visible.

        Raises:
            UserError: the function raised it, or areal does not start on the host.
            WorkerLost: the host is gone.
        """
        ...

    def launch_on(self, host: str, guard: Guard | None = None) -> Launch:
        """Return a launcher of workers on a host, which a guard watches."""
        ...

    def survey(self) -> Survey:
        """Return the current hosts of the cluster."""
        ...

    async def watch(self) -> None:
        """Wait until the cluster itself is lost, so that it can no longer start anything.

        Raises:
            WorkerLost: the cluster is lost.
        """
        ...

    def hold(self, name: str) -> ClusterHost | None:
        """Hold one more host, which then belongs to :attr:`hosts`; None: others hold it.

        Raises:
            UserError: areal does not start on it.
        """
        ...

    def release(self, name: str) -> None:
        """End the remaining workers of a host, and release it."""
        ...

    def close(self) -> None:
        """End the remaining workers and release the hosts; a second call does nothing."""
        ...


@contextmanager
def released(cluster: Cluster | None) -> Iterator[None]:
    """Close a cluster at the end of the block, while Ray's output on its workers is still captured."""
    try:
        yield
    finally:
        if cluster is not None:
            cluster.close()
