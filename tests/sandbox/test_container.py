"""The container backend: with a real engine where there is one, and with a stand-in everywhere."""

from __future__ import annotations

import asyncio
import os
import stat
import sys
import time

import ours
import pytest
from running import gone

from areal.rewards.code import CodeVerifier
from areal.sandbox.container import _ContainerLink, container_sandbox
from areal.sandbox.interface import Call, Calls, Job, Returned, SandboxLimits, SandboxUnavailable, Script

LIMITS = SandboxLimits(wall_s=60)

# Does what the engine would, without a container; it writes down what it was asked.
STAND_IN = """#!{python}
import json, os, signal, subprocess, sys, time
folder = {folder!r}
arguments = sys.argv[1:]
open(folder + "/asked", "a").write(json.dumps(arguments) + "\\n")
if os.path.exists(folder + "/broken"): sys.exit(1)
if arguments[0] == "info": print(json.dumps({{"Runtimes": {{"runc": {{}}, "runsc": {{}}}}}}))
elif arguments[:2] == ["image", "inspect"]: print("sha256:0") if arguments[-1] == "there" else sys.exit(1)
elif arguments[0] == "run":
    if os.path.exists(folder + "/no-run"):
        print("Cannot connect to the daemon", file=sys.stderr)
        sys.exit(125)
    name = arguments[arguments.index("--name") + 1]
    open(f"{{folder}}/{{name}}", "w").write(str(os.getpid()))
    command = arguments[arguments.index("there") + 1 :]
    if not os.path.exists(folder + "/ends-with"): os.execv(sys.executable, command)
    child = subprocess.Popen([sys.executable, *command[1:]])
    while not os.path.exists(folder + "/begun"): time.sleep(0.02)
    child.kill()
    code = int(open(folder + "/ends-with").read())
    os.kill(os.getpid(), -code) if code < 0 else os._exit(code)
elif arguments[0] == "inspect":
    if os.path.exists(folder + "/stopped"): print("false")
elif arguments[0] == "kill":
    try: os.kill(int(open(f"{{folder}}/{{arguments[1]}}").read()), signal.SIGKILL)
    except OSError: sys.exit(1)
"""


@pytest.fixture
def engine(tmp_path, monkeypatch):
    """A stand-in for the engine, by the name of docker; returns its folder."""
    file = tmp_path / "docker"
    file.write_text(STAND_IN.format(python=os.path.realpath(sys.executable), folder=str(tmp_path)))
    file.chmod(file.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    return tmp_path


@pytest.fixture
def pool(engine):
    pool = container_sandbox(2, image="there")
    yield pool
    pool.close_blocking()


@pytest.fixture
def real():
    try:
        pool = container_sandbox(1)
    except SandboxUnavailable as error:
        pytest.skip(str(error))
    yield pool
    pool.close_blocking()


def test_it_asks_for_a_locked_down_container(pool, engine):
    assert pool.backend.level == "gvisor"
    pool.run_blocking(Job("def f(): return 1", Calls((Call("f"),))), LIMITS)
    asked = (engine / "asked").read_text()
    run = next(line for line in asked.splitlines() if line.startswith('["run"'))
    for option in (
        '"--network", "none"',
        '"--read-only"',
        '"--cap-drop", "ALL"',
        '"no-new-privileges"',
        '"--user", "65534:65534"',
        '"--pids-limit", "36"',
        '"--memory"',
        '"--runtime", "runsc"',
        '"--pull", "never"',
        '"--rm"',
    ):
        assert option in run


async def test_verifiers_work_on_it(pool):
    verifier = CodeVerifier(pool, LIMITS)
    for form, honest in (("calls", ours.HONEST), ("check", ours.HONEST), ("stream", ours.HONEST_PROGRAM)):
        assert (await verifier.verify(honest, ours.FORMS[form])).score == 1
        assert (await verifier.verify("def f(x): return 0\nprint(0)", ours.FORMS[form])).score == 0


def test_a_run_that_is_too_long_is_killed(pool, engine):
    start = time.monotonic()
    assert (
        pool.run_blocking(Job("while True: pass", Calls(())), SandboxLimits(wall_s=0.5)).status == "timeout"
    )
    assert time.monotonic() - start < 60
    assert '["kill"' in (engine / "asked").read_text()


def test_long_input_and_output(pool):
    text = "x" * 300_000
    outcome = pool.run_blocking(Job("t = input(); print(t); print(len(t))", Script(text)), LIMITS)
    assert (outcome.status, outcome.stdout) == ("ok", f"{text}\n300000\n")


def test_a_session(pool):
    async def main():
        session = await pool.session(LIMITS)
        await session.run("x = 20")
        outcome = await session.run("print('seen'); x + 1")
        await session.close()
        return outcome

    outcome = asyncio.run(main())
    assert (outcome.stdout, outcome.values) == ("seen\n", (Returned("21"),))


def test_an_engine_that_fails_is_our_failure(pool, engine):
    (engine / "no-run").touch()
    outcome = pool.run_blocking(Job("def f(): return 1", Calls((Call("f"),))), LIMITS)
    assert outcome.status == "infra_error"
    assert "Cannot connect to the daemon" in outcome.error


@pytest.mark.parametrize("code", [125, 127, 137, 143, 0, -9, -15])
def test_an_engine_that_fails_during_the_run_is_not_the_code(pool, engine, code):
    (engine / "ends-with").write_text(str(code))
    begun, pid = engine / "begun", engine / "pid"
    source = (
        f"import os\nopen({str(pid)!r}, 'w').write(str(os.getpid()))\nopen({str(begun)!r}, 'w').close()\n"
    )
    outcome = pool.run_blocking(Job(source + "while True: pass", Calls(())), LIMITS)
    # Nothing in a container can kill the engine's client, which runs on the host.
    assert (outcome.status, outcome.if_repeated) == ("infra_error", None if code < 0 else "crashed")
    # What it ran does not outlive it.
    assert gone([int(pid.read_text())])


def test_silence_of_a_container_that_has_stopped_is_no_timeout(pool, engine):
    (engine / "stopped").touch()
    outcome = pool.run_blocking(Job("while True: pass", Calls(())), SandboxLimits(wall_s=0.5))
    assert (outcome.status, outcome.if_repeated) == ("infra_error", "crashed")


@pytest.mark.parametrize("command", ["exec sleep 300", "while :; do echo x; done"])
def test_a_container_that_does_not_read_is_given_up(engine, command):
    link = _ContainerLink("docker", "none", ["sh", "-c", command], send_s=0.5)
    start = time.monotonic()
    with pytest.raises(SandboxUnavailable, match="has not accepted its input"):
        link.send(bytes(1 << 22))
    assert time.monotonic() - start < 60
    link._process.kill()
    link.close()


def test_both_ends_may_send_much_at_once(engine):
    link = _ContainerLink("docker", "none", ["sh", "-c", "head -c 4000000 /dev/zero; exec cat"])
    link.send(bytes(4_000_000))
    received = 0
    while received < 8_000_000:
        received += len(link.receive(10) or b"")
    link.close()


def test_what_is_missing_is_said(engine, monkeypatch):
    with pytest.raises(SandboxUnavailable, match="pull it first"):
        container_sandbox(1, image="missing")
    (engine / "broken").touch()
    with pytest.raises(SandboxUnavailable, match="docker does not answer"):
        container_sandbox(1, image="there")
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(SandboxUnavailable, match="not installed"):
        container_sandbox(1)


def test_a_real_container(real):
    job = Job("import os\ndef f(x): return x * x, os.getuid()", Calls((Call("f", (12,)),)))
    assert real.run_blocking(job, LIMITS).values == (Returned((144, 65534)),)
    network = "def f():\n    import socket\n    socket.create_connection(('1.1.1.1', 53), 1)"
    assert Returned(None) not in real.run_blocking(Job(network, Calls((Call("f"),))), LIMITS).values
