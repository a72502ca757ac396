"""A program as a command: one process for each episode, killed at its end with all that it started."""

from __future__ import annotations

import asyncio
import os
import shlex
import shutil
import signal
import tempfile
from typing import IO

from areal.agents.interface import Endpoint
from areal.errors import AgentFailure, UserError, how_ended
from areal.host_limits import HostLimits

MAX_OUTPUT = 2**20
"""Maximum number of bytes that a command may write to each of its streams."""
LOOK = 0.5
"""Seconds between two checks of what a command has written."""
_KILLED = (-signal.SIGKILL, 128 + signal.SIGKILL)
"""Exit codes of a killed command, or of a shell whose last command was killed."""


class ProgramFailed(AgentFailure):
    """The program crashed or hung, and the model's response is not the cause: the episode runs again."""


class ProgramKilled(ProgramFailed):
    """The kernel killed the program because the host ran out of memory: the episode runs again."""


def words_of(command: str) -> list[str]:
    """Return the words of a command line; raises UserError if the program does not exist."""
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise UserError(f"agent_options.command={command!r}: {error}") from error
    if not words or shutil.which(words[0]) is None:
        raise UserError(f"agent_options.command={command!r}: the program does not exist; give its full path")
    return words


async def execute(words: list[str], host: HostLimits, task: str, at: Endpoint, time_limit: float) -> str:
    """Run a command for one task; return what it writes to standard output.

    Raises:
        ProgramFailed: it crashes, hangs for ``time_limit`` seconds, or writes too much.
    """
    before = host.read().oom_kills
    # Files, not pipes: if a child outlives the command and keeps one open, nothing waits for it.
    with tempfile.TemporaryFile() as said, tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        said.write(task.encode())
        said.seek(0)
        process = await asyncio.create_subprocess_exec(
            *words, stdin=said, stdout=out, stderr=err, env=environment(at), start_new_session=True
        )
        try:
            async with asyncio.timeout(time_limit):
                await _ended(process, (out, err))
        except TimeoutError:
            raise late(time_limit, err) from None
        finally:
            kill_group(process.pid)
            await process.wait()
        if process.returncode != 0:
            raise ended(process.returncode, err, host.read().oom_kills > before)
        out.seek(0)
        return out.read(MAX_OUTPUT).decode(errors="replace").strip()


async def _ended(process: asyncio.subprocess.Process, written: tuple[IO[bytes], ...]) -> None:
    ending = asyncio.ensure_future(process.wait())
    try:
        while not ending.done():
            await asyncio.wait({ending}, timeout=LOOK)
            if any(os.fstat(file.fileno()).st_size > MAX_OUTPUT for file in written):
                raise flooded()
    finally:
        ending.cancel()


def kill_group(leader: int) -> None:
    """Kill a process and its descendants, which are in its process group unless they left it on purpose."""
    try:
        os.killpg(leader, signal.SIGKILL)
    except ProcessLookupError:  # all of them have ended
        return


def late(time_limit: float, errors: IO[bytes]) -> ProgramFailed:
    """Return the failure of a program that exceeds its time limit."""
    return ProgramFailed(f"the program did not answer within {time_limit:g} s{_last_line(errors)}")


def flooded() -> ProgramFailed:
    """Return the failure of a program that writes too much."""
    return ProgramFailed(f"the program wrote more than {MAX_OUTPUT} bytes")


def ended(returncode: int | None, errors: IO[bytes], oom: bool) -> ProgramFailed:
    """Return the failure of a program that has ended; ``oom``: the kernel killed a process meanwhile."""
    if oom and returncode in _KILLED:
        return ProgramKilled(f"the kernel's out-of-memory killer ended the program{_last_line(errors)}")
    if returncode is not None and returncode < 0:
        return ProgramFailed(f"the program was {how_ended(returncode)}{_last_line(errors)}")
    return ProgramFailed(f"the program exited with code {returncode}{_last_line(errors)}")


def _last_line(errors: IO[bytes]) -> str:
    """Return the last line that a program wrote to standard error, for a message."""
    size = os.fstat(errors.fileno()).st_size
    errors.seek(max(0, size - 1000))
    lines = errors.read().decode(errors="replace").strip().splitlines()
    return f": {lines[-1]}" if lines else ""


def environment(at: Endpoint) -> dict[str, str]:
    """Return this process's environment with the address and the key, as the SDKs expect them."""
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
