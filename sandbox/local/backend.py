"""The local sandbox's backend: zygotes on this machine, started when needed and replaced when they die."""

from __future__ import annotations

import itertools
import os
import sys
import threading
from collections.abc import Sequence
from dataclasses import replace

from areal.host_limits import HostLimits

from ..interface import SandboxLimits, SandboxUnavailable
from .packages import package_paths
from .run import LocalRun
from .zygote_handle import Profile, ZygoteHandle


class LocalBackend:
    """Starts processes of the local sandbox (process.Backend).

    Args:
        workers: number of zygotes; each forks one run at a time, and any number of runs may be active.
        preload: modules to import in advance; runs only see their packages and those that these require.
        allow_weak: accept a weak level (see ``level``), instead of refusing it.
        landlock: maximum version of Landlock to use, to simulate an older kernel.
        host: counts the effects of the host's limits on runs; default: this host's counters.
    """

    def __init__(
        self,
        workers: int,
        preload: Sequence[str] = (),
        allow_weak: bool = False,
        landlock: int | None = None,
        host: HostLimits | None = None,
    ) -> None:
        if sys.platform != "linux":
            raise SandboxUnavailable(
                "the local sandbox requires Linux; the container and E2B sandboxes do not"
            )
        self._profile = Profile("private", tuple(preload), package_paths(preload), landlock)
        self._allow_weak = allow_weak
        self._host = host or HostLimits()
        self._workers: list[ZygoteHandle | None] = [None] * workers
        self._locks = [threading.Lock() for _ in range(workers)]
        self._turns = itertools.count()
        self._process = os.getpid()
        self._closed = self._was_strong = False

    @property
    def level(self) -> str:
        """Return the level of isolation on this host.

        ``"full"``: namespaces, Landlock, and a filter of system calls; ``"namespaces"``: without Landlock,
        still strong; ``"confined"``: only Landlock and the filter, weak: runs see the host's processes and
        share its counters.

        Raises:
            SandboxUnavailable: the host does not provide the required minimum.
        """
        return self._worker(0).level

    @property
    def landlock(self) -> int:
        """Return the version of Landlock, 0 if there is none; raises SandboxUnavailable."""
        return self._worker(0).landlock

    def workers(self) -> list[int]:
        """Return the process numbers of the living keepers."""
        return [worker.pid for worker in self._workers if worker is not None and worker.alive]

    def open(
        self, limits: SandboxLimits, first: bytes, stdin: bytes = b"", *, cut_output: bool = False
    ) -> LocalRun:
        """Start a run on the next zygote; see process.Backend."""
        worker = self._worker(next(self._turns) % len(self._workers))
        try:
            return worker.open(limits, first, stdin, cut_output, self._host)
        except (BrokenPipeError, ConnectionResetError) as error:
            worker.kill()  # its zygote is gone, and its stopped keeper does not notice
            raise SandboxUnavailable(f"cannot start a run: {error}") from error
        except OSError as error:
            # An error on this side, for example no descriptors are left.
            raise SandboxUnavailable(f"cannot start a run: {error}") from error

    def close(self) -> None:
        """End every zygote and every run."""
        self._closed = True
        for place, lock in enumerate(self._locks):
            with lock:
                worker, self._workers[place] = self._workers[place], None
                if worker is not None:
                    worker.close()

    def _worker(self, place: int) -> ZygoteHandle:
        """Return a living zygote; raises SandboxUnavailable if it cannot be started."""
        if os.getpid() != self._process:
            raise SandboxUnavailable("a forked process must create its own sandbox")
        with self._locks[place]:
            if self._closed:
                raise SandboxUnavailable("the sandbox is closed")
            worker = self._workers[place]
            if worker is None or not worker.alive:
                if worker is not None:
                    worker.close()
                worker = self._workers[place] = self._start()
            return worker

    def _start(self) -> ZygoteHandle:
        try:
            started = ZygoteHandle(self._profile)
        except SandboxUnavailable as error:
            if self._was_strong:  # so this host can do it, and an event has prevented it this time
                raise
            strong = str(error)
        else:
            self._was_strong = True
            return started
        if not self._allow_weak:
            raise SandboxUnavailable(
                f"this host does not provide a strong sandbox ({strong}); `areal sandbox check` shows what "
                "is missing, and allow_weak=True accepts a weak one"
            )
        return ZygoteHandle(replace(self._profile, level="confined"))
