"""Environments of this process, with each call on a thread.

A thread cannot be ended from outside unless it runs Python code; a thread whose call takes too long is
abandoned and replaced.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from areal.errors import EnvironmentFailure, UserError, explained
from areal.rollout.env_calls import CallFailed, EnvCall, Make
from areal.threads import CallThread, tried

log = logging.getLogger(__name__)


class ThreadEnvs:
    """Environments on threads of this process; each call runs on a separate thread.

    Args:
        make: creates an environment.
        name: the name of the environment in the log.
    """

    def __init__(self, make: Make, name: str) -> None:
        self._make = make
        self._name = name
        self._resting: list[CallThread] = []
        self._left: list[tuple[CallThread, Any]] = []
        self._closer: CallThread | None = None
        self._closing: list[Future[Any]] = []

    @property
    def left_behind(self) -> int:
        """Return how many abandoned calls were running when the last one was abandoned, with that one."""
        return len(self._left)

    def make(self) -> EnvCall:
        """Create an environment."""
        return self._start(None, self._make)

    def call(self, env: Any, method: str, *args: Any, **kwargs: Any) -> EnvCall:
        """Call a method of an environment that has no other call in flight."""
        return self._start(env, lambda: getattr(env, method)(*args, **kwargs))

    def _start(self, env: Any, call: Callable[[], Any]) -> EnvCall:
        thread = self._resting.pop() if self._resting else CallThread("areal-env")
        context = contextvars.copy_context()  # spans of the call also belong to the episode
        return EnvCall(
            asyncio.wrap_future(thread.start(lambda: context.run(_made, call))),
            location=lambda: f"it is at {thread.location(__file__)}",
            abandon=lambda: self._leave(thread, env),
            rest=lambda: self._resting.append(thread),
        )

    def _leave(self, thread: CallThread, env: Any) -> None:
        thread.give_up()
        self._left = [(t, e) for t, e in self._left if t.alive] + [(thread, env)]

    def drop(self, env: Any) -> None:
        """Close an environment in the background, unless one of its calls is still running."""
        if any(env is held for _, held in self._left):
            return

        def close() -> None:
            _, error = tried(env.close)
            if error is not None:
                log.warning("environment '%s': close raised %s", self._name, explained(error, __file__))

        self._closer = self._closer or CallThread("areal-env-close")
        self._closing = [c for c in self._closing if not c.done()] + [self._closer.start(close)]

    def counts(self) -> dict[str, int]:
        """Return nothing: failures of the infrastructure are counted with all others of this process."""
        return {}

    async def close(self, grace: float) -> None:
        """Wait up to ``grace`` seconds for environments to close, and end the threads that do not hang."""
        for thread in self._resting:
            thread.end()
        if self._closer is None:
            return
        _, hung = await asyncio.wait([asyncio.wrap_future(c) for c in self._closing], timeout=grace)
        if hung:
            text = f"environment '{self._name}': close has not returned after {grace:g} s"
            log.warning("%s; it is at %s", text, self._closer.location(__file__))
        self._closer.end()


def _made(call: Callable[[], Any]) -> Any:
    """Make a call; an exception becomes a CallFailed, unless its message is already a line for the user."""
    result, error = tried(call)
    if error is None:
        return result
    if isinstance(error, UserError | EnvironmentFailure):
        raise error
    raise CallFailed(f"raised {explained(error, __file__)}") from error
