"""The E2B backend with the real SDK, against a server on the loopback interface that fails as E2B can."""

from __future__ import annotations

import asyncio
import os
import time

import pytest

from areal.rewards.code import CodeVerifier
from areal.sandbox import e2b as backend
from areal.sandbox.interface import (
    Call,
    Calls,
    Check,
    Job,
    Raised,
    Returned,
    SandboxLimits,
    SandboxUnavailable,
    Script,
)

pytest.importorskip("e2b_code_interpreter", reason="the SDK of E2B is not installed")

import e2b_server
import ours

LIMITS = SandboxLimits(wall_s=60)


@pytest.fixture(scope="module")
def running():
    server = e2b_server.Server()
    names = {
        **{"E2B_API_URL": server.url, "E2B_SANDBOX_URL": server.url, "E2B_HTTP_VERSION": "1.1"},
        "E2B_API_KEY": "e2b_" + "0" * 40,
    }
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(names)
    yield server
    for name, value in before.items():
        os.environ.pop(name) if value is None else os.environ.update({name: value})
    server.close()


@pytest.fixture
def server(running):
    running.heal()
    yield running
    running.heal()


@pytest.fixture
def pool(server):
    pool = backend.e2b_sandbox(2)
    yield pool
    pool.close_blocking()
    if not server.kill_status:
        assert not any(machine.running for machine in server.machines.values()), "a machine was left"


def call(pool, source: str, *args, limits: SandboxLimits = LIMITS):
    return pool.run_blocking(Job(source, Calls((Call("f", args),))), limits)


def test_values_and_output(pool, server):
    outcome = call(pool, "def f(x):\n    print('seen')\n    return {x: (1, 2.5)}", 3)
    assert (outcome.status, outcome.values, outcome.stdout) == ("ok", (Returned({3: (1, 2.5)}),), "seen\n")
    body = list(server.machines.values())[-1].body
    assert body["allow_internet_access"] is False
    assert 60 <= body["timeout"] - LIMITS.wall_s <= 70


def test_programs_and_checks(pool):
    assert pool.run_blocking(Job("print(input()[::-1])", Script("abc\n"))).stdout == "cba\n"
    failed = pool.run_blocking(Job("import sys; sys.exit(3)", Script()))
    assert (failed.status, failed.error) == ("runtime_error", "exit code 3")
    mode = Check("", ("assert candidate(1) == 2", "assert candidate(1) == 3"), {"candidate": "f"})
    good, bad = pool.run_blocking(Job("def f(x): return x + 1", mode)).values
    assert good == Returned(None)
    assert isinstance(bad, Raised)


STATUSES = {
    "runtime_error": "1/0",
    "timeout": "while True: pass",
    "memory": "x = bytearray(4 << 30)",
    "output_limit": "while True: print('x' * 100000)",
    "crashed": "import ctypes; ctypes.string_at(0)",
    "no_result": "import os; os._exit(0)",
    "protocol_error": "import os; os.write(4, b'\\0\\0\\0\\1?')",
}


@pytest.mark.parametrize("status", STATUSES)
def test_what_is_the_fault_of_the_code(pool, status):
    limits = SandboxLimits(wall_s=2) if status == "timeout" else LIMITS
    assert call(pool, STATUSES[status], limits=limits).status == status


def test_code_that_kills_its_tender_has_crashed(pool):
    source = "import os, signal, time\nos.kill(os.getppid(), signal.SIGKILL)\ntime.sleep(100)"
    assert call(pool, source).status == "crashed"


def test_code_that_writes_lines_of_its_own_breaks_the_protocol(pool):
    source = (
        "import os, time\nfd = os.open(f'/proc/{os.getppid()}/fd/1', os.O_WRONLY)\n"
        "os.write(fd, b'f !!!!\\n')\ntime.sleep(100)"
    )
    assert call(pool, source).status == "protocol_error"


async def test_verifiers_work_on_it(pool):
    verifier = CodeVerifier(pool, LIMITS)
    for form, honest in (("calls", ours.HONEST), ("check", ours.HONEST), ("stream", ours.HONEST_PROGRAM)):
        assert (await verifier.verify(honest, ours.FORMS[form])).score == 1
        assert (await verifier.verify("def f(x): return 0\nprint(0)", ours.FORMS[form])).score == 0


# --- our failures: each is infra_error, none is blamed on the code -----------------------------------


@pytest.mark.parametrize("status", [401, 400, 500])
def test_no_machine(pool, server, status):
    server.create_status = status
    outcome = call(pool, "def f(): return 1")
    assert outcome.status == "infra_error"
    assert "E2B did not provide a machine" in outcome.error


def test_an_answer_that_makes_no_sense(pool, server):
    server.garble = True
    assert call(pool, "def f(): return 1").status == "infra_error"


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(backend, "_REQUEST_S", 2.0)
    monkeypatch.setattr(backend, "_START_S", 3.0)


def test_a_machine_that_comes_too_slowly(impatient, pool, server):
    server.create_delay_s = 30.0
    start = time.monotonic()
    assert call(pool, "def f(): return 1").status == "infra_error"
    assert time.monotonic() - start < 28


def test_a_daemon_that_refuses(pool, server):
    server.refuse_start = True
    outcome = call(pool, "def f(): return 1")
    assert outcome.status == "infra_error"
    assert "no processes today" in outcome.error


def test_input_that_goes_too_slowly(impatient, pool, server):
    server.input_delay_s = 30.0
    start = time.monotonic()
    assert call(pool, "def f(): return 1").status == "infra_error"
    assert time.monotonic() - start < 28


@pytest.mark.parametrize("source", ["import time; time.sleep(100)", "while True: pass"])
def test_a_machine_that_goes_away_is_not_a_timeout(pool, server, source):
    server.kill_machine_s = 0.5
    assert call(pool, source, limits=LIMITS).status == "infra_error"


def test_a_connection_that_breaks_is_not_a_timeout(pool, server):
    server.drop_stream_s = 0.5
    assert call(pool, "import time; time.sleep(100)", limits=LIMITS).status == "infra_error"


def test_a_machine_that_cannot_be_ended_does_not_spoil_the_answer(pool, server):
    server.kill_status = 500
    assert call(pool, "def f(): return 1").values == (Returned(1),)
    server.heal()
    for machine in server.machines.values():
        machine.kill()


async def test_failures_are_retried_and_never_a_score(pool, server):
    server.create_status = 500
    verifier = CodeVerifier(pool, LIMITS, retries=1)
    with pytest.raises(SandboxUnavailable):
        await verifier.verify(ours.HONEST, ours.FORMS["calls"])
    assert verifier.infra_failures == 2
    server.heal()
    assert (await verifier.verify(ours.HONEST, ours.FORMS["calls"])).score == 1


TAKES_ITS_MACHINE_DOWN = "import os, signal\nos.killpg(0, signal.SIGKILL)"


async def test_code_that_takes_its_machine_down_each_time_scores_nothing(pool, server):
    server.fragile = True
    outcome = await pool.run(Job(TAKES_ITS_MACHINE_DOWN, Calls((Call("f", (1,)),))), LIMITS)
    assert (outcome.status, outcome.if_repeated) == ("infra_error", "crashed")
    verifier = CodeVerifier(pool, LIMITS, retries=1)
    verdict = await verifier.verify(TAKES_ITS_MACHINE_DOWN, ours.FORMS["calls"])
    assert (verdict.score, verdict.failure.status) == (0, "crashed")
    assert (await verifier.verify(ours.HONEST, ours.FORMS["calls"])).score == 1


async def test_an_outage_is_no_score_however_often_it_repeats(pool, server):
    server.kill_machine_s = 0.5
    verifier = CodeVerifier(pool, LIMITS, retries=1)
    with pytest.raises(SandboxUnavailable):
        await verifier.verify("import time\ntime.sleep(100)", ours.FORMS["calls"])


async def test_a_session_whose_machine_is_taken_down_has_crashed(pool, server):
    server.fragile = True
    session = await pool.session(LIMITS, session_s=30)
    assert (await session.run(TAKES_ITS_MACHINE_DOWN)).status == "crashed"
    assert (await session.run("1")).status == "no_result"
    await session.close()


# --- sessions ----------------------------------------------------------------------------------------


def test_a_session(pool):
    async def main():
        session = await pool.session(LIMITS, session_s=30)
        await session.run("import math\nx = math.factorial(5)")
        outcome = await session.run("print('value'); x")
        slow = await session.run("while True: pass", wall_s=0.3)
        kept = await session.run("x + 1")
        await session.close()
        return outcome, slow, kept

    outcome, slow, kept = asyncio.run(main())
    assert (outcome.stdout, outcome.values) == ("value\n", (Returned("120"),))
    assert slow.status == "timeout"
    assert kept.values == (Returned("121"),)
