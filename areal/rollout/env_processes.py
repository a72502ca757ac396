"""Environments in separate processes, one each.

A process can be ended in any state, even if native code holds the GIL. If it crashes or is killed by the
kernel, nothing else ends with it.
"""

from __future__ import annotations

import asyncio
import itertools
import pickle
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any, Protocol

from areal import faults, spans
from areal.errors import EnvironmentFailure, UserError, WorkerLost
from areal.rollout.env_calls import CallFailed, EnvCall, Make
from areal.rollout.env_worker import Answer, EnvWorker
from areal.threads import Outcome
from areal.waiting import cancel

_GRACE = 10.0
"""Seconds for an environment to close before its process is killed."""
_NOT_SENT = (pickle.PicklingError, TypeError, AttributeError, ImportError)
"""Errors of creating an environment in another process that cannot find its code."""


class EnvProcess(Protocol):
    """The process of an :class:`areal.rollout.env_worker.EnvWorker` (a handle of areal.workers.handle)."""

    name: str
    ended: asyncio.Future[str]

    async def call(self, method: Any, *args: Any) -> Any:
        """Call a method of the worker."""
        ...

    def kill(self) -> None:
        """End the process at once."""
        ...

    async def close(self, grace: float = ...) -> None:
        """Close the environment, then end the process."""
        ...


StartEnv = Callable[[str, Mapping[str, str], type[EnvWorker]], Awaitable[EnvProcess]]
"""Starts a process with a worker, given its name and additional environment variables."""


class ProcessEnvs:
    """Environments in separate processes, one each.

    Args:
        start: starts a process.
        make: creates an environment there; it can be pickled.
        name: the name of the environment.

    Attributes:
        left_behind: number of abandoned calls that still run: always 0, because their processes are killed.
    """

    left_behind = 0

    def __init__(self, start: StartEnv, make: Make, name: str) -> None:
        self._start = start
        self._make = make
        self._name = name
        self._numbers = itertools.count()
        self._faults: dict[str, dict[str, int]] = {}
        self._processes: set[EnvProcess] = set()
        self._making: set[asyncio.Future[Outcome]] = set()
        self._closing: set[asyncio.Task[None]] = set()

    def make(self) -> EnvCall:
        """Start a process and create an environment in it."""
        outcome = asyncio.ensure_future(_tried(self._made()))  # if cancelled, it ends its process itself
        self._making.add(outcome)
        outcome.add_done_callback(self._making.discard)
        return EnvCall(outcome, location=lambda: "it is in a new process")

    async def _made(self) -> EnvProcess:
        try:
            process = await self._start(f"env {self._name} {next(self._numbers)}", {}, EnvWorker)
        except WorkerLost as error:
            faults.count("env_faults")
            raise CallFailed(f"failed: {error}") from None
        self._processes.add(process)
        try:
            await self._answer(process, EnvWorker.make, self._make)
        except BaseException as error:
            self._kill(process)
            if isinstance(error, (UserError, *_NOT_SENT)):
                raise UserError(
                    f"environment '{self._name}' cannot be created in its own process: {error}; name it as "
                    "path/to/file.py:Class or module:Class, or set rollout.env_isolation=thread"
                ) from error
            raise
        return process

    def call(self, env: EnvProcess, method: str, *args: Any, **kwargs: Any) -> EnvCall:
        """Call a method of an environment that has no other call in flight."""
        answer = self._answer(env, EnvWorker.call, method, args, kwargs)
        return EnvCall(
            asyncio.ensure_future(_tried(answer)),
            location=lambda: f"it is in the process {env.name}",
            abandon=lambda: self._kill(env),
        )

    async def _answer(self, process: EnvProcess, method: Any, *args: Any) -> Any:
        """Return the result of a call in a process."""
        try:
            answer: Answer = await process.call(method, *args)
        except WorkerLost:
            faults.count("env_faults")
            await asyncio.wait([process.ended])
            self._processes.discard(process)
            raise CallFailed(f"crashed its process: {process.ended.result()}") from None
        self._faults[process.name] = answer.faults
        spans.add(answer.spans)
        if not answer.wrong:
            try:
                return pickle.loads(answer.result)
            except (ImportError, AttributeError) as error:
                raise CallFailed(
                    f"returned an object whose type exists only in its process: {error}"
                ) from None
        failure = CallFailed(answer.wrong)
        if answer.trace:
            failure.add_note(f"In its process:\n{answer.trace}")
        raise failure

    def _kill(self, process: EnvProcess) -> None:
        self._processes.discard(process)
        process.kill()

    def drop(self, env: EnvProcess) -> None:
        """Close an environment in the background, and end its process."""
        if env in self._processes:
            self._processes.discard(env)
            self._closing.add(task := asyncio.create_task(env.close(_GRACE)))
            task.add_done_callback(self._closing.discard)

    def counts(self) -> dict[str, int]:
        """Return the failures of the infrastructure in all processes, including those that have ended."""
        return {kind: sum(known[kind] for known in self._faults.values()) for kind in faults.KINDS}

    async def close(self, grace: float) -> None:
        """End all processes; those of idle environments are already closing."""
        await cancel(*self._making)
        for process in list(self._processes):  # with a call in flight
            self._kill(process)
        if self._closing:
            _, late = await asyncio.wait(self._closing, timeout=grace)
            await cancel(*late)


async def _tried(answer: Coroutine[Any, Any, Any]) -> Outcome:
    try:
        return await answer, None
    except (UserError, EnvironmentFailure, CallFailed) as error:
        return None, error
