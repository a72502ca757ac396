"""The stateful Python tool: variables stay, limits hold for each call and for the session."""

from __future__ import annotations

import ast
import asyncio
import os
import signal
import time

import pytest
from running import descendants, gone

from areal.sandbox.interface import Raised, Returned, SandboxLimits, SandboxUnavailable

LIMITS = SandboxLimits(wall_s=30, output_bytes=10_000)


@pytest.fixture
async def session(sandbox):
    opened = await sandbox.session(LIMITS, session_s=300)
    yield opened
    await opened.close()


async def test_variables_stay_and_the_last_expression_is_shown(session):
    assert (await session.run("import math\nx = [1, 2]\nprint('made')")).stdout == "made\n"
    assert (await session.run("x.append(math.floor(3.7))\nx")).values == (Returned("[1, 2, 3]"),)
    outcome = await session.run("def f(n):\n    return n * len(x)\n\nprint(f(2))\nf('ab')")
    assert (outcome.status, outcome.stdout, outcome.values) == ("ok", "6\n", (Returned("'ababab'"),))
    assert (await session.run("None")).values == (Returned(None),)
    assert (await session.run("# nothing")).values == (Returned(None),)


async def test_an_error_shows_its_line_and_leaves_the_rest(session):
    outcome = await session.run("y = 5\nprint('before')\nz = y / 0")
    assert (outcome.status, outcome.stdout) == ("runtime_error", "before\n")
    assert "z = y / 0" in outcome.error
    assert isinstance(outcome.values[0], Raised)
    assert "SyntaxError" in (await session.run("def")).error
    assert (await session.run("import sys; sys.exit(3)")).status == "runtime_error"
    assert (await session.run("y")).values == (Returned("5"),)


async def test_a_call_that_is_too_long_is_interrupted_and_the_variables_stay(session):
    await session.run("kept = 1")
    start = time.monotonic()
    outcome = await session.run("while True: pass", wall_s=0.3)
    assert outcome.status == "timeout"
    assert time.monotonic() - start < 60
    assert (await session.run("kept")).values == (Returned("1"),)


async def test_a_call_that_will_not_be_interrupted_ends_the_session(session):
    stubborn = "import time\nwhile True:\n    try: time.sleep(100)\n    except BaseException: pass"
    start = time.monotonic()
    outcome = await session.run(stubborn, wall_s=0.3)
    assert outcome.status == "timeout"
    assert time.monotonic() - start < 60
    again = await session.run("1")
    assert again.status == "no_result"
    assert "has ended" in again.error


async def test_a_flood_is_cut_and_the_variables_stay(session):
    outcome = await session.run("kept = 2\nfor _ in range(1000): print('x' * 1000)")
    assert outcome.status == "ok"
    assert len(outcome.stdout) == 10_000
    assert (await session.run("print('next')\nkept")).stdout == "next\n"


@pytest.mark.parametrize("code", ["import os; os._exit(0)", "import ctypes; ctypes.string_at(0)"])
async def test_a_session_may_end_itself_only(sandbox, session, code):
    other = await sandbox.session(LIMITS)
    await other.run("x = 1")
    assert (await session.run(code)).status in ("no_result", "crashed")
    assert (await other.run("x")).values == (Returned("1"),)
    await other.close()
    await other.close()


async def test_sessions_share_nothing(sandbox):
    first, second = [await sandbox.session(LIMITS) for _ in range(2)]
    await first.run("open('/tmp/a', 'w').write('x'); import math; math.left = 1")
    assert (await second.run("import os, math; os.listdir('/tmp'), hasattr(math, 'left')")).values == (
        Returned("([], False)"),
    )
    assert (await first.run("import os; os.listdir('/tmp')")).values == (Returned("['a']"),)
    await first.close()
    await second.close()


async def test_a_session_has_an_end(sandbox):
    session = await sandbox.session(LIMITS, session_s=4)
    await session.run("import time; time.sleep(0.3)")
    start = time.monotonic()
    assert (await session.run("import time; time.sleep(100)")).status == "timeout"
    assert time.monotonic() - start < 20, "before the call's own limit"
    assert (await session.run("time.sleep(100)")).status in ("timeout", "no_result")
    await session.close()


async def test_code_cannot_flood_the_answer(session):
    outcome = await session.run("'x' * 10**6")
    assert len(outcome.values[0].value) <= 20_000
    assert (await session.run("#" * 300_000)).status == "runtime_error"


async def test_a_session_ends_though_nobody_calls(sandbox):
    (keeper,) = sandbox.backend.workers()
    others = descendants(keeper)
    session = await sandbox.session(LIMITS, session_s=4)
    await session.run("x = 1")
    family = [pid for pid in descendants(keeper) if pid not in others]
    assert len(family) == 1
    assert gone(family)
    assert "has ended (timeout)" in (await session.run("x")).error
    await session.close()


THREAD = """
import threading, time
count = 0
def go():
    global count
    while True: count += 1
for _ in range(2): threading.Thread(target=go, daemon=True).start()
"""


async def test_between_calls_nothing_runs(session):
    await session.run(THREAD)
    first = (await session.run("count, time.process_time()")).values
    await asyncio.sleep(0.5)
    (later,) = (await session.run("count, time.process_time()")).values
    used = ast.literal_eval(later.value)[1] - ast.literal_eval(first[0].value)[1]
    assert used < 0.25
    # In a call they go on.
    before = ast.literal_eval(later.value)[0]
    assert int((await session.run("time.sleep(1); count")).values[0].value) > before


async def test_a_thread_that_never_stops_writing_is_not_listened_to_for_ever(session):
    await session.run("import os, threading\nb = b'x' * 65536\ndef go():\n    while True: os.write(1, b)")
    start = time.monotonic()
    for _ in range(5):
        outcome = await session.run("threading.Thread(target=go, daemon=True).start()\n1", wall_s=5)
        assert outcome.status in ("ok", "timeout")
    assert time.monotonic() - start < 100


async def test_an_interpreter_that_the_host_kills_is_no_observation(sandbox):
    (keeper,) = sandbox.backend.workers()
    others = descendants(keeper)
    session = await sandbox.session(SandboxLimits(wall_s=60))
    call = asyncio.create_task(session.run("while True: pass"))
    await asyncio.sleep(0.3)
    (pid,) = [pid for pid in descendants(keeper) if pid not in others]
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(SandboxUnavailable, match="killed by"):
        await call
    await session.close()
