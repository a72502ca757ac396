"""Whether the host did to a run what the run might have done to itself."""

from __future__ import annotations

import math
import os
import resource
import time

from areal.host_limits import HostLimits

from ..interface import SandboxLimits


class Evidence:
    """What is known of the host since a run was asked for.

    In a process namespace of its own a run is the first process. The kernel lets no signal from inside kill
    or stop that one, so a SIGKILL comes from the host: from its out-of-memory killer, from another process,
    or from the kernel at the limit on processor time, and only this last one can the run bring about.

    Args:
        host: its counters.
        limits: of the run.
        isolated: whether it has a process namespace of its own.
    """

    def __init__(self, host: HostLimits, limits: SandboxLimits, isolated: bool) -> None:
        self._host = host
        self._limits = limits
        self._isolated = isolated
        self._before = host.read()
        self._since = time.monotonic()

    def killer(self) -> str:
        """Say who has killed the run, if that cannot have been the run itself; else return an empty text."""
        if not self._isolated:
            return ""
        if self._host.read().oom_kills > self._before.oom_kills:
            allowed = f"{self._limits.memory_mb} MiB"
            return f"the kernel's out-of-memory killer: this host lacks the {allowed} that a run may take"
        # The kernel counts processor time by ticks, at most one for each processor and thread. Until so many
        # can have passed, the limit on it was not reached, whatever the run has done.
        cores = min(os.cpu_count() or 1, self._limits.threads)
        _, ceiling = resource.getrlimit(resource.RLIMIT_CPU)
        limit = math.ceil(self._limits.processor_s)
        limit = limit if ceiling == resource.RLIM_INFINITY else min(limit, ceiling)
        if (time.monotonic() - self._since) * cores < limit:
            return "another process of this host"
        return ""

    def strain(self) -> str:
        """Say which limit of the host the run may have met, in place of its own; empty: none."""
        if self._host.read().threads_refused > self._before.threads_refused:
            return "this host refused a thread or process: its control group has reached pids.max"
        return ""
