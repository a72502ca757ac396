"""A worker that is frozen is found, says where it was, and is killed; one that works is left alone."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from children import workers
from toys import Counting, Owner, Toy
from until import stopped

from areal.errors import WorkerFrozen
from areal.workers import process, vitals
from areal.workers.guard import Guard

SOON = 120
"""Seconds in which what is frozen must be found, on the slowest machine."""


async def start(guard: Guard, kind: type[Toy] = Toy) -> Any:
    return await process.launch_guarded(guard)("toy", {}, kind)


async def frozen(kind: type[Toy], freeze: Callable[[Any, int], Any]) -> tuple[str, str]:
    """Freeze a toy that has a child, and wait until it is found; return the reason, and all stacks."""
    guard, stacks = Guard(stall_limit=30), []

    async def report(worker: Any, why: str) -> str:
        stacks.append(await worker.stacks(forced=True))
        return "; it is reported"

    guard.report = report
    toy = await start(guard, kind)
    child = await toy.call(Toy.fork)
    below = [psutil.Process(child)]
    assert guard.workers == [toy]
    waiting = asyncio.ensure_future(freeze(toy, child))
    with pytest.raises(WorkerFrozen) as error:
        await asyncio.wait_for(waiting, SOON)
    reason = await toy.ended
    assert str(error.value) == f"toy ended: {reason}"
    assert guard.workers == []
    assert psutil.wait_procs(below, timeout=SOON)[1] == []
    [text] = stacks
    for pid in (toy.pid, child):
        assert re.search(rf"^process {pid} \(.+\), state .:$", text, re.MULTILINE)
    assert "in fork" in text, "where the child is"
    return reason.replace(str(child), "CHILD"), text


async def test_workers_of_a_worker_say_where_they_are_and_what_is_stopped_comes_first():
    owner = await process.launch("owner", {}, Owner)
    pids = await owner.call(Owner.own, 3)
    await stopped(pids[2])
    text = await owner.stacks(forced=True)
    states = {
        int(pid): state
        for pid, state in re.findall(r"^process (\d+) \(.+\), state (.):$", text, re.MULTILINE)
    }
    assert list(states) == [pids[2], owner.pid, *pids[:2]]
    assert states[pids[2]] == "T"
    assert text.count("in <module>\n") == len(states), "the main thread of each"
    await owner.close()


async def test_stacks_are_never_written_into_a_file_of_somebody_elses(tmp_path: Path, monkeypatch: Any):
    """A variable may name a descriptor of a process that is another one by now."""
    theirs = tmp_path / "theirs"
    theirs.write_text("important")
    with theirs.open() as file:
        monkeypatch.setenv("AREAL_STACKS", f"/proc/{os.getpid()}/fd/{file.fileno()}")
        toy = await process.launch("toy", {}, Toy)
        assert "in <module>\n" in await toy.stacks(forced=False)
        await toy.close()
    assert theirs.read_text() == "important"


PAUSES = """
import os, signal, sys, time

def write(*_):
    for line in ('Thread 1:\\n', '  File "a.py", line 1 in wait\\n', '  File "a.py", line 2 in <module>\\n'):
        os.write(int(sys.argv[1]), line.encode())
        time.sleep(0.12)

signal.signal(signal.SIGUSR2, write)
print(flush=True)
time.sleep(1000)
"""


async def test_a_process_may_pause_while_it_writes_its_stacks():
    file = vitals.stacks_file()
    command = [sys.executable, "-c", PAUSES, str(file)]
    writer = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE, pass_fds=[file])
    assert writer.stdout is not None
    await writer.stdout.readline()
    text = await vitals.take_stacks(writer.pid, file, forced=False)
    writer.kill()
    await writer.wait()
    os.close(file)
    assert text.endswith(" in <module>\n")


async def test_a_process_that_runs_survives_being_read():
    toy = await process.launch("toy", {}, Toy)
    running = asyncio.ensure_future(toy.call(Toy.recurse, 10.0))
    while not running.done():
        assert "in <module>\n" in await toy.stacks(forced=False)
    await running
    await toy.close()


def stop(toy: Any, child: int) -> Any:
    os.kill(toy.pid, signal.SIGSTOP)
    return toy.call(Toy.add)


async def stop_child(toy: Any, child: int) -> None:
    await toy.call(Toy.stop, child)
    await toy.call(Toy.wait, "")


async def stand_still(toy: Any, child: int) -> None:
    for _ in range(8):
        await toy.call(Toy.add)
    await toy.call(Toy.wait, "")


FREEZES: dict[str, tuple[type[Toy], Callable[[Any, int], Any], str, str]] = {
    "stopped": (Toy, stop, r"no heartbeat for \d s; it is stopped", "in serve"),
    "waits in native code": (
        Toy,
        lambda toy, child: toy.call(Toy.hold),
        r"no heartbeat for \d s",
        "in hold",
    ),
    "computes in native code": (
        Toy,
        lambda toy, child: toy.call(Toy.compute, 3600),
        r"no heartbeat for [34]\d s",
        "in compute",
    ),
    "a process below it is stopped": (
        Toy,
        stop_child,
        r"no work for \d s; its process CHILD \(.+\) is stopped",
        "in serve",
    ),
    "its work stands still": (
        Counting,
        stand_still,
        r"no progress for [34]\d s at 8 numbers, 1 in progress",
        "in serve",
    ),
}


async def test_a_frozen_worker_is_found_with_its_stacks_and_killed():
    found = await asyncio.gather(*(frozen(kind, freeze) for kind, freeze, _, _ in FREEZES.values()))
    for (name, (_, _, reason, place)), (ended, stacks) in zip(FREEZES.items(), found, strict=True):
        assert re.fullmatch(rf"{reason} \(frozen\); it is reported", ended), (name, ended)
        assert place in stacks, name
    assert workers() == []


def slow_start(seconds: float) -> Toy:
    """Make a toy, whose event loop waits for a process meanwhile that computes."""
    code = f"import time; end = time.monotonic() + {seconds}\nwhile time.monotonic() < end: pass"
    subprocess.run([sys.executable, "-c", code], check=True)
    return Toy()


async def slow_start_on_the_loop(seconds: float) -> Toy:
    return slow_start(seconds)


async def test_who_works_or_is_held_up_by_others_is_not_accused():
    launch = process.launch_guarded(Guard(stall_limit=40))
    toy = await launch("toy", {}, slow_start_on_the_loop, 6)
    assert await asyncio.wait_for(toy.call(Toy.compute, 6), SOON) > 0, "it computed in native code"
    os.kill(toy.pid, signal.SIGSTOP)
    await asyncio.sleep(1)
    os.kill(toy.pid, signal.SIGCONT)
    time.sleep(6)  # noqa: ASYNC251 (our own event loop stands still)
    assert await toy.call(Toy.add) == 1
    assert toy.pulse.silent < 4
    await toy.close()
    never = await start(Guard(stall_limit=0))
    os.kill(never.pid, signal.SIGSTOP)
    assert not (await asyncio.wait([never.ended], timeout=3))[0]
    os.kill(never.pid, signal.SIGCONT)
    await never.close()


DEBUGGER = """
import ctypes, os, sys
pid, libc = int(sys.argv[1]), ctypes.CDLL(None)
libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
if libc.ptrace(16, pid, None, None):  # PTRACE_ATTACH
    sys.exit("debuggers are not allowed here")
os.waitpid(pid, 0)
print("held", flush=True)
sys.stdin.read()
libc.ptrace(17, pid, None, None)  # PTRACE_DETACH
"""


async def test_what_a_debugger_holds_is_left_alone():
    toy = await start(Guard(stall_limit=30))
    debugger = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", DEBUGGER, str(toy.pid)), stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert debugger.stdin is not None
    assert debugger.stdout is not None
    if await debugger.stdout.readline() != b"held\n":
        pytest.skip("debuggers are not allowed here")
    assert not (await asyncio.wait([toy.ended], timeout=8))[0]
    debugger.stdin.close()
    assert await debugger.wait() == 0
    assert await asyncio.wait_for(toy.call(Toy.add), SOON) == 1
    await toy.close()


PARENT = """
import asyncio
from test_guard import start
from areal.workers.guard import Guard
from toys import Toy

async def main():
    toy = await start(Guard(stall_limit=20))
    print("begun", flush=True)
    for _ in range(60):
        await asyncio.sleep(0.1)
        await toy.call(Toy.add)
    print(await toy.call(Toy.add, 0), flush=True)
    await toy.close()

asyncio.run(main())
"""


def test_a_run_that_is_suspended_and_goes_on_accuses_nobody():
    """As by Ctrl-Z and ``fg``: its workers are no part of the terminal's process group."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, env=environment) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"begun\n"
        parent.send_signal(signal.SIGSTOP)
        time.sleep(6)
        parent.send_signal(signal.SIGCONT)
        assert parent.stdout.readline() == b"60\n"
    assert parent.returncode == 0
