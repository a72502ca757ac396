"""A run in the local sandbox ends on time and takes no more than it may."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from dataclasses import replace

import psutil
import pytest
from running import LONG, SHORT, call, gone

from areal.rewards.cases import CallCase, CallTests
from areal.rewards.code import CodeVerifier
from areal.sandbox.interface import Call, Returned, SandboxLimits, SandboxUnavailable
from areal.sandbox.process import ending


def test_it_ends_at_the_last_answer_whatever_goes_on(sandbox):
    source = (
        "import threading, time\n"
        "def f():\n    threading.Thread(target=time.sleep, args=(1000,)).start()\n    return 1"
    )
    start = time.monotonic()
    assert call(sandbox, source, limits=SandboxLimits(wall_s=300)).values == (Returned(1),)
    assert time.monotonic() - start < 200


@pytest.mark.parametrize("source", ["while True: pass", "import time; time.sleep(1000)", "input()"])
def test_it_ends_at_the_deadline(sandbox, source):
    start = time.monotonic()
    call(sandbox, source, limits=SHORT)
    assert time.monotonic() - start < 60


def test_threads_that_burn_time_end_too(sandbox):
    source = """
import threading, hashlib
def burn(): hashlib.pbkdf2_hmac('sha256', b'', b'', 10**9)
for _ in range(8): threading.Thread(target=burn).start()
while True: pass
"""
    start = time.monotonic()
    outcome = call(sandbox, source, limits=SandboxLimits(wall_s=300, cpu_s=1))
    assert outcome.status == "timeout"
    assert time.monotonic() - start < 200


def test_time_that_is_up_is_not_taken_for_memory():
    """The kernel ends a run by ticks; what it then says was used may be a good deal less."""
    limits = SandboxLimits(wall_s=20, cpu_s=1)
    assert ending(signal.SIGXCPU, 0.6, limits, partial=False).status == "timeout"
    assert ending(signal.SIGKILL, 1.0, limits, partial=False).status == "timeout"
    assert ending(signal.SIGKILL, 0.6, limits, partial=False).status == "memory"


def test_threads_are_limited_for_each_run_alone(sandbox):
    source = (
        "import threading, time\n"
        "def f():\n    n = 1\n    try:\n        for _ in range(100):\n"
        "            threading.Thread(target=time.sleep, args=(1000,), daemon=True).start(); n += 1\n"
        "    except RuntimeError: pass\n    return n"
    )
    limits = replace(LONG, threads=12)
    found = []
    threads = [
        threading.Thread(target=lambda: found.append(sandbox.backend.open(limits, b""))) for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # Three more runs are alive on the same zygote meanwhile; they have counters of their own.
    assert call(sandbox, source, limits=limits).values == (Returned(12),)
    for run in found:
        run.stop()


def test_files_and_scratch_are_limited(sandbox):
    source = """
import os
def f():
    n = total = 0
    try:
        while True:
            os.dup(0)
            n += 1
    except OSError: os.closerange(5, n + 5)
    try:
        while True:
            with open(f'/tmp/{total}', 'wb', buffering=0) as file: total += file.write(bytes(1 << 20))
    except OSError: return n, total >> 20
"""
    limits = replace(LONG, files=20, scratch_mb=4)
    ((descriptors, written),) = [answer.value for answer in call(sandbox, source, limits=limits).values]
    assert descriptors == 15
    assert 3 <= written <= 5


@pytest.mark.parametrize(("kills", "expected"), [(1, 1.0), (2, None), (99, None)])
async def test_a_run_that_the_host_kills_is_no_score(sandbox, kills, expected):
    """Killed once it runs again; killed each time it is an error: it cannot have killed itself."""
    (keeper,) = sandbox.backend.workers()
    (zygote,) = psutil.Process(keeper).children()
    over = threading.Event()

    def kill() -> None:
        left = kills
        while left and not over.wait(0.05):
            for run in zygote.children():
                with contextlib.suppress(psutil.NoSuchProcess):
                    run.kill()
                    left -= 1
                gone([run.pid])

    killer = threading.Thread(target=kill)
    killer.start()
    verifier = CodeVerifier(sandbox, LONG, retries=1)
    tests = CallTests((CallCase(Call("f", (3,)), 9),))
    try:
        verdict = await verifier.verify("import time\ntime.sleep(3)\ndef f(x): return x * x", tests)
    except SandboxUnavailable:
        assert expected is None
    else:
        assert verdict.score == expected
    finally:
        over.set()
        killer.join()
    assert verifier.infra_failures == min(kills, 2)
