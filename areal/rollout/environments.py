"""The environments of a run: reusable instances, and their calls.

An environment is third-party code: it may raise any exception, return any value, or never return. Each of
these becomes an :class:`areal.errors.EnvironmentFailure` that names the environment, the call and the task.
Nothing waits for a call longer than the time limit, and the end of a run waits for no call.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from areal import faults
from areal.agents.interface import Content, Step
from areal.envs.pictures import READS, content_of, is_readable, kind_of, with_files
from areal.errors import EnvironmentFailure, UserError
from areal.rollout.env_calls import CallFailed, EnvCall, Make
from areal.rollout.env_processes import ProcessEnvs, StartEnv
from areal.rollout.env_threads import ThreadEnvs
from areal.rollout.opening import wrong_messages, wrong_tools
from areal.spans import span

log = logging.getLogger(__name__)

_MAX_ABANDONED = 100
"""Maximum number of abandoned threads of a run."""


class EnvCalls(asyncio.Semaphore):
    """Limits the number of concurrent calls of environments, and keeps track of them.

    Attributes:
        since: start of each call in flight, by the task that waits for it, in monotonic seconds.
        done: number of finished calls.
    """

    def __init__(self, limit: int) -> None:
        super().__init__(limit)
        self.since: dict[Any, float] = {}
        self.done = 0

    async def __aenter__(self) -> None:
        """Wait until there is room for a call."""
        await super().__aenter__()
        self.since[asyncio.current_task()] = time.monotonic()

    async def __aexit__(self, *failure: Any) -> None:
        """Record that the call is over."""
        del self.since[asyncio.current_task()]
        self.done += 1
        await super().__aexit__(*failure)


class EnvironmentPool:
    """Environment instances that are reused from episode to episode.

    ``step`` may block on a verifier, so it never runs on the event loop. It runs on a thread or, if ``start``
    is given, in a process, one for each instance.

    Args:
        make: creates an environment; it must be picklable if processes are used.
        workers: number of concurrent calls.
        time_limit: time limit of one call, in seconds. A thread that exceeds it is abandoned and replaced. If
            more than ``workers`` calls hang before an episode finishes, the run ends. A process that exceeds
            it is killed.
        slow: seconds after which a call in flight is logged.
        start: starts a process for an environment; None: environments are called on threads.

    Attributes:
        calls: the calls in flight.
        name: name of the environment, for messages.
    """

    def __init__(
        self,
        make: Make,
        workers: int,
        time_limit: float = 300.0,
        name: str = "env",
        slow: float = 30.0,
        start: StartEnv | None = None,
    ) -> None:
        self._workers = workers
        self._time_limit = time_limit
        self._slow = min(slow, time_limit)
        self.name = name
        self._envs: ThreadEnvs | ProcessEnvs
        self._envs = ThreadEnvs(make, name) if start is None else ProcessEnvs(start, make, name)
        self.calls = EnvCalls(workers)
        self._idle: list[Any] = []
        self._hung = 0

    @asynccontextmanager
    async def lend(self) -> AsyncIterator[Any]:
        """Lend an environment for one episode: an idle one, or a new one.

        After an error, or if the episode is cancelled, it is closed.

        Raises:
            EnvironmentFailure: the environment cannot be created.
        """
        env = self._idle.pop() if self._idle else await self._call("its creation", self._envs.make, "make")
        try:
            yield env
        except (Exception, asyncio.CancelledError):
            self._envs.drop(env)
            raise
        self._hung = 0
        self._idle.append(env)

    async def reset(self, env: Any, task: dict[str, Any]) -> tuple[Content, dict[str, Any]]:
        """Begin the episode of a task; return the observation, as the content of a message, and info.

        Raises:
            EnvironmentFailure: the environment raised, exceeded the time limit, or returned an invalid value.
            UserError: the task does not exist, or too many calls hang.
        """
        what = f"reset in the task {task}"
        given = await self._call(what, lambda: self._envs.call(env, "reset", **task), "reset")
        if not isinstance(given, tuple) or len(given) != 2 or not isinstance(given[1], Mapping):
            raise self._failure(what, "did not return (observation, info)")
        observation = await self._content(what, given[0])
        info = dict(given[1])
        if "messages" in info:
            if wrong := wrong_messages(info["messages"]):
                raise self._failure(what, f"returned info['messages'], which {wrong}")
            info["messages"] = await self._read(what, "info['messages']", with_files, info["messages"])
        if "tools" in info and (wrong := wrong_tools(info["tools"])):
            raise self._failure(what, f"returned info['tools'], which {wrong}")
        return observation, info

    async def step(self, env: Any, action: str, task: dict[str, Any], player: str = "") -> Step:
        """Take an action in the episode of a task.

        Args:
            player: the player who acts; empty if there is one player.

        Raises:
            EnvironmentFailure: the environment raised, exceeded the time limit, or returned an invalid value.
            UserError: too many calls hang.
        """
        what = f"step in the task {task}"
        given = await self._call(what, lambda: self._envs.call(env, "step", action), "step")
        if not isinstance(given, tuple) or len(given) != 5 or not isinstance(given[4], Mapping):
            raise self._failure(what, "did not return (observation, reward, terminated, truncated, info)")
        observation, reward, terminated, truncated, info = given
        content = await self._content(what, observation)
        parts = _given(info, "reward_parts")
        if not isinstance(parts, Mapping):
            raise self._failure(
                what, f"returned reward_parts={parts!r}, which is not a dict of names and numbers"
            )
        players = _given(info, "rewards")
        if not isinstance(players, Mapping) or not all(isinstance(name, str) for name in players):
            raise self._failure(
                what, f"returned rewards={players!r}, which is not a dict of players and numbers"
            )
        for value in (reward, *parts.values(), *players.values()):
            if not is_number(value):
                raise self._failure(what, f"returned the reward {value!r}, which is not a finite number")
        if players and not math.isclose(reward, total := sum(players.values()), abs_tol=1e-6):
            raise self._failure(what, f"returned the reward {reward!r}, but rewards that sum to {total!r}")
        if wrong := wrong_player(float(reward), info, player):
            raise self._failure(what, f"returned {wrong}")
        return Step(content, float(reward), bool(terminated), bool(truncated), dict(info))

    def counts(self) -> dict[str, int]:
        """Return the number of failures of the environments' infrastructure, by kind (areal/faults.py)."""
        elsewhere = self._envs.counts()
        return {kind: count + elsewhere.get(kind, 0) for kind, count in faults.counts().items()}

    async def close(self, grace: float = 10.0) -> None:
        """Close idle environments within ``grace`` seconds; end processes, and threads that do not hang."""
        while self._idle:
            self._envs.drop(self._idle.pop())
        await self._envs.close(grace)

    async def _call(self, what: str, start: Callable[[], EnvCall], method: str) -> Any:
        async with AsyncExitStack() as room:
            with span("env_queue", method):
                await room.enter_async_context(self.calls)
            with span("env", method):
                call = start()
                location = ""
                try:
                    await self._in_time(call, what)
                    location = "" if call.outcome.done() else call.location()
                finally:
                    call.end()
        if location:
            raise self._too_late(what, location)
        result, error = call.outcome.result()
        if isinstance(error, CallFailed):
            raise self._failure(what, str(error)) from error.__cause__ or error
        if error is not None:
            raise error
        return result

    async def _in_time(self, call: EnvCall, what: str) -> None:
        """Wait for a call, up to the time limit."""
        await asyncio.wait({call.outcome}, timeout=self._slow)
        if not call.outcome.done() and self._time_limit > self._slow:
            text = f"environment '{self.name}': {what} has taken more than {self._slow:g} s"
            log.warning("%s; %s", text, call.location())
            await asyncio.wait({call.outcome}, timeout=self._time_limit - self._slow)

    def _too_late(self, what: str, location: str) -> Exception:
        faults.count("env_faults")
        limit = f"{self._time_limit:g} s (rollout.env_time_limit)"
        found = self._failure(what, f"has not returned after {limit}; {location}")
        left = self._envs.left_behind
        self._hung += left > 0
        if self._hung <= self._workers and left < _MAX_ABANDONED:
            return found
        return UserError(
            f"{found}; {self._hung} calls hung since an episode last finished, and {left} threads are "
            "stuck; give these calls a time limit in the environment"
        )

    def _failure(self, what: str, wrong: str) -> EnvironmentFailure:
        return EnvironmentFailure(f"environment '{self.name}': {what} {wrong}")

    async def _content(self, what: str, observation: Any) -> Content:
        if not is_readable(observation):
            raise self._failure(what, f"returned an observation of type {kind_of(observation)}, but {READS}")
        if isinstance(observation, str):
            return observation
        content: Content = await self._read(what, "an observation", content_of, observation)
        return content

    async def _read(self, what: str, name: str, read: Callable[[Any], Any], given: Any) -> Any:
        """Read a value that may have images, on a thread, because a screenshot takes 0.2 s."""
        try:
            return await asyncio.to_thread(read, given)
        except UserError as error:
            raise self._failure(what, f"returned {name}: {error}") from error


def named_player(info: Mapping[str, Any]) -> str:
    """Return the player whom ``info`` names as the next to act; empty if it names none in a text."""
    player = info.get("player")
    return str(player) if isinstance(player, str) else ""


def wrong_player(reward: float, info: Mapping[str, Any], acted: str) -> str:
    """Return what a step's ``info`` lacks to assign the reward to a player; empty if it lacks nothing.

    Args:
        acted: the player who acted; empty if there is one player.
    """
    named, rewards = acted or named_player(info), info.get("rewards")
    if named and reward and not rewards:
        return (
            f"the reward {reward!r} and named the player {named!r}, but not what each player earned; set "
            f"info['rewards'] = {{{named!r}: {reward!r}}}, or remove info['player'] if there is one player"
        )
    if rewards and not named and "player" in info:
        return f"info['player']={info['player']!r}, which is not a string; set it to the name of a player"
    return ""


def _given(info: Mapping[str, Any], name: str) -> Any:
    found = info.get(name)
    return {} if found is None else found


def is_number(value: Any) -> bool:
    """Return whether a reward is a finite number."""
    try:
        return math.isfinite(value)
    except (TypeError, OverflowError):
        return False
