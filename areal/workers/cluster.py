"""Hosts beyond this machine on which workers can be started."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from areal.workers.handle import Launch

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ClusterHost:
    """A host that a run holds.

    Attributes:
        name: in messages.
        cores: CPU cores of it.
        address: by which the other hosts reach it.
    """

    name: str
    cores: int
    address: str


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
        """
        ...

    def launch_on(self, host: str) -> Launch:
        """Return what starts workers on a host."""
        ...
