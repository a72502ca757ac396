"""What the host does to a run is never its score, and no run can make its own doing look like the host's."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from running import call, gone

import areal
from areal import faults
from areal.host_limits import HostLimits
from areal.rewards.cases import CallCase, CallTests
from areal.rewards.code import CodeVerifier
from areal.sandbox.interface import Call, Calls, Job, SandboxLimits, SandboxUnavailable
from areal.sandbox.local import local_sandbox
from areal.sandbox.local.backend import LocalBackend
from areal.sandbox.pool import Pool

ROOT = Path(areal.__file__).absolute().parents[1]
SQUARE = CallTests((CallCase(Call("f", (3,)), 9),))

SUICIDES = {
    "kills itself": "os.kill(os.getpid(), signal.SIGKILL)",
    "kills its group": "os.killpg(0, signal.SIGKILL)",
    "kills all": "os.kill(-1, signal.SIGKILL)",
    "kills its parent": "os.kill(os.getppid(), signal.SIGKILL)",
    "raises SIGKILL": "signal.raise_signal(signal.SIGKILL)",
    "kills its thread": "signal.pthread_kill(threading.get_ident(), signal.SIGKILL)",
    "stops itself": "os.kill(os.getpid(), signal.SIGSTOP)",
    "lowers its limit on time": "resource.setrlimit(resource.RLIMIT_CPU, (1, 1))\nwhile True: pass",
    "lowers it by prlimit": "resource.prlimit(0, resource.RLIMIT_CPU, (1, 1))\nwhile True: pass",
    "ignores its limit on time": "signal.signal(signal.SIGXCPU, signal.SIG_IGN)\nwhile True: pass",
    "sets off a timer": (
        "import ctypes, struct\n"
        "event = struct.pack('=QiiI', 0, signal.SIGKILL, 0, 0) + bytes(44)\ntimer = ctypes.c_long()\n"
        "libc = ctypes.CDLL(None)\nlibc.timer_create(1, event, ctypes.byref(timer))\n"
        "libc.timer_settime(timer, 0, struct.pack('=4q', 0, 0, 0, 1000), None)\nwhile True: pass"
    ),
    "forks without end": "while True: os.fork()",
    "takes all the memory": "hog = [bytearray(b'x' * (100 << 20)) for _ in range(100)]",
    "crashes": "import ctypes\nctypes.string_at(0)",
}


@pytest.mark.parametrize("how", SUICIDES)
async def test_no_run_can_look_as_if_the_host_had_ended_it(sandbox, how, caplog):
    verifier = CodeVerifier(sandbox, SandboxLimits(wall_s=2.5, cpu_s=2))
    source = f"import os, resource, signal, threading\n{SUICIDES[how]}\nimport time\ntime.sleep(100)"
    verdict = await verifier.verify(f"{source}\ndef f(x): return x * x", SQUARE)
    assert verdict.score == 0
    busy = sum("this host is busy" in line for line in caplog.messages)  # and that may be true
    assert verifier.infra_failures == busy, "it chose to be run again"


@contextlib.contextmanager
def looking(pool: Pool, look):
    """Look at each run of a pool's zygote, again and again."""
    (keeper,) = pool.backend.workers()
    (zygote,) = psutil.Process(keeper).children()
    over = threading.Event()

    def work() -> None:
        while not over.wait(0.02):
            for run in zygote.children():
                with contextlib.suppress(psutil.NoSuchProcess):
                    look(run)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def killing(pool: Pool, after: float, before=lambda: None, every: int = 1):
    """Kill runs of a pool's zygote from outside: the first one and every so many after it."""
    seen = dict[int, int]()

    def look(run: psutil.Process) -> None:
        number = seen.setdefault(run.pid, len(seen))
        if number % every == 0 and time.time() - run.create_time() > after:
            before()
            run.kill()
            gone([run.pid])

    return looking(pool, look)


def put(counter: Path, line: str) -> None:
    """Write a counter in one go, as the kernel does."""
    new = counter.with_suffix(".new")
    new.write_text(f"{line}\n")
    new.replace(counter)


@contextlib.contextmanager
def counted(tmp_path: Path):
    """A sandbox on a host whose counters a test sets: gives it, and the files of kills and refusals."""
    (tmp_path / "self").mkdir()
    (tmp_path / "self/cgroup").write_text("0::/\n")
    kills, refused = tmp_path / "memory.events", tmp_path / "pids.events"
    put(kills, "oom_kill 0")
    put(refused, "max 0")
    pool = Pool(LocalBackend(1, host=HostLimits(tmp_path, tmp_path)), 1)
    try:
        _ = pool.backend.level
        yield pool, kills, refused
    finally:
        pool.close_blocking()


LATE = "import time\ntime.sleep(100)\ndef f(x): return x * x"


@pytest.mark.parametrize("oom", [True, False])
def test_late_in_a_run_the_kernels_counter_tells_who_killed_it(sandbox, tmp_path, oom):
    """By then the run might have used up its processor time, unless the kernel says that memory ran out."""
    with counted(tmp_path) as (pool, kills, _):
        before = faults.counts()["sandbox_faults"]
        with killing(pool, 2.5, lambda: oom and put(kills, "oom_kill 1")):
            outcome = call(pool, LATE, 3, limits=SandboxLimits(wall_s=60, cpu_s=2))
    assert (outcome.status, outcome.if_repeated) == ("infra_error", None if oom else "memory")
    assert ("out-of-memory killer" in outcome.error) is oom
    assert faults.counts()["sandbox_faults"] == before + 1


@pytest.mark.parametrize("every", [1, 2])
async def test_a_run_that_may_have_killed_itself_is_blamed_if_others_live_in_between(
    sandbox, tmp_path, every
):
    with counted(tmp_path) as (pool, *_), killing(pool, 2.5, every=every):
        verifier = CodeVerifier(pool, SandboxLimits(wall_s=20, cpu_s=1), retries=1)
        if every == 1:
            with pytest.raises(SandboxUnavailable):
                await verifier.verify(LATE, SQUARE)
        else:
            assert (await verifier.verify(LATE, SQUARE)).score == 0


def seeing(pool: Pool, act, threads: int = 1):
    """Do something to each run of a pool's zygote once it is half a second old, and has so many threads."""
    seen = set[int]()

    def look(run: psutil.Process) -> None:
        old = time.time() - run.create_time() > 0.5
        if run.pid not in seen and old and run.num_threads() >= threads:
            seen.add(run.pid)
            act(run)

    return looking(pool, look)


def stop_for_good(run: psutil.Process) -> None:
    run.suspend()


def stop_for_long(run: psutil.Process) -> None:
    run.suspend()
    time.sleep(SHORT.wall_s + 0.5)
    run.resume()


SHORT = SandboxLimits(wall_s=6)


@pytest.mark.parametrize("stop", [stop_for_good, stop_for_long])
async def test_a_run_that_was_stopped_from_outside_has_not_timed_out(sandbox, stop):
    # By its thread it shows that it has begun: to be stopped before is something else.
    begins = "import threading, time\nthreading.Thread(target=time.sleep, args=(99,), daemon=True).start()\n"
    source = f"{begins}for _ in range(40): time.sleep(0.05)\ndef f(x): return x * x"
    with seeing(sandbox, stop, threads=2):
        outcome = call(sandbox, source, 3, limits=SHORT)
    assert (outcome.status, outcome.if_repeated) == ("infra_error", "timeout"), outcome
    assert "stopped the run" in outcome.error
    verifier, times = CodeVerifier(sandbox, SHORT), iter([stop])
    with seeing(sandbox, lambda run: next(times, lambda run: None)(run), threads=2):
        assert (await verifier.verify(source, SQUARE)).score == 1, "it is run again"
    assert verifier.infra_failures == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="a run has another user only where root starts it")
def test_a_run_that_got_no_processor_has_not_timed_out(sandbox):
    core = min(os.sched_getaffinity(0))
    spin = [sys.executable, "-c", "while True: pass"]
    busy = [subprocess.Popen(spin, start_new_session=True) for _ in range(8)]
    for process in busy:
        os.sched_setaffinity(process.pid, {core})
    source = "import time\ntime.sleep(0.7)\nfor _ in range(10**10): pass\ndef f(x): return x * x"
    try:
        with seeing(sandbox, lambda run: os.sched_setaffinity(run.pid, {core})):
            outcome = call(sandbox, source, 3, limits=SandboxLimits(wall_s=10))
    finally:
        for process in busy:
            process.kill()
            process.wait()
    assert (outcome.status, outcome.if_repeated) == ("infra_error", "timeout"), outcome
    assert "this host is busy" in outcome.error


IDLE = "import time\nprint(1)\ntime.sleep(100)"
CROWD = (
    "import hashlib, threading\ndef burn(): hashlib.pbkdf2_hmac('sha256', b'', b'', 10**9)\n"
    "for _ in range(8): threading.Thread(target=burn).start()\nburn()"
)


@pytest.mark.parametrize("source", [IDLE, CROWD], ids=["idle", "crowd"])
def test_a_run_that_waits_for_itself_has_timed_out(sandbox, source):
    outcome = call(sandbox, source, 3, limits=SandboxLimits(wall_s=6, cpu_s=100))
    assert (outcome.status, outcome.if_repeated) == ("timeout", None), outcome


STOPPED_HOST = """
from areal.sandbox.interface import Call, Calls, Job, SandboxLimits
from areal.sandbox.local import local_sandbox
pool = local_sandbox(1)
_ = pool.backend.level
print("ready", flush=True)
job = Job("import time\\ntime.sleep(1)\\ndef f(): return 1", Calls((Call("f"),) * 3))
print(pool.run_blocking(job, SandboxLimits(wall_s=6)).status, flush=True)
pool.close_blocking()
"""


def test_the_time_in_which_the_host_process_was_stopped_does_not_count(sandbox):
    host = subprocess.Popen(
        [sys.executable, "-c", STOPPED_HOST],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert host.stdout is not None
    assert host.stdout.readline() == "ready\n"
    time.sleep(0.5)
    psutil.Process(host.pid).suspend()
    time.sleep(8)
    psutil.Process(host.pid).resume()
    assert host.communicate(timeout=60)[0] == "ok\n"


REFUSED = 'import time\ntime.sleep(2)\ndef f(x): raise RuntimeError("can\'t start new thread")'


async def test_a_thread_that_the_host_refused_is_not_the_codes_failure(sandbox, tmp_path):
    with counted(tmp_path) as (pool, _, refused):
        job = Job(REFUSED, Calls((Call("f", (3,)),)))
        assert pool.run_blocking(job).status == "ok", "it raised, and the host refused nothing"

        def refuse(run: psutil.Process | None = None) -> None:
            put(refused, f"max {int(refused.read_text().split()[1]) + 1}")

        for source, status in ((REFUSED, "infra_error"), (LATE.replace("100", "2"), "ok")):
            with seeing(pool, refuse):
                outcome = pool.run_blocking(Job(source, Calls((Call("f", (3,)),))))
            assert outcome.status == status, "what went well all the same is no failure"
        over = threading.Event()

        def refuse_all() -> None:
            while not over.wait(0.05):
                refuse()

        thread = threading.Thread(target=refuse_all)
        thread.start()
        verdict = await CodeVerifier(pool, retries=1).verify(REFUSED, SQUARE)
        over.set()
        thread.join()
        assert verdict.score == 0, "code that fails so each time, while other code does not"


def own_group() -> Path | None:
    """A new control group with 400 MiB of memory; None where this host does not let us make one."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        root = Path("/sys/fs/cgroup/memory" if controllers == "memory" else "/sys/fs/cgroup")
        if controllers not in ("", "memory"):
            continue
        group = (root / path.strip("/")).parent / f"areal-test-{os.getpid()}"
        if not group.is_relative_to(root):
            continue
        with contextlib.suppress(OSError):
            group.mkdir()
            name = "memory.limit_in_bytes" if controllers else "memory.max"
            try:
                (group / name).write_text(str(400 << 20))
            except OSError:
                group.rmdir()
                continue
            return group
    return None


IN_A_SMALL_GROUP = """
import os, sys
open(sys.argv[1] + "/cgroup.procs", "w").write(str(os.getpid()))
from areal.rewards.cases import CallCase, CallTests
from areal.rewards.code import CodeVerifier
from areal.sandbox.interface import Call, SandboxUnavailable
from areal.sandbox.local import local_sandbox

def source(megabytes):
    return f"x = bytearray(b'x' * ({megabytes} << 20))\\ndef f(x): return x * x"

pool = local_sandbox(1)
verifier = CodeVerifier(pool, retries=1)
for megabytes in (50, 2000, 700):
    try:
        verdict = verifier.verify_blocking(source(megabytes), CallTests((CallCase(Call("f", (3,)), 9),)))
        print(megabytes, verdict.score, verdict.failure.status if verdict.failure else "ok")
    except SandboxUnavailable as error:
        print(megabytes, error)
pool.close_blocking()
"""


def test_the_kernels_out_of_memory_killer_is_real(sandbox):
    """In a group with less memory than a run may take: only what passes the run's own limit scores 0."""
    group = own_group()
    if group is None:
        pytest.skip("this host does not let us make a control group with little memory")
    try:
        done = subprocess.run(
            [sys.executable, "-c", IN_A_SMALL_GROUP, str(group)],
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
    finally:
        for _ in range(100):
            with contextlib.suppress(OSError):
                group.rmdir()
                break
            time.sleep(0.1)
    small, beyond, victim = done.stdout.splitlines() or [done.stderr]
    assert (small, beyond) == ("50 1.0 ok", "2000 0.0 memory")
    assert "2 runs failed: killed by the kernel's out-of-memory killer" in victim


FEW_DESCRIPTORS = """
import os, resource
from areal.sandbox.interface import Call, Calls, Job
from areal.sandbox.local import local_sandbox
pool = local_sandbox(1)
job = Job("def f(): return 1", Calls((Call("f"),)))
print(pool.run_blocking(job).status)
held = []
try:
    while True: held.append(os.open("/dev/null", os.O_RDONLY))
except OSError: pass
for spare in range(16):
    print(pool.run_blocking(job).status)
    os.close(held.pop())
while held: os.close(held.pop())
print(pool.run_blocking(job).status)
pool.close_blocking()
"""


def test_a_host_process_without_descriptors_is_our_failure(sandbox):
    code = "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (60, 60))\n" + FEW_DESCRIPTORS
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    first, *between, last = done.stdout.split() or [done.stderr]
    assert (first, last, len(between)) == ("ok", "ok", 16)
    assert set(between) <= {"ok", "infra_error"}
    assert "infra_error" in between


@pytest.mark.parametrize("which", ["keeper", "zygote"])
async def test_a_sandbox_of_which_a_process_is_stopped_works_again(which):
    pool = local_sandbox(1)
    _ = pool.backend.level
    (number,) = pool.backend.workers()
    keeper = psutil.Process(number)
    (zygote,) = keeper.children()
    if which == "keeper":
        keeper.suspend()
        zygote.kill()
    else:
        zygote.suspend()
    verifier = CodeVerifier(pool, retries=2)
    assert (await verifier.verify("def f(x): return x * x", SQUARE)).score == 1
    assert verifier.infra_failures >= 1
    assert gone([number, zygote.pid])
    await pool.close()


def test_a_zygote_that_does_not_start_again_makes_no_sandbox_weak(sandbox):
    pool = local_sandbox(1, allow_weak=True)
    assert pool.backend.level != "confined"
    (number,) = pool.backend.workers()
    psutil.Process(number).kill()
    assert gone([number])
    profile, pool.backend._profile = pool.backend._profile, replace(pool.backend._profile, packages=("/no",))
    with pytest.raises(SandboxUnavailable, match="No such file"):
        _ = pool.backend.level
    pool.backend._profile = profile
    assert pool.backend.level != "confined"
    pool.close_blocking()


async def test_a_sandbox_that_is_closed_meanwhile_is_no_score(sandbox):
    pool = local_sandbox(1)
    await pool.close()
    with pytest.raises(SandboxUnavailable, match="closed"):
        await CodeVerifier(pool).verify("def f(x): return x * x", SQUARE)
    pool._closed = False  # as between the look at it and the start of the run
    with pytest.raises(SandboxUnavailable, match="does not accept further runs"):
        await CodeVerifier(pool).verify("def f(x): return x * x", SQUARE)
