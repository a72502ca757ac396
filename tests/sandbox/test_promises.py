"""The promises of the local sandbox, with real processes."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

import areal
from areal.sandbox.interface import (
    Call,
    Calls,
    Check,
    Job,
    Limits,
    Opaque,
    Program,
    Raised,
    Returned,
    Sandbox,
    SandboxUnavailable,
)
from areal.sandbox.local import local_sandbox
from areal.sandbox.local.worker import Profile, Worker

ROOT = Path(areal.__file__).absolute().parents[1]
WALL_S = 0.6
LIMITS = Limits(wall_s=WALL_S)


def call(sandbox, source: str, *args, limits: Limits = LIMITS):
    return sandbox.run_blocking(Job(source, Calls((Call("f", args),))), limits)


def gone(pids: list[int], patience_s: float = 10) -> bool:
    end = time.monotonic() + patience_s
    while time.monotonic() < end:
        if not any(psutil.pid_exists(pid) and psutil.Process(pid).status() != "zombie" for pid in pids):
            return True
        time.sleep(0.02)
    return False


def descendants(pid: int) -> list[int]:
    return [process.pid for process in psutil.Process(pid).children(recursive=True)]


# --- values ------------------------------------------------------------------------------------------


def test_a_pool_is_a_sandbox(sandbox):
    assert isinstance(sandbox, Sandbox)
    assert sandbox.backend.level in ("full", "namespaces")


def test_values_come_back_in_order(sandbox):
    source = """
def f(x): return {x: (x, [x], {x})}
class S:
    n = 0
    def g(self):
        S.n += 1
        return S.n
"""
    calls = (Call("f", (1,)), Call("S.g"), Call("f", ("a",)), Call("S.g"), Call("f", kwargs={"x": None}))
    outcome = sandbox.run_blocking(Job(source, Calls(calls)))
    assert outcome.status == "ok"
    assert [answer.value for answer in outcome.values] == [
        {1: (1, [1], {1})},
        1,
        {"a": ("a", ["a"], {"a"})},
        2,
        {None: (None, [None], {None})},
    ]


def test_what_is_raised_and_what_is_no_value_are_said(sandbox):
    source = "def f(): raise KeyError('k')\ndef g(): return iter([])\ndef h(): print('seen'); return 1"
    outcome = sandbox.run_blocking(Job(source, Calls((Call("f"), Call("g"), Call("h"), Call("missing")))))
    raised, opaque, returned, missing = outcome.values
    assert isinstance(raised, Raised)
    assert raised.kinds[:2] == ("KeyError", "LookupError")
    assert "raise KeyError('k')" in raised.trace
    assert "guest.py" not in raised.trace
    assert opaque == Opaque("list_iterator")
    assert returned == Returned(1)
    assert isinstance(missing, Raised)
    assert missing.kinds[0] == "NameError"
    assert outcome.stdout == "seen\n"


def test_a_program_reads_and_writes(sandbox):
    source = (
        "import sys, atexit\natexit.register(print, 'end')\nprint(sum(map(int, sys.stdin.read().split())))"
    )
    text = " ".join(map(str, range(50_000)))
    outcome = sandbox.run_blocking(Job(source, Program(text)))
    assert (outcome.status, outcome.stdout) == ("ok", f"{sum(range(50_000))}\nend\n")


def test_a_program_may_use_threads_and_a_deep_stack(sandbox):
    source = (
        "import sys, threading\nsys.setrecursionlimit(10**6)\nthreading.stack_size(1 << 27)\n"
        "def deep(n): return 0 if n == 0 else 1 + deep(n - 1)\n"
        "t = threading.Thread(target=lambda: print(deep(50_000)))\nt.start()\nt.join()"
    )
    outcome = sandbox.run_blocking(Job(source, Program()), Limits(wall_s=5))
    assert (outcome.status, outcome.stdout) == ("ok", "50000\n")


def test_asyncio_and_files_of_its_own_work(sandbox):
    source = (
        "import asyncio, tempfile, shutil, os\n"
        "async def g(): await asyncio.sleep(0.001); return 5\n"
        "def f():\n    with tempfile.TemporaryDirectory() as d:\n        p = os.path.join(d, 'a')\n"
        "        open(p, 'w').write('x'); shutil.copy2(p, p + 'b')\n"
        "        return asyncio.run(g()), sorted(os.listdir(d))"
    )
    assert call(sandbox, source).values == (Returned((5, ["a", "ab"])),)


def test_check_code_calls_by_value_and_its_verdict_is_its_own(sandbox):
    check = """
def check(c):
    assert c([1, 2]) == [2, 1]
    try: c(None)
    except TypeError: pass
    else: assert 0
"""
    mode = Check(check, ("check(candidate)", "assert candidate([]) == [0]"), {"candidate": "f"})
    outcome = sandbox.run_blocking(Job("def f(x): return x[::-1]", mode))
    assert outcome.status == "ok"
    good, bad = outcome.values
    assert good == Returned(None)
    assert isinstance(bad, Raised)
    assert bad.kinds[0] == "AssertionError"


def test_a_broken_check_is_the_callers_mistake(sandbox):
    with pytest.raises(ValueError, match="ZeroDivisionError"):
        sandbox.run_blocking(Job("def f(): return 1", Check("1/0", ("check(f)",), {})))
    with pytest.raises(ValueError, match="builtin types"):
        call(sandbox, "def f(x): return x", object())


# --- statuses ----------------------------------------------------------------------------------------

STATUSES = {
    "runtime_error": "1/0",
    "timeout": "while True: pass",
    "memory": "x = bytearray(4 << 30)",
    "output_limit": "while True: print('x' * 100000)",
    "crashed": "import ctypes; ctypes.string_at(0)",
    "violation": "import ctypes; ctypes.CDLL(None).unshare(0x10000000)",
    "no_result": "import os; os._exit(0)",
    "protocol_error": "import os; os.write(4, b'\\0\\0\\0\\1?')",
}


@pytest.mark.parametrize("status", STATUSES)
def test_status(sandbox, status):
    outcome = call(sandbox, STATUSES[status])
    assert outcome.status == status
    assert outcome.error
    assert not outcome.values


def test_a_source_too_long_is_not_run(sandbox):
    outcome = call(sandbox, "#" * 300_000)
    assert (outcome.status, outcome.seconds) == ("runtime_error", 0)


def test_answers_before_the_end_are_kept(sandbox):
    source = "def f(x):\n    while x: pass\n    return x"
    outcome = sandbox.run_blocking(
        Job(source, Calls((Call("f", (0,)), Call("f", (1,)), Call("f", (0,))))), LIMITS
    )
    assert (outcome.status, outcome.values) == ("timeout", (Returned(0),))


# --- it ends on time ---------------------------------------------------------------------------------


def test_it_ends_at_the_last_answer_whatever_goes_on(sandbox):
    source = (
        "import threading, time\n"
        "def f():\n    threading.Thread(target=time.sleep, args=(100,)).start()\n    return 1"
    )
    start = time.monotonic()
    assert call(sandbox, source, limits=Limits(wall_s=30)).values == (Returned(1),)
    assert time.monotonic() - start < 10


@pytest.mark.parametrize("source", ["while True: pass", "import time; time.sleep(1000)", "input()"])
def test_it_ends_at_the_deadline(sandbox, source):
    start = time.monotonic()
    call(sandbox, source)
    assert time.monotonic() - start < WALL_S + 1


def test_threads_that_burn_time_end_too(sandbox):
    source = """
import threading, hashlib
def burn(): hashlib.pbkdf2_hmac('sha256', b'', b'', 10**9)
for _ in range(8): threading.Thread(target=burn).start()
while True: pass
"""
    start = time.monotonic()
    outcome = call(sandbox, source, limits=Limits(wall_s=20, cpu_s=1))
    assert outcome.status == "timeout"
    assert time.monotonic() - start < 15


# --- limits ------------------------------------------------------------------------------------------


def test_threads_are_limited_for_each_run_alone(sandbox):
    source = (
        "import threading, time\n"
        "def f():\n    n = 1\n    try:\n        for _ in range(100):\n"
        "            threading.Thread(target=time.sleep, args=(1,), daemon=True).start(); n += 1\n"
        "    except RuntimeError: pass\n    return n"
    )
    limits = Limits(wall_s=5, threads=12)
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
    limits = Limits(files=20, scratch_mb=4, wall_s=5)
    ((descriptors, written),) = [answer.value for answer in call(sandbox, source, limits=limits).values]
    assert descriptors == 15
    assert 3 <= written <= 5


# --- nothing stays, one bad run costs one run --------------------------------------------------------


def test_runs_leave_no_process_no_descriptor(sandbox):
    (keeper,) = sandbox.backend.workers()

    def held():
        return len(os.listdir("/proc/self/fd")), len(descendants(keeper)), descriptors_of(descendants(keeper))

    call(sandbox, "def f(): return 1")
    # The zygote closes a run's descriptors just after it has reported its end.
    time.sleep(0.5)
    before = held()
    for source in ["def f(): return 1", *STATUSES.values()]:
        call(sandbox, source)
    end = time.monotonic() + 5
    while held() != before and time.monotonic() < end:
        time.sleep(0.02)
    assert held() == before


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
        threading.Timer(0.3, os.kill, (keeper, signal.SIGKILL)).start()
        assert call(pool, "while True: pass", limits=Limits(wall_s=20)).status == "infra_error"
        assert call(pool, "def f(): return 2").values == (Returned(2),)
    finally:
        pool.close_blocking()


HOST = """
import asyncio, os, sys, threading, time
from areal.sandbox.interface import Call, Calls, Job, Limits
from areal.sandbox.local import local_sandbox

def start_in_a_thread_that_ends():
    global pool
    pool = local_sandbox(2)
    pool.backend.level

async def main():
    session = await pool.session()
    await session.run("x = 1")
    job = Job("while True: pass", Calls(()))
    busy = [asyncio.create_task(pool.run(job, Limits(wall_s=60))) for _ in range(2)]
    await asyncio.sleep(0.5)
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
    family = descendants(host.pid)
    # Two keepers, two zygotes, a session, two runs.
    assert len(family) == 7
    host.send_signal(sign)
    assert gone(family)
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


# --- it fails closed ---------------------------------------------------------------------------------

WITHOUT_NAMESPACES = '''
import ctypes, os, sys
libc = ctypes.CDLL(None)
uid, gid = os.geteuid(), os.getegid()
assert libc.unshare(0x10000000) == 0
for name, text in (("setgroups", "deny"), ("uid_map", f"0 {uid} 1"), ("gid_map", f"0 {gid} 1")):
    open(f"/proc/self/{name}", "w").write(text)
open("/proc/sys/user/max_user_namespaces", "w").write("0")

from areal.sandbox.interface import Call, Calls, Job, SandboxUnavailable
from areal.sandbox.local import local_sandbox
source = """
import os
def f(x): return x * x
def g(): os.kill(os.getppid(), 0)
def h(): return open('/etc/passwd').read()
"""
job = Job(source, Calls((Call("f", (3,)), Call("g"), Call("h"))))
try:
    local_sandbox(1).backend.level
except SandboxUnavailable as error:
    print("refused:", error)
pool = local_sandbox(1, allow_weak=True)
print(pool.backend.level, pool.run_blocking(job).values)
'''


def test_it_refuses_where_the_kernel_gives_no_namespaces(as_nobody):
    refusal, weak = as_nobody("-c", WITHOUT_NAMESPACES).splitlines()
    assert refusal.startswith("refused: this host gives no strong sandbox (unshare: No space")
    assert weak.startswith("confined (Returned(value=9), Raised(kinds=('PermissionError'")
    assert weak.count("kinds=('PermissionError'") == 2


@pytest.mark.parametrize("level", ["private", "confined"])
def test_a_lock_that_fails_ends_the_run_before_the_code(sandbox, level):
    try:
        worker = Worker(Profile(level))
    except SandboxUnavailable as error:
        if "nobody but root" not in str(error):
            raise
        pytest.skip(str(error))
    try:
        # No limit that the kernel would take.
        with pytest.raises(SandboxUnavailable, match="locked down"):
            worker.open(Limits(files=-5), b"", b"", False)
        run = worker.open(Limits(), b"", b"", False)
        run.stop()
    finally:
        worker.close()


def test_a_package_that_is_not_installed_is_an_error():
    with pytest.raises(SandboxUnavailable, match="no_such_package"):
        local_sandbox(1, preload=("no_such_package",))


def test_a_preloaded_package_is_there_and_others_are_not():
    pool = local_sandbox(1, preload=("numpy",))
    source = (
        "import sys\ndef f():\n    loaded = 'numpy' in sys.modules\n    import numpy as np, numpy.fft\n"
        "    return loaded, np.arange(3), np.float64(2.5), np.linalg.norm([3.0, 4.0])\n"
        "def g():\n    import psutil\n    return 1"
    )
    try:
        numbers, other = pool.run_blocking(Job(source, Calls((Call("f"), Call("g"))))).values
    finally:
        pool.close_blocking()
    assert numbers == Returned((True, [0, 1, 2], 2.5, 5.0))
    assert isinstance(other, Raised)
    assert other.kinds[0] == "ModuleNotFoundError"


def test_the_promises_hold_for_nobody(as_nobody):
    script = Path(__file__).with_name("nobody.py")
    assert as_nobody(str(script)).splitlines()[-1] == "all as promised"
