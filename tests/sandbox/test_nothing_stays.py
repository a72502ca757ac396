"""Nothing stays behind in the local sandbox, and one bad run costs one run."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import owners
import pytest
from running import SHORT, STATUSES, call, descendants, gone

import areal
from areal.sandbox.interface import (
    Call,
    Calls,
    Job,
    Returned,
    SandboxLimits,
    SandboxUnavailable,
)
from areal.sandbox.local import local_sandbox

ROOT = Path(areal.__file__).absolute().parents[1]


def test_runs_leave_no_process_no_descriptor(sandbox):
    (keeper,) = sandbox.backend.workers()

    def held():
        return len(os.listdir("/proc/self/fd")), len(descendants(keeper)), descriptors_of(descendants(keeper))

    call(sandbox, "def f(): return 1")
    # The zygote closes a run's descriptors just after it has reported its end.
    time.sleep(0.5)
    before = held()
    for source in ["def f(): return 1", *STATUSES.values()]:
        call(sandbox, source, limits=SHORT)
    end = time.monotonic() + 60
    while not (stays := all(now <= then for now, then in zip(held(), before, strict=True))):
        assert time.monotonic() < end, (before, held())
        time.sleep(0.02)
    assert stays


def descriptors_of(pids: list[int]) -> int:
    return sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in pids)


def test_many_at_once_do_not_mix():
    async def all_of_them():
        pool = local_sandbox(4)
        try:
            jobs = [Job("def f(x): return x", Calls((Call("f", (n,)),))) for n in range(60)]
            bad = [Job("import os; os.kill(os.getpid(), 11)", Calls((Call("f"),)))] * 20
            outcomes = await asyncio.gather(*map(pool.run, [*jobs, *bad]))
            return [outcome.values for outcome in outcomes[:60]]
        finally:
            await pool.close()

    assert asyncio.run(all_of_them()) == [(Returned(n),) for n in range(60)]


@pytest.mark.parametrize("victim", ["keeper", "zygote"])
def test_a_zygote_that_is_killed_is_replaced(victim):
    pool = local_sandbox(1)
    try:
        assert call(pool, "def f(): return 1").status == "ok"
        (keeper,) = pool.backend.workers()
        (zygote,) = descendants(keeper)
        os.kill({"keeper": keeper, "zygote": zygote}[victim], signal.SIGKILL)
        assert gone([keeper, zygote])
        assert call(pool, "def f(): return 2").values == (Returned(2),)
        assert pool.backend.workers() != [keeper]
    finally:
        pool.close_blocking()


def test_a_zygote_killed_during_a_run_is_our_failure():
    pool = local_sandbox(1)
    try:
        (keeper,) = (pool.backend.level, pool.backend.workers())[1]

        def kill_during_the_run() -> None:
            descendants(keeper, at_least=2)  # the zygote and the run
            os.kill(keeper, signal.SIGKILL)

        threading.Thread(target=kill_during_the_run).start()
        assert call(pool, "while True: pass", limits=SandboxLimits(wall_s=60)).status == "infra_error"
        assert call(pool, "def f(): return 2").values == (Returned(2),)
    finally:
        pool.close_blocking()


HOST = """
import asyncio, os, sys, threading, time
from areal.sandbox.interface import Call, Calls, Job, SandboxLimits
from areal.sandbox.local import local_sandbox

def start_in_a_thread_that_ends():
    global pool
    pool = local_sandbox(2)
    pool.backend.level

async def main():
    session = await pool.session()
    await session.run("x = 1")
    job = Job("while True: pass", Calls(()))
    busy = [asyncio.create_task(pool.run(job, SandboxLimits(wall_s=60))) for _ in range(2)]
    print("up", flush=True)
    await asyncio.gather(*busy)

thread = threading.Thread(target=start_in_a_thread_that_ends)
thread.start()
thread.join()
time.sleep(0.2)
assert pool.backend.workers(), "the zygote died with the thread that had started it"
asyncio.run(main())
"""


@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGTERM])
def test_nothing_outlives_the_host_process(sandbox, sign):
    host = subprocess.Popen(
        [sys.executable, "-c", HOST], env=os.environ | {"PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE
    )
    assert host.stdout.readline() == b"up\n"
    # Two keepers, two zygotes, a session, two runs.
    family = descendants(host.pid, at_least=7)
    assert len(family) == 7
    host.send_signal(sign)
    assert gone(family)
    host.wait()
    host.stdout.close()


@pytest.mark.parametrize("killed", ["host", "worker"])
def test_what_is_stopped_does_not_outlive_its_owner(killed):
    """Nothing that could see the owner's end runs any more: the kernel has to see to it."""
    command = [sys.executable, "-c", "import asyncio, owners; asyncio.run(owners.main())"]
    host = subprocess.Popen(command, cwd=Path(__file__).parent, stdout=subprocess.PIPE)
    worker = int(host.stdout.readline())
    family = descendants(host.pid, at_least=2 * owners.EACH)
    assert len(family) == 2 * owners.EACH
    for pid in family:
        if killed == "host" or pid != worker:
            os.kill(pid, signal.SIGSTOP)
    os.kill(host.pid if killed == "host" else worker, signal.SIGKILL)
    try:
        assert gone(family, patience_s=60)
    finally:
        for pid in [host.pid, *family]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        host.wait()
        host.stdout.close()


def test_closing_ends_all_even_a_session():
    async def main():
        others = descendants(os.getpid())
        pool = local_sandbox(1)
        session = await pool.session()
        await session.run("x = 1")
        family = [pid for pid in descendants(os.getpid()) if pid not in others]
        await pool.close()
        await pool.close()
        with pytest.raises(SandboxUnavailable):
            await pool.session()
        return family

    family = asyncio.run(main())
    # A keeper, a zygote and the session.
    assert len(family) == 3
    assert gone(family)
