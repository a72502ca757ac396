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
        name: in messages.
        cores: CPU cores of it.
        address: by which the other hosts reach it.
        gpus: that the cluster says it has.
    """

    name: str
    cores: int
    address: str
    gpus: int = 0


@dataclass(frozen=True, slots=True)
class Survey:
    """Which hosts a cluster has now, by their names.

    Attributes:
        free: those that the run does not hold, and could.
        draining: those of the run that the cluster is about to take away, and in how many seconds.
        gone: those of the run that are no longer there.
    """

    free: tuple[str, ...] = ()
    draining: Mapping[str, float] = field(default_factory=dict)
    gone: tuple[str, ...] = ()


class Cluster(Protocol):
    """The hosts that a run holds.

    Attributes:
        hosts: the one of the run's own process first, if it is among them.
    """

    hosts: list[ClusterHost]

    def run(self, host: str, function: Callable[..., T], *args: Any) -> T:
        """Call a function of a module on a host, by its name, where the run's devices are visible.

        Raises:
            UserError: what the function raised, or areal does not start there.
            WorkerLost: the host is gone.
        """
        ...

    def launch_on(self, host: str, guard: Guard | None = None) -> Launch:
        """Return what starts workers on a host, over which a guard watches."""
        ...

    def survey(self) -> Survey:
        """Look which hosts the cluster has now."""
        ...

    async def watch(self) -> None:
        """Wait until the cluster itself is lost, of which nothing can be started any more.

        Raises:
            WorkerLost: it is.
        """
        ...

    def hold(self, name: str) -> ClusterHost | None:
        """Hold one more host, which is among :attr:`hosts` from then on; None: others hold it.

        Raises:
            UserError: areal does not start there.
        """
        ...

    def release(self, name: str) -> None:
        """End what is left of the workers of a host, and leave it to others."""
        ...

    def close(self) -> None:
        """End what is left of the workers and release the hosts; to call it again does nothing."""
        ...


@contextmanager
def released(cluster: Cluster | None) -> Iterator[None]:
    """Close a cluster at the end of the block, while what Ray prints of its workers is still kept aside."""
    try:
        yield
    finally:
        if cluster is not None:
            cluster.close()
