"""Makes a backend a sandbox: its blocking calls run on threads, so any event loop or thread can use it."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import ParamSpec, TypeVar

from areal import faults

from . import drive
from .interface import Job, Outcome, SandboxLimits, SandboxUnavailable
from .process import Backend
from .session import Interpreter

P = ParamSpec("P")
T = TypeVar("T")
_MAX_SESSION_CALLS = 64


def processors() -> int:
    """Return the number of processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Pool:
    """A sandbox (interface.Sandbox) on a backend.

    Args:
        backend: the backend that starts the processes.
        size: number of concurrent runs; default: the number of processors that this process may use. Calls of
            sessions are additional, because they mostly wait.
    """

    def __init__(self, backend: Backend, size: int | None = None) -> None:
        self.backend = backend
        self.size = size or processors()
        self._runs = ThreadPoolExecutor(self.size, "sandbox-run")
        self._slots = threading.BoundedSemaphore(self.size)
        self._closed = False
        self._calls = ThreadPoolExecutor(_MAX_SESSION_CALLS, "sandbox-session")

    async def run(self, job: Job, limits: SandboxLimits | None = None) -> Outcome:
        """Run one job; see interface.Sandbox. Raises SandboxUnavailable when the sandbox is closed."""
        self._check_open()
        # If a waiter is cancelled, the run ends by its own limits.
        return await _on(self._runs, self._run, job, limits)

    def run_blocking(self, job: Job, limits: SandboxLimits | None = None) -> Outcome:
        """Run one job from a thread without an event loop."""
        self._check_open()
        return self._run(job, limits)

    async def session(self, limits: SandboxLimits | None = None, session_s: float = 600.0) -> PoolSession:
        """Start an interpreter that keeps its state; see interface.Sandbox."""
        self._check_open()
        limits = replace(limits or SandboxLimits(), cpu_s=session_s)
        interpreter = await _on(self._calls, Interpreter, self.backend, limits, session_s)
        return PoolSession(interpreter, self._calls)

    async def close(self) -> None:
        """Wait for the current runs, then end every process; a second call does nothing."""
        await asyncio.to_thread(self.close_blocking)

    def close_blocking(self) -> None:
        """Do the same as ``close``, from a thread without an event loop."""
        self._closed = True
        self._runs.shutdown()
        self.backend.close()
        self._calls.shutdown()

    def _check_open(self) -> None:
        if self._closed:
            raise SandboxUnavailable("the sandbox is closed")

    def _run(self, job: Job, limits: SandboxLimits | None) -> Outcome:
        with self._slots:
            outcome = drive.run(self.backend, job, limits or SandboxLimits())
        if outcome.status == "infra_error":
            faults.count("sandbox_faults")
        return outcome


class PoolSession:
    """A session (interface.SandboxSession) whose calls run on a pool's threads, one at a time."""

    def __init__(self, interpreter: Interpreter, threads: ThreadPoolExecutor) -> None:
        self._interpreter = interpreter
        self._threads = threads
        self._turn = asyncio.Lock()

    async def run(self, code: str, wall_s: float | None = None) -> Outcome:
        """Execute code; see interface.SandboxSession."""
        async with self._turn:
            try:
                return await _on(self._threads, self._interpreter.run, code, wall_s)
            except SandboxUnavailable:
                faults.count("sandbox_faults")
                raise

    async def close(self) -> None:
        """End the interpreter."""
        async with self._turn:
            await _on(self._threads, self._interpreter.close)


async def _on(threads: ThreadPoolExecutor, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run a blocking function on a thread."""
    try:
        running = threads.submit(function, *args, **kwargs)
    except RuntimeError as error:  # the pool has just been closed, or this host cannot start more threads
        raise SandboxUnavailable(f"the sandbox does not accept further runs: {error}") from error
    return await asyncio.wrap_future(running)
