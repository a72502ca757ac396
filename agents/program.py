"""Any program as an agent: it gets the task, an address where the model is, and a key."""

from __future__ import annotations

import asyncio
import inspect
import math
import os
import shlex
import shutil
import signal
import tempfile
from collections.abc import Awaitable, Callable
from typing import IO, Any, Literal

from areal.agents.interface import Account, ConversationTooLong, Endpoint, Env, Model, PolicyFailed, Settings
from areal.errors import AgentFailure, UserError, explained
from areal.host_limits import HostLimits

Function = Callable[..., Awaitable[str | float]]
"""``await function(task, base_url=..., api_key=...)``; returns its answer, or a number: the reward."""

_MAX_OUTPUT = 2**20
"""Bytes that a command may write to each of its streams."""
_MAX_COMPLETIONS = 256
"""Completions that one episode may sample, unless ``max_completions`` says otherwise."""
_LOOK = 0.5
"""Seconds between two looks at what a command writes."""
_GRACE = 5.0
"""Seconds for a function that was cancelled to end."""
_KILLED = (-signal.SIGKILL, 128 + signal.SIGKILL)
"""How a command ends that was killed, or a shell whose last command was."""


class ProgramFailed(AgentFailure):
    """The program crashed or hung, for a reason other than the model's response: the episode is run again."""


class ProgramKilled(ProgramFailed):
    """The host had no memory left, and the kernel ended the program: the episode is run again."""


class Program:
    """Runs a program once for each task.

    The program's answer is the action in the environment, whose reward counts. A program may set the reward
    itself instead: a function by returning a number, any program by ``POST /v1/reward``.

    Args:
        function: an async function, called as ``function(task, base_url=..., api_key=...)``.
        command: a command line, in place of a function. It reads the task from its standard input, takes the
            address and the key from the variables that OpenAI's and Anthropic's SDKs read, and writes its
            answer to standard output.
        time_limit: seconds for one episode; then it is killed.
        max_completions: how many completions one episode may sample.
        on_failure: what becomes of an episode whose program crashes, hangs or returns nothing usable
            after the model has said something: ``punish`` gives it the reward 0, ``retry`` runs it again.
            One whose history outgrew the model, or that had all its completions, has the reward 0 either way;
            one whose program was refused what it asked for, that the engine gave up, or that the kernel's
            out-of-memory killer ended, is run again.
        settings: what becomes of calls that wish for another distribution over responses than the run's
            (another temperature, JSON alone, a call of a tool whatever the model says): ``ignore`` serves
            them as the run samples, ``refuse`` refuses them.
        host: counts what the kernel kills; None: this host.

    Raises:
        UserError: neither or both of ``function`` and ``command`` are given, or it cannot be run.
    """

    def __init__(
        self,
        function: Function | None = None,
        command: str | None = None,
        time_limit: float = 600.0,
        max_completions: int = _MAX_COMPLETIONS,
        on_failure: Literal["punish", "retry"] = "punish",
        settings: Settings = "ignore",
        host: HostLimits | None = None,
    ) -> None:
        if (function is None) == (command is None):
            raise UserError(
                "a program is a function (--agent my_agent.py:solve) or a command "
                "(--agent program agent_options.command='python my_agent.py')"
            )
        if time_limit <= 0 or max_completions < 1:
            raise UserError("time_limit is a number of seconds above 0, and max_completions at least 1")
        if on_failure not in ("punish", "retry"):
            raise UserError(f"on_failure={on_failure!r} is neither punish nor retry")
        if settings not in ("ignore", "refuse"):
            raise UserError(f"settings={settings!r} is neither ignore nor refuse")
        self._settings: Settings = settings
        self._punishes = on_failure == "punish"
        self._max_completions = max_completions
        if function is not None:
            check_function(function)
            self._run = lambda task, at: _call(function, task, at, time_limit)
        elif command is not None:
            words, limits = _words(command), host or HostLimits()
            self._run = lambda task, at: _execute(words, task, at, time_limit, limits)

    async def run(self, env: Env, model: Model) -> None:
        """Run one episode.

        Raises:
            PolicyFailed: the program failed because of the model's response.
            ConversationTooLong: it failed because the task leaves no room for a response.
            ProgramFailed: it failed for another reason.
        """
        task = await env.reset()
        async with model.endpoint(self._max_completions, self._settings) as at:
            try:
                outcome = await self._run(task, at)
            except ProgramFailed as error:
                judged = _judged(error, at.account, self._punishes)
                raise judged from (error.__cause__ if judged is error else error)
        reward = at.reward()
        if reward is None and isinstance(outcome, str):
            await env.step(outcome)
            return
        model.set_reward(float(outcome) if reward is None else reward)


def _judged(error: ProgramFailed, account: Account, punishes: bool) -> Exception:
    """Return the error to raise: it depends on whether the model, the program or neither is to blame."""
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
        return ProgramFailed(f"{error}; a call was refused: {account.unavailable}")
    if punishes or account.exhausted:
        return PolicyFailed(str(error))
    return error


def check_function(function: Function) -> None:
    """Check that a function can be a program.

    Raises:
        UserError: it is not async, or does not take what it is called with.
    """
    name = getattr(function, "__name__", repr(function))
    if not inspect.iscoroutinefunction(function):
        raise UserError(
            f"the agent {name} must be an async function: one that blocks would hold up every other episode; "
            "write 'async def', or run it as a command: --agent program agent_options.command='python ...'"
        )
    try:
        inspect.signature(function).bind("task", base_url="", api_key="")
    except TypeError as error:
        raise UserError(
            f"the agent {name} is called as {name}(task, base_url=..., api_key=...): {error}"
        ) from error


def _words(command: str) -> list[str]:
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise UserError(f"agent_options.command={command!r}: {error}") from error
    if not words or shutil.which(words[0]) is None:
        raise UserError(f"agent_options.command={command!r}: there is no such program; give its whole path")
    return words


async def _call(function: Function, task: str, at: Endpoint, time_limit: float) -> str | float:
    running = asyncio.ensure_future(function(task, base_url=at.base_url, api_key=at.api_key))
    try:
        await asyncio.wait({running}, timeout=time_limit)
    finally:
        late = not running.done()
        await _cancel(running)
        # Read here, so that asyncio does not report it where the episode itself is cancelled.
        error = running.exception() if running.done() and not running.cancelled() else None
    if late:
        raise ProgramFailed(f"the program gave no answer within {time_limit:g} s") from error
    if running.cancelled() or error is not None:
        reason = "it cancelled itself" if error is None else explained(error, __file__)
        raise ProgramFailed(f"the program crashed: {reason}") from error
    outcome = running.result()
    if isinstance(outcome, str) or (isinstance(outcome, float | int) and math.isfinite(outcome)):
        return outcome
    raise ProgramFailed(f"the program returned {outcome!r}: return its answer (text) or a reward (a number)")


async def _cancel(running: asyncio.Future[Any]) -> None:
    """Cancel a function, again if it catches that: a loop of retries must not outlive its episode."""
    deadline = asyncio.get_running_loop().time() + _GRACE
    while not running.done() and asyncio.get_running_loop().time() < deadline:
        running.cancel()
        await asyncio.wait({running}, timeout=_GRACE / 10)


async def _execute(words: list[str], task: str, at: Endpoint, time_limit: float, host: HostLimits) -> str:
    before = host.read()
    # Files, not pipes: a child that it leaves behind and that holds one open keeps nobody waiting.
    with tempfile.TemporaryFile() as said, tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        said.write(task.encode())
        said.seek(0)
        process = await asyncio.create_subprocess_exec(
            *words, stdin=said, stdout=out, stderr=err, env=_environment(at), start_new_session=True
        )
        try:
            async with asyncio.timeout(time_limit):
                await _ended(process, (out, err))
        except TimeoutError:
            raise ProgramFailed(f"the program gave no answer within {time_limit:g} s{_last(err)}") from None
        finally:
            _kill_group(process.pid)
            await process.wait()
        if process.returncode in _KILLED and host.read().oom_kills > before.oom_kills:
            raise ProgramKilled(f"the kernel's out-of-memory killer ended the program{_last(err)}")
        if process.returncode != 0:
            raise ProgramFailed(f"the program ended with code {process.returncode}{_last(err)}")
        out.seek(0)
        return out.read(_MAX_OUTPUT).decode(errors="replace").strip()


async def _ended(process: asyncio.subprocess.Process, written: tuple[IO[bytes], ...]) -> None:
    ending = asyncio.ensure_future(process.wait())
    try:
        while not ending.done():
            await asyncio.wait({ending}, timeout=_LOOK)
            if any(os.fstat(file.fileno()).st_size > _MAX_OUTPUT for file in written):
                raise ProgramFailed(f"the program wrote more than {_MAX_OUTPUT} bytes")
    finally:
        ending.cancel()


def _kill_group(leader: int) -> None:
    """Kill a process and what it started; all of them are in its group, unless they left it on purpose."""
    try:
        os.killpg(leader, signal.SIGKILL)
    except ProcessLookupError:  # it left nothing behind
        return


def _last(errors: IO[bytes]) -> str:
    """The last line of what it wrote to standard error."""
    size = os.fstat(errors.fileno()).st_size
    errors.seek(max(0, size - 1000))
    lines = errors.read().decode(errors="replace").strip().splitlines()
    return f": {lines[-1]}" if lines else ""


def _environment(at: Endpoint) -> dict[str, str]:
    """Return our environment with the address and key, as the SDKs look for them."""
    ours = {name: value for name, value in os.environ.items() if name != "ANTHROPIC_AUTH_TOKEN"}
    direct = ",".join(filter(None, [ours.get("NO_PROXY", ours.get("no_proxy", "")), "127.0.0.1"]))
    return ours | {
        "OPENAI_BASE_URL": at.base_url,
        "OPENAI_API_KEY": at.api_key,
        "ANTHROPIC_BASE_URL": at.base_url.removesuffix("/v1"),
        "ANTHROPIC_API_KEY": at.api_key,
        "NO_PROXY": direct,
        "no_proxy": direct,
    }
