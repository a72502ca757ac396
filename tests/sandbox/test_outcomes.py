"""What a run in the local sandbox gives back: values, what was raised, and how it ended."""

from __future__ import annotations

import pytest
from running import LONG, SHORT, STATUSES, call

from areal.sandbox.interface import (
    Call,
    Calls,
    Check,
    Job,
    Opaque,
    Raised,
    Returned,
    Sandbox,
    SandboxLimits,
    Script,
)


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
    assert raised.type_names[:2] == ("KeyError", "LookupError")
    assert "raise KeyError('k')" in raised.trace
    assert "guest.py" not in raised.trace
    assert opaque == Opaque("list_iterator")
    assert returned == Returned(1)
    assert isinstance(missing, Raised)
    assert missing.type_names[0] == "NameError"
    assert outcome.stdout == "seen\n"


def test_a_program_reads_and_writes(sandbox):
    source = (
        "import sys, atexit\natexit.register(print, 'end')\nprint(sum(map(int, sys.stdin.read().split())))"
    )
    text = " ".join(map(str, range(50_000)))
    outcome = sandbox.run_blocking(Job(source, Script(text)))
    assert (outcome.status, outcome.stdout) == ("ok", f"{sum(range(50_000))}\nend\n")


def test_a_program_may_use_threads_and_a_deep_stack(sandbox):
    source = (
        "import sys, threading\nsys.setrecursionlimit(10**6)\nthreading.stack_size(1 << 27)\n"
        "def deep(n): return 0 if n == 0 else 1 + deep(n - 1)\n"
        "t = threading.Thread(target=lambda: print(deep(50_000)))\nt.start()\nt.join()"
    )
    outcome = sandbox.run_blocking(Job(source, Script()), LONG)
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
    assert bad.type_names[0] == "AssertionError"


def test_a_broken_check_is_the_callers_mistake(sandbox):
    with pytest.raises(ValueError, match="ZeroDivisionError"):
        sandbox.run_blocking(Job("def f(): return 1", Check("1/0", ("check(f)",), {})))
    with pytest.raises(ValueError, match="builtin types"):
        call(sandbox, "def f(x): return x", object())


@pytest.mark.parametrize("status", STATUSES)
def test_status(sandbox, status):
    outcome = call(sandbox, STATUSES[status], limits=SHORT if status == "timeout" else LONG)
    assert outcome.status == status
    assert outcome.error
    assert not outcome.values


def test_a_source_too_long_is_not_run(sandbox):
    outcome = call(sandbox, "#" * 300_000)
    assert (outcome.status, outcome.seconds) == ("runtime_error", 0)


def test_answers_before_the_end_are_kept(sandbox):
    source = "import time\ndef f(x):\n    while x: time.sleep(1)\n    return x"
    calls = Calls((Call("f", (0,)), Call("f", (1,)), Call("f", (0,))))
    outcome = sandbox.run_blocking(Job(source, calls), SandboxLimits(wall_s=4))
    assert (outcome.status, outcome.values) == ("timeout", (Returned(0),))


HONEST = """
import asyncio, concurrent.futures, mmap, os, select, signal, socket, sqlite3, tempfile, threading, time

async def later():
    await asyncio.sleep(0.01)
    return 1

def loop(): return asyncio.run(later())

def pool():
    with concurrent.futures.ThreadPoolExecutor(4) as threads: return sum(threads.map(abs, range(-3, 0))) - 5

def streams():
    a, b = socket.socketpair()
    a.setblocking(False)
    a.sendall(b"x" * 1000)
    ready, _, _ = select.select([b], [], [], 1)
    return len(ready[0].recv(1))

def mapped():
    with tempfile.TemporaryFile() as file:
        file.write(b"abc" * 10_000)
        file.flush()
        return mmap.mmap(file.fileno(), 0)[3] - ord("a") + 1

def memory(): return len(mmap.mmap(-1, 1 << 20, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)) >> 20

def database(): return sqlite3.connect(":memory:").execute("select 1").fetchone()[0]

def alarm():
    seen = []
    signal.signal(signal.SIGALRM, lambda *_: seen.append(1))
    signal.setitimer(signal.ITIMER_REAL, 0.01)
    time.sleep(0.2)
    return len(seen)

def descriptors():
    r, w = os.pipe()
    os.set_blocking(r, False)
    os.set_inheritable(r, True)
    os.closerange(os.dup(r), 60)
    return int(os.get_inheritable(r))
"""
NAMES = ("loop", "pool", "streams", "mapped", "memory", "database", "alarm", "descriptors")


@pytest.mark.parametrize("name", NAMES)
def test_what_honest_programs_use_works(sandbox, name):
    job = Job(HONEST, Calls((Call(name),)))
    assert sandbox.run_blocking(job, LONG).values == (Returned(1),)
