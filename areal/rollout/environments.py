"""The environments of a run: instances that are used again, and the threads that call them.

An environment is other people's code: it may raise anything, return anything, or never return. Each of these
becomes an :class:`areal.errors.EnvironmentFailure` that names the environment, the call and the task. Nothing
waits for a call longer than the time limit, and the end of a run waits for no call.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import Future, wait
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from areal.agents.interface import Step
from areal.errors import EnvironmentFailure, UserError, explained
from areal.rollout.opening import wrong_messages
from areal.threads import CallThread, tried

log = logging.getLogger(__name__)

_MAX_ABANDONED = 100
"""Threads left behind, of one run."""


class EnvironmentPool:
    """Environment instances that are reused from episode to episode, and the threads that call them.

    ``step`` may block on a verifier, so it never runs on the event loop.

    Args:
        workers: calls at once.
        time_limit: seconds of one call. A thread whose call takes longer is left behind and replaced. If
            more than ``workers`` calls hang before an episode finishes, the run ends.
        slow: seconds after which a call in flight is logged.
    """

    def __init__(
        self,
        make: Callable[[], Any],
        workers: int,
        time_limit: float = 300.0,
        name: str = "env",
        slow: float = 30.0,
    ) -> None:
        self._make = make
        self._workers = workers
        self._time_limit = time_limit
        self._slow = min(slow, time_limit)
        self._name = name
        self._room = asyncio.Semaphore(workers)
        self._idle: list[Any] = []
        self._resting: list[CallThread] = []
        self._left: list[tuple[CallThread, Any]] = []
        self._hung = 0
        self._closer: CallThread | None = None
        self._closing: list[Future[Any]] = []

    @asynccontextmanager
    async def lend(self) -> AsyncIterator[Any]:
        """Lend an environment for one episode: an idle one, or a new one; after an error it is closed.

        Raises:
            EnvironmentFailure: it cannot be made.
        """
        env = self._idle.pop() if self._idle else await self._call(None, "making it", self._make)
        try:
            yield env
        except Exception:
            if all(env is not held for _, held in self._left):
                self._close(env)
            raise
        self._hung = 0
        self._idle.append(env)

    async def reset(self, env: Any, task: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        """Begin a task's episode; return observation and info.

        Raises:
            EnvironmentFailure: it raised, did not return in time, or gave something else.
            UserError: there is no such task, or too many calls hang.
        """
        what = f"reset in the task {task}"
        given = await self._call(env, what, partial(env.reset, **task))
        if not isinstance(given, tuple) or len(given) != 2 or not isinstance(given[1], Mapping):
            raise self._failure(what, "did not return (observation, info)")
        self._check_text(what, given[0])
        if "messages" in given[1] and (wrong := wrong_messages(given[1]["messages"])):
            raise self._failure(what, f"gave info['messages'], which {wrong}")
        return given[0], dict(given[1])

    async def step(self, env: Any, action: str, task: dict[str, Any]) -> Step:
        """Act in a task's episode.

        Raises:
            EnvironmentFailure: it raised, did not return in time, or gave something else.
            UserError: too many calls hang.
        """
        what = f"step in the task {task}"
        given = await self._call(env, what, partial(env.step, action))
        if not isinstance(given, tuple) or len(given) != 5 or not isinstance(given[4], Mapping):
            raise self._failure(what, "did not return (observation, reward, terminated, truncated, info)")
        observation, reward, terminated, truncated, info = given
        self._check_text(what, observation)
        parts = info.get("reward_parts") or {}
        if not isinstance(parts, Mapping):
            raise self._failure(what, f"gave reward_parts={parts!r}, which is no dict of names and numbers")
        for value in (reward, *parts.values()):
            if not _is_number(value):
                raise self._failure(what, f"gave the reward {value!r}, which is no finite number")
        return Step(observation, float(reward), bool(terminated), bool(truncated), dict(info))

    def close(self, grace: float = 10.0) -> None:
        """Close idle environments within ``grace`` seconds, and end the threads, but for those that hang."""
        for thread in self._resting:
            thread.end()
        while self._idle:
            self._close(self._idle.pop())
        if wait(self._closing, grace).not_done and self._closer is not None:
            log.warning(
                "environment '%s': close is not over after %g s; it is at %s",
                self._name,
                grace,
                self._closer.location(__file__),
            )
        if self._closer is not None:
            self._closer.end()

    async def _call(self, env: Any, what: str, call: Callable[[], Any]) -> Any:
        async with self._room:
            thread = self._resting.pop() if self._resting else CallThread("areal-env")
            outcome = asyncio.wrap_future(thread.start(call))
            location = ""
            try:
                await self._in_time(outcome, what, thread)
                location = "" if outcome.done() else thread.location(__file__)
            finally:
                if outcome.done():
                    self._resting.append(thread)
                else:
                    outcome.cancel()
                    thread.give_up()
                    self._left = [(w, e) for w, e in self._left if w.alive] + [(thread, env)]
        if outcome.cancelled():
            raise self._too_late(what, location)
        result, error = outcome.result()
        if isinstance(error, UserError | EnvironmentFailure):
            raise error
        if error is not None:
            raise self._failure(what, f"raised {explained(error, __file__)}") from error
        return result

    async def _in_time(self, outcome: asyncio.Future[Any], what: str, thread: CallThread) -> None:
        """Wait for a call, but not past the time limit."""
        await asyncio.wait({outcome}, timeout=self._slow)
        if not outcome.done() and self._time_limit > self._slow:
            text = f"environment '{self._name}': {what} takes more than {self._slow:g} s"
            log.warning("%s; it is at %s", text, thread.location(__file__))
            await asyncio.wait({outcome}, timeout=self._time_limit - self._slow)

    def _too_late(self, what: str, location: str) -> Exception:
        self._hung += 1
        limit = f"{self._time_limit:g} s (rollout.env_time_limit)"
        found = self._failure(what, f"has not returned after {limit}; it is at {location}")
        left = len(self._left)
        if self._hung <= self._workers and left < _MAX_ABANDONED:
            return found
        return UserError(
            f"{found}; {self._hung} calls hung since an episode last finished, and {left} threads are left "
            "behind: give what they do a time limit"
        )

    def _failure(self, what: str, wrong: str) -> EnvironmentFailure:
        return EnvironmentFailure(f"environment '{self._name}': {what} {wrong}")

    def _check_text(self, what: str, observation: Any) -> None:
        if not isinstance(observation, str):
            raise self._failure(
                what, f"gave a {type(observation).__name__} as observation, but a model reads text: a str"
            )

    def _close(self, env: Any) -> None:
        """Close an environment on a thread; what it raises is written to the log."""

        def close() -> None:
            _, error = tried(env.close)
            if error is not None:
                log.warning("environment '%s': close raised %s", self._name, explained(error, __file__))

        self._closer = self._closer or CallThread("areal-env-close")
        self._closing = [c for c in self._closing if not c.done()] + [self._closer.start(close)]


def _is_number(value: Any) -> bool:
    try:
        return math.isfinite(value)
    except (TypeError, OverflowError):
        return False
