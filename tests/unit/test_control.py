"""A run that is going on is reached from another terminal, by its owner alone; others say what is wrong."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from areal.errors import UserError
from areal.runtime.control import SOCKET, ask, control_socket
from areal.telemetry.run_directory import RunDirectory


@pytest.fixture
def directory(tmp_path: Path) -> RunDirectory:
    """Of a name that is longer than the address of a socket may be."""
    folder = tmp_path / ("long " * 30)
    folder.mkdir()
    (folder / "config.yaml").write_text("")
    return RunDirectory.open(folder)


async def double(number: int) -> int:
    if number < 0:
        raise UserError("give a number that is not negative")
    await asyncio.sleep(0.01)
    return 2 * number


def served(directory: RunDirectory, notices: list[str] | None = None, **commands: Any) -> Any:
    return control_socket(directory, {"double": double, **commands}, (notices or []).append)


async def asked(directory: RunDirectory, command: str, **fields: Any) -> Any:
    return await asyncio.to_thread(ask, str(directory.path), command, **fields)


async def test_answers_come_and_errors_are_the_users(directory: RunDirectory):
    async with served(directory):
        assert stat.S_IMODE((directory.path / SOCKET).stat().st_mode) == 0o600
        assert await asyncio.gather(*(asked(directory, "double", number=n) for n in range(5))) == [
            0, 2, 4, 6, 8,
        ]  # fmt: skip
        with pytest.raises(UserError, match=r"^give a number that is not negative$"):
            await asked(directory, "double", number=-1)
        with pytest.raises(UserError, match="does not know this command; its commands are double"):
            await asked(directory, "halve", number=1)
        with pytest.raises(UserError, match="missing 1 required"):
            await asked(directory, "double")
        reader, writer = await asyncio.open_unix_connection(sock=_connected(directory))
        writer.write(b"[1\n" + b'{"command": "double", "number": 4}\n')
        assert "error" in json.loads(await reader.readline())
        assert json.loads(await reader.readline()) == {"result": 8}
        writer.close()
    assert not (directory.path / SOCKET).exists()


def _connected(directory: RunDirectory) -> socket.socket:
    end = socket.socket(socket.AF_UNIX)
    folder = os.open(directory.path, os.O_PATH)
    end.connect(f"/proc/self/fd/{folder}/{SOCKET}")
    os.close(folder)
    return end


async def test_what_was_begun_goes_on_without_whoever_asked(directory: RunDirectory):
    begun, done = asyncio.Event(), asyncio.Event()

    async def work() -> None:
        begun.set()
        await asyncio.sleep(0.2)
        done.set()

    async with served(directory, work=work):
        end = _connected(directory)
        end.sendall(b'{"command": "work"}\n')
        await asyncio.wait_for(begun.wait(), 60)
        end.close()
        await asyncio.wait_for(done.wait(), 60)


async def test_a_run_that_ends_leaves_nobody_waiting(directory: RunDirectory):
    begun = asyncio.Event()

    async def forever() -> None:
        begun.set()
        await asyncio.sleep(1000)

    async with served(directory, forever=forever):
        waiting = asyncio.ensure_future(asked(directory, "forever"))
        await asyncio.wait_for(begun.wait(), 60)
    with pytest.raises(UserError, match="ended before it answered"):
        await asyncio.wait_for(waiting, 60)


async def test_runs_that_are_not_going_on_say_so(directory: RunDirectory, tmp_path: Path):
    with pytest.raises(UserError, match="is not a run directory"):
        ask(str(tmp_path), "double")
    with pytest.raises(UserError, match="is not active, or has not started"):
        ask(str(directory.path), "double")
    code = (
        "import os, socket, sys; os.chdir(sys.argv[1]); s = socket.socket(socket.AF_UNIX); "
        f"s.bind('{SOCKET}'); s.listen(); os.kill(os.getpid(), 9)"
    )
    await asyncio.to_thread(subprocess.run, [sys.executable, "-c", code, str(directory.path)])
    with pytest.raises(UserError, match=f"it was killed and left {SOCKET} behind"):
        ask(str(directory.path), "double")
    async with served(directory):  # it is resumed
        assert await asked(directory, "double", number=3) == 6


async def test_a_folder_that_can_have_no_socket_costs_the_run_nothing(directory: RunDirectory):
    notices: list[str] = []
    (directory.path / SOCKET).mkdir()
    async with control_socket(directory, {}, notices.append):
        pass
    [line] = notices
    assert line.startswith("`areal workers` cannot reach this run, because ")
