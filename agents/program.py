"""Any program as an agent: it receives the task, the address of the model, and a key."""

from __future__ import annotations

import asyncio
import inspect
import math
from collections.abc import Awaitable, Callable
from contextlib import nullcontext
from functools import partial
from typing import Any, Literal

from areal.agents.commands import ProgramFailed, ProgramKilled, execute, words_of
from areal.agents.interface import Account, ConversationTooLong, Endpoint, Env, Model, PolicyFailed, Settings
from areal.agents.staying import StayingCommands
from areal.errors import UserError, explained
from areal.host_limits import HostLimits

Function = Callable[..., Awaitable[str | float]]
"""``await function(task, base_url=..., api_key=...)`` returns its answer (text), or the reward (a number)."""

_MAX_COMPLETIONS = 256
"""Maximum number of completions in one episode, unless ``max_completions`` is given."""
_GRACE = 5.0
"""Seconds in which a cancelled function must end."""


class Program:
    """Runs a program once for each task.

    The program's answer is the action in the environment, whose reward counts. A program may set the reward
    itself instead: a function by returning a number, any program by ``POST /v1/reward``.

    Args:
        function: an async function, called as ``function(task, base_url=..., api_key=...)``.
        command: a command line instead of a function. It reads the task from its standard input, takes the
            address and the key from the variables that OpenAI's and Anthropic's SDKs read, and writes its
            answer to standard output.
        workers: number of persistent processes of the command, each of which runs one episode after another
            (see :mod:`areal.agents.staying`); 0: a new process for each episode.
        at_once: maximum number of episodes that run their program at the same time; None: no limit.
        time_limit: time limit of one episode, in seconds, without the wait for ``at_once``; the program is
            then killed.
        max_completions: maximum number of completions in one episode.
        on_failure: how to treat an episode whose program crashes, hangs or returns nothing usable after a
            response of the model. ``punish`` gives it the reward 0, ``retry`` runs it again. In both modes,
            an episode gets the reward 0 if its history outgrew the model or its completions are used up. In
            both modes, it runs again if the endpoint refused a request of the program, the engine aborted a
            response, or the kernel's out-of-memory killer ended the program.
        settings: how to treat requests for another distribution of responses than that of the run (another
            temperature, forced JSON, a forced tool call). ``ignore`` samples them like the others, ``refuse``
            refuses them.
        host: counts the processes that the kernel kills; None: this host.

    Raises:
        UserError: neither or both of ``function`` and ``command`` are given, the program cannot run, or a
            number is out of range.
    """

    def __init__(
        self,
        function: Function | None = None,
        command: str | None = None,
        workers: int = 0,
        at_once: int | None = None,
        time_limit: float = 600.0,
        max_completions: int = _MAX_COMPLETIONS,
        on_failure: Literal["punish", "retry"] = "punish",
        settings: Settings = "ignore",
        host: HostLimits | None = None,
    ) -> None:
        if (function is None) == (command is None):
            raise UserError(
                "a program must be a function (--agent my_agent.py:solve) or a command (--agent program "
                "agent_options.command='python my_agent.py')"
            )
        if time_limit <= 0 or max_completions < 1:
            raise UserError("time_limit must be a number of seconds above 0, and max_completions at least 1")
        if on_failure not in ("punish", "retry"):
            raise UserError(f"on_failure={on_failure!r} must be punish or retry")
        if settings not in ("ignore", "refuse"):
            raise UserError(f"settings={settings!r} must be ignore or refuse")
        self._settings: Settings = settings
        _check_numbers(function is not None, workers, at_once)
        self._punishes = on_failure == "punish"
        self._max_completions = max_completions
        self._slots = nullcontext() if at_once is None else asyncio.Semaphore(at_once)
        self._staying: StayingCommands | None = None
        self._run: Callable[[str, Endpoint, float], Awaitable[str | float]]
        if function is not None:
            check_function(function)
            self._run = partial(_call, function)
        elif command is not None:
            words, limits = words_of(command), host or HostLimits()
            if workers:
                self._staying = StayingCommands(words, workers, limits)
                self._run = self._staying.run
            else:
                self._run = partial(execute, words, limits)
        self._time_limit = time_limit

    async def run(self, env: Env, model: Model) -> None:
        """Run one episode.

        Raises:
            PolicyFailed: the program failed because of the model's response.
            ConversationTooLong: it failed because the task leaves no room for a response.
            ProgramFailed: it failed for another reason.
            UserError: the task contains an image.
        """
        task = await env.reset()
        if not isinstance(task, str):  # check_sight refuses only images that are declared or shown first
            raise UserError(
                "the environment shows an image that its observation_space does not declare, but a "
                "program receives only text; choose an agent such as single-turn or multi-turn"
            )
        async with self._slots, model.endpoint(self._max_completions, self._settings) as at:
            try:
                outcome = await self._run(task, at, self._time_limit)
            except ProgramFailed as error:
                judged = _judged(error, at.account, self._punishes)
                raise judged from (error.__cause__ if judged is error else error)
        reward = at.reward()
        if reward is None and isinstance(outcome, str):
            await env.step(outcome)
            return
        model.set_reward(float(outcome) if reward is None else reward)

    async def close(self) -> None:
        """End the persistent processes."""
        if self._staying is not None:
            await self._staying.close()


def _check_numbers(is_function: bool, workers: int, at_once: int | None) -> None:
    if workers < 0 or (at_once is not None and at_once < 1):
        raise UserError("workers must be at least 0 (0: no persistent processes), and at_once at least 1")
    if workers and is_function:
        raise UserError("a function has no processes; remove agent_options.workers")
    if workers and at_once is not None:
        raise UserError(
            f"workers={workers} runs the same number of episodes at once; remove agent_options.at_once"
        )


def _judged(error: ProgramFailed, account: Account, punishes: bool) -> Exception:
    """Return the error to raise, which depends on whether the model, the program or neither is at fault."""
    if isinstance(error, ProgramKilled):
        return error
    if not account.completions:
        if account.exhausted:
            return ConversationTooLong(account.exhausted)
        summary = account.summary()
        return ProgramFailed(f"{error}; it {summary}") if summary else error
    if account.aborted:
        return error
    if account.unavailable:
        return ProgramFailed(f"{error}; a request was refused: {account.unavailable}")
    if punishes or account.exhausted:
        return PolicyFailed(str(error))
    return error


def check_function(function: Function) -> None:
    """Check that a function can be a program.

    Raises:
        UserError: it is not async, or does not accept its arguments.
    """
    name = getattr(function, "__name__", repr(function))
    if not inspect.iscoroutinefunction(function):
        raise UserError(
            f"the agent {name} must be an async function, because one that blocks would delay all other "
            "episodes; write 'async def', or run it as a command: --agent program "
            "agent_options.command='python ...'"
        )
    try:
        inspect.signature(function).bind("task", base_url="", api_key="")
    except TypeError as error:
        raise UserError(
            f"the agent {name} cannot be called as {name}(task, base_url=..., api_key=...): {error}"
        ) from error


async def _call(function: Function, task: str, at: Endpoint, time_limit: float) -> str | float:
    running = asyncio.ensure_future(function(task, base_url=at.base_url, api_key=at.api_key))
    try:
        await asyncio.wait({running}, timeout=time_limit)
    finally:
        late = not running.done()
        await _cancel(running)
        # Read the exception, so that asyncio does not report it when the episode itself is cancelled.
        error = running.exception() if running.done() and not running.cancelled() else None
    if late:
        raise ProgramFailed(f"the program did not answer within {time_limit:g} s") from error
    if running.cancelled() or error is not None:
        reason = "it cancelled itself" if error is None else explained(error, __file__)
        raise ProgramFailed(f"the program crashed: {reason}") from error
    outcome = running.result()
    if isinstance(outcome, str) or (isinstance(outcome, float | int) and math.isfinite(outcome)):
        return outcome
    raise ProgramFailed(f"the program returned {outcome!r}; return its answer (text) or a reward (a number)")


async def _cancel(running: asyncio.Future[Any]) -> None:
    """Cancel a function, repeatedly if necessary: a retry loop must not outlive its episode."""
    deadline = asyncio.get_running_loop().time() + _GRACE
    while not running.done() and asyncio.get_running_loop().time() < deadline:
        running.cancel()
        await asyncio.wait({running}, timeout=_GRACE / 10)
