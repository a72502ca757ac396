"""The control socket of a run, through which a command in another terminal reaches the run.

The socket is a Unix socket in the run directory. Only the owner of the run can open it, and it is removed
when the run ends. A request is one line of JSON, ``{"command": "list"}``. The answer is another:
``{"result": …}``, or ``{"error": …}`` with one line for the user. The work of a request continues if its
sender disconnects.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

from areal.errors import UserError, WorkerLost
from areal.telemetry.run_directory import RunDirectory

log = logging.getLogger(__name__)

SOCKET = "control.sock"
"""The name of the socket in the run directory."""

Commands = Mapping[str, Callable[..., Awaitable[Any]]]
"""The function that answers each command; the other fields of a request are its keyword arguments."""


@asynccontextmanager
async def control_socket(
    directory: RunDirectory, commands: Commands, notice: Callable[[str], None]
) -> AsyncIterator[None]:
    """Answer requests to a run within the block.

    Args:
        commands: the functions that answer requests.
        notice: called with a line for the user if the folder cannot have a socket.
    """
    running = set[asyncio.Task[Any]]()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while line := await reader.readline():
                task = asyncio.ensure_future(_answer(line, commands))
                running.add(task)
                task.add_done_callback(running.discard)
                writer.write(json.dumps(await asyncio.shield(task)).encode() + b"\n")
                await writer.drain()
        except ConnectionError:
            log.info("the sender of a request has disconnected")
        finally:
            writer.close()

    try:
        with _short(directory.path) as address:  # replaces the socket of a killed run
            server = await asyncio.start_unix_server(serve, address, start_serving=False)
            os.chmod(address, 0o600)  # nobody can connect before it listens
        await server.start_serving()
    except OSError as error:
        notice(
            f"`areal workers` cannot reach this run, because {directory.path} cannot hold a socket: "
            f"{error.strerror}"
        )
        yield
        return
    try:
        yield
    finally:
        server.close()
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        (directory.path / SOCKET).unlink(missing_ok=True)


async def _answer(line: bytes, commands: Commands) -> dict[str, Any]:
    try:
        request = json.loads(line)
        command = commands[request.pop("command")]
    except (ValueError, KeyError, AttributeError):
        return {"error": f"the run does not know this command; its commands are {', '.join(commands)}"}
    try:
        return {"result": await command(**request)}
    except (UserError, WorkerLost, TypeError) as error:
        log.warning("a request to the run failed: %s", error)
        return {"error": str(error)}


def ask(run: str, command: str, **fields: Any) -> Any:
    """Send a request to an active run, and wait for the answer.

    Raises:
        UserError: the run does not exist, is not running, or refuses the request.
    """
    path = RunDirectory.open(run).path
    with socket.socket(socket.AF_UNIX) as end, _short(path) as address:
        try:
            end.connect(address)
        except FileNotFoundError as error:
            raise UserError(
                f"{run} is not active, or has not started its engines yet; `areal train --resume {run}` "
                "resumes a stopped run"
            ) from error
        except ConnectionRefusedError as error:
            raise UserError(
                f"{run} is not active on this host: it was killed and left {SOCKET} behind, or it is active "
                f"on another host; `areal train --resume {run}` resumes a killed run"
            ) from error
        except OSError as error:
            raise UserError(f"cannot reach {run}: {error.strerror}") from error
        with suppress(ConnectionError):
            end.sendall(json.dumps({"command": command, **fields}).encode() + b"\n")
            with end.makefile("rb") as answers:
                if line := answers.readline():
                    answer = json.loads(line)
                    if "error" in answer:
                        raise UserError(answer["error"])
                    return answer["result"]
    raise UserError(f"{run} ended before it answered")


@contextmanager
def _short(folder: Path) -> Iterator[str]:
    """Yield an address of a folder's socket of at most 108 bytes, because the folder's path may be longer."""
    descriptor = os.open(folder, os.O_PATH | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{descriptor}/{SOCKET}"
    finally:
        os.close(descriptor)
