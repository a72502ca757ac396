"""Determines whether the host, rather than the run itself, caused the end of a run."""

from __future__ import annotations

import math
import os
import resource
import time

from areal.host_limits import HostLimits

from ..interface import SandboxLimits


class Evidence:
    """Observations of the host since a run was requested.

    In its own process namespace, a run is the first process, which the kernel protects from SIGKILL and
    SIGSTOP from inside. A SIGKILL therefore comes from the host: from its out-of-memory killer, from another
    process, or from the kernel at the CPU time limit. Only the last one can be caused by the run.

    Args:
        host: counters of the host.
        limits: limits of the run.
        isolated: whether the run has its own process namespace.
    """

    def __init__(self, host: HostLimits, limits: SandboxLimits, isolated: bool) -> None:
        self._host = host
        self._limits = limits
        self._isolated = isolated
        self._before = host.read()
        self._since = time.monotonic()

    def killer(self) -> str:
        """Return who killed the run, if it cannot have been the run itself; otherwise an empty text."""
        if not self._isolated:
            return ""
        if self._host.read().oom_kills > self._before.oom_kills:
            allowed = f"{self._limits.memory_mb} MiB"
            return f"the kernel's out-of-memory killer: this host lacks the {allowed} that a run may take"
        # The kernel counts CPU time in ticks, at most one for each processor and thread. Until this number of
        # ticks is possible, the limit cannot have been reached, whatever the run has done.
        cores = min(os.cpu_count() or 1, self._limits.threads)
        _, ceiling = resource.getrlimit(resource.RLIMIT_CPU)
        limit = math.ceil(self._limits.processor_s)
        limit = limit if ceiling == resource.RLIM_INFINITY else min(limit, ceiling)
        if (time.monotonic() - self._since) * cores < limit:
            return "another process of this host"
        return ""

    def strain(self) -> str:
        """Return the limit of the host that the run may have met instead of its own; empty: none."""
        if self._host.read().threads_refused > self._before.threads_refused:
            return "this host refused a thread or process: its control group has reached pids.max"
        return ""
