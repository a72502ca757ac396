"""The local machine: what works on it, what its limits end, and what it keeps from its host."""

from __future__ import annotations

import resource
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from areal.sandbox.interface import SandboxUnavailable
from areal.sandbox.local.machine import LocalMachine
from areal.sandbox.machine import MachineFull, MachineLimits, Ran

pytestmark = pytest.mark.usefixtures("sandbox")


@pytest.fixture
def machine():
    machine = LocalMachine(MachineLimits(storage_mb=32, processes=40))
    yield machine
    machine.close()


def said(ran: Ran) -> tuple[int, str]:
    return ran.code, ran.output.strip()


def test_files_stay_and_processes_go_on(machine: LocalMachine):
    assert said(machine.run("pwd; echo one > a; export X=1", 20)) == (0, "/app")
    assert said(machine.run("cat a; echo [$X$Y]; false", 20, variables={"Y": "2"})) == (1, "one\n[2]")
    assert said(machine.run("mkdir -p /srv/x && cd /srv/x && pwd", 20)) == (0, "/srv/x")
    machine.run("(while [ ! -e stop ]; do sleep 0.05; done; echo yes > stopped) &", 20)
    machine.run("touch stop", 20)
    deadline = time.monotonic() + 60
    while machine.read("/app/stopped") != "yes\n":  # between two commands it stands still
        assert time.monotonic() < deadline
        machine.run("sleep 0.1", 20)
    assert machine.read("/app/none") is machine.read("/app") is None
    assert said(machine.run("exit 3", 20)) == (3, "")
    assert machine.run("kill -TERM $$", 20).code == -15
    assert said(machine.run("nosuchcommand", 20, "/none"))[0] == 126


def test_folders_are_put_and_made_anew(machine: LocalMachine, tmp_path: Path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep/run.sh").write_text("echo run")
    (tmp_path / "deep/run.sh").chmod(0o755)
    (tmp_path / "b").write_bytes(b"\xff\0")
    machine.put(tmp_path, "/tests")
    machine.put(tmp_path / "b", "/app/new/c")
    assert said(machine.run("/tests/deep/run.sh; wc -c < /app/new/c", 20)) == (0, "run\n2")
    machine.run("mkdir /logs/verifier && ln -s /app /logs/link && (sleep 1000 &) && echo 1 > /app/kept", 20)
    machine.settle("/tests", "/logs")
    assert said(machine.run("find /tests /logs; cat /app/kept", 20)) == (0, "/tests\n/logs\n1")


DEEP = """
import os, sys
os.chdir(sys.argv[1])
for number in range(1500):
    os.mkdir("n" * 250)
    open("f" * 250, "w").close()
    os.chdir("n" * 250)
os.mkdir("full")
open("full/file", "w").close()
os.symlink("/app", "link")
for closed in ("full", "."):
    os.chmod(closed, 0)
"""


def test_what_is_deep_closed_or_long_is_removed(machine: LocalMachine, tmp_path: Path):
    (tmp_path / "deep.py").write_text(DEEP)
    machine.put(tmp_path, "/data")
    machine.run("touch kept; mkdir /logs/verifier /logs/x; chmod 0 /logs/x; mkfifo /logs/pipe", 20)
    assert said(machine.run("python3 /data/deep.py /tests; python3 /data/deep.py /logs/verifier", 60)) == (
        0,
        "",
    )
    machine.settle("/tests", "/logs/verifier", "/logs/pipe")
    assert said(machine.run("find /tests /logs/verifier /logs/pipe; ls", 20)) == (
        0,
        "/tests\n/logs/verifier\n/logs/pipe\nkept",
    )
    machine.settle("/logs")
    assert said(machine.run("ls -A /logs", 20)) == (0, "")


def test_commands_that_cannot_be_given_or_started_end(machine: LocalMachine):
    assert said(machine.run("echo a\0b \ud83d", 20)) == (0, "ab ?")
    assert machine.run(f"echo {'x' * 100_000}", 20).code == 0
    code, output = said(machine.run(f"echo {'x' * 200_000}", 20))
    assert code == 126
    assert "Argument list too long" in output
    machine.run(f"ln -s {'x' * 300} link; ln -s {'x' * 200} other", 20)
    assert machine.read("/app/link") is machine.read("/app/other") is None
    (first,) = psutil.Process(machine._process.pid).children()
    before = resource.prlimit(first.pid, resource.RLIMIT_NPROC)
    resource.prlimit(first.pid, resource.RLIMIT_NPROC, (1, before[1]))
    code, output = said(machine.run("echo", 20))
    assert code == 126
    assert output.startswith("bash: fork: ")
    resource.prlimit(first.pid, resource.RLIMIT_NPROC, before)
    assert said(machine.run("echo well", 20)) == (0, "well")


def among_mounts(mounts: str, command: str) -> str:
    """Return what a command writes on a machine whose host has more mounts; only root can make some."""
    script = (
        "import sys; from areal.sandbox.local.machine import LocalMachine; machine = LocalMachine(); "
        "print(machine.run(sys.argv[1], 20).output); machine.close()"
    )
    done = subprocess.run(
        [
            "unshare",
            "--mount",
            "sh",
            "-ec",
            f'{mounts}\nexec "$@"',
            "sh",
            sys.executable,
            "-c",
            script,
            command,
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    if "unshare: " in done.stderr or "mount: " in done.stderr:
        pytest.skip(f"no mount here: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_what_the_host_has_mounted_in_its_folders_is_read_only():
    mounts = """
        cd /usr/local/share; mount -t tmpfs -o mode=777 tmpfs .; cd ../share; mkdir 'a b'
        mount -t tmpfs -o mode=777 tmpfs 'a b'; echo seen > 'a b/here'; chmod 666 'a b/here'"""
    written = among_mounts(mounts, "cd /usr/local/share; cat a*/here; touch x a*/here")
    assert "seen" in written
    assert written.count("Read-only file system") == 2


PACKAGES = next((str(p) for p in Path("/usr").glob("lib/python3*/dist-packages") if p.is_dir()), "")


def test_where_the_host_s_programs_would_look_further_nothing_can_be_put():
    """A link, and a file by which Python finds modules, lead to folders that the machine has of its own."""
    mounts = f"""
        mount -t tmpfs tmpfs /usr/local/bin; ln -s /opt/tool/bin/ls /usr/local/bin/ls
        ln -s ../../bin/id /usr/local/bin/me
        test -z '{PACKAGES}' || mount -t tmpfs tmpfs '{PACKAGES}' && printf '/app\\n' > '{PACKAGES}/a.pth'"""
    command = """
        mv /opt/tool /opt/x; mkdir -p /opt/tool/bin; rm -rf /opt/tool/bin/ls; cp /bin/true /opt/tool/bin/ls
        echo 'print("mine")' > /app/sitecustomize.py; mkdir /opt/other
        python3 -c 'print(1)'; ls -d /opt/*; me -u"""
    written = among_mounts(mounts, command)
    assert "Device or resource busy" in written
    assert "/opt/other\n/opt/tool\n1000" in written
    assert "mine" not in written


@pytest.mark.parametrize(
    "attack",
    [
        "cat /etc/shadow", "ls /proc/1", f"ls {Path(__file__).parent}", f"cat {__file__}", "touch /usr/bin/x",
        "echo > /bin/bash", "unshare --user true", "mount -t tmpfs none /mnt", "chroot / true",
        "python3 -c 'import socket; socket.create_connection((\"1.1.1.1\", 53), 1)'",
        "python3 -c 'import socket; socket.socket(40, 1)'",
        "python3 -c 'import resource as r; r.prlimit(1, r.RLIMIT_NOFILE, (3, 3))'",
        "python3 -c 'import ctypes, os; c = ctypes.CDLL(None); os._exit(c.ptrace(16, 1, 0, 0) == -1)'",
        "head -c 100000000 /dev/zero > big", "python3 -c 'bytearray(1 << 33)'", "hostname x", "chown 0 /app",
        "rm /bin", "rm -r /lib64", "mv /usr /u", "mv /etc /e", "echo x > /etc/ld.so.preload", "mv /dev /d",
        "mkdir -p /etc/python3.11", "rm -f /dev/null", "echo > /dev/more", "mkdir -p /lib32/x /libx32/x",
        # All descriptors but the three are closed: poll says 32 of each.
        "python3 -c 'import os, select; p = select.poll(); [p.register(n) for n in range(3, 1024)]; "
        "os._exit(all(e == 32 for _, e in p.poll(0)))'",
    ],
)  # fmt: skip
def test_what_is_not_the_machine_s_is_out_of_reach(machine: LocalMachine, attack: str):
    assert machine.run(attack, 20).code != 0
    assert said(machine.run("rm -f big; hostname; kill -9 1; kill -INT 1; echo well", 20)) == (
        0,
        "machine\nwell",
    )


def test_what_takes_too_long_is_stopped(machine: LocalMachine):
    ran = machine.run("sleep 1000 & echo begun; while true; do :; done", 5)
    assert (ran.late, ran.output) == (True, "begun\n")
    ran = machine.run("yes", 5)
    assert ran.late
    assert len(ran.output) == 1 << 20
    assert said(machine.run("echo well", 20)) == (0, "well")


def test_too_many_processes_are_the_machine_s_own_trouble(machine: LocalMachine):
    machine.run("bomb() { bomb | bomb & }; bomb 2>/dev/null", 2)
    machine.settle()
    assert said(machine.run("echo well | cat", 20)) == (0, "well")


def test_what_fills_the_machine_leaves_room_for_tests(machine: LocalMachine, tmp_path: Path):
    (tmp_path / "t").write_bytes(bytes(1 << 20))
    machine.run("cat /dev/zero > big; cat /dev/zero > /tests/big; cat /dev/zero > /logs/big", 60)
    with pytest.raises(MachineFull):
        machine.put(tmp_path, "/app/more")
    machine.settle("/tests", "/logs/verifier")
    machine.put(tmp_path, "/tests")
    assert said(machine.run("wc -c < /tests/t", 20)) == (0, str(1 << 20))


def test_nothing_outlives_it():
    before = {process.pid for process in psutil.Process().children(recursive=True)}
    machine = LocalMachine()
    machine.run("for i in 1 2 3; do setsid sleep 1000 & done", 20)
    mine = [p for p in psutil.Process().children(recursive=True) if p.pid not in before]
    assert len(mine) >= 5, "the keeper, the first process and three more"
    machine.close()
    machine.close()
    assert not [process for process in mine if process.is_running()]
    with pytest.raises(SandboxUnavailable):
        machine.run("true", 1)


def test_one_that_was_killed_says_so():
    machine = LocalMachine()
    for process in psutil.Process(machine._process.pid).children():
        process.kill()
    with pytest.raises(SandboxUnavailable):
        machine.run("true", 5)
    machine.close()
    with pytest.raises(SandboxUnavailable, match="no network"):
        LocalMachine(MachineLimits(network=True))


def test_a_plain_user_has_one_too(as_nobody):
    script = (
        "from areal.sandbox.local.machine import LocalMachine\n"
        "machine = LocalMachine()\n"
        "print(machine.run('echo 1 > a; mkdir /x; cat a; ls /; touch /usr/y || echo refused', 20).output)\n"
        "machine.close()"
    )
    written = as_nobody("-c", script)
    assert "refused" in written
    assert "\nx\n" in written
