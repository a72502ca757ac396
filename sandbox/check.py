"""Reports which sandbox this host provides and why, and tests it with attacks."""

from __future__ import annotations

import os
import socket
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .interface import Call, Calls, Job, Raised, Returned, SandboxLimits, SandboxUnavailable
from .local.backend import LocalBackend
from .packages import interpreter
from .pool import Pool

STRONG = ("full", "namespaces")
_MEANINGS = {
    "full": "own user, process, mount and network namespaces; Landlock; a filter of system calls",
    "namespaces": "own user, process, mount and network namespaces; a filter of system calls, no Landlock",
    "confined": "only Landlock and a filter of system calls; weak, as runs share the host's processes",
}
_LIMITS = SandboxLimits(wall_s=1.0, memory_mb=256, threads=16)
_SLACK_S = 1.0
_RUNS = 30

# Each defines ``probe``, which is true if the attack succeeds. @…@ are real objects of this host.
_ATTACKS = {
    "reads a file of the host": "return open('@SECRET@').read() == 'hush'",
    "reads the environment of the host": "import os\nreturn os.environ.get('@NAME@') == 'hush'",
    "writes a file of the host": "open('@OUT@', 'w').close()\nreturn True",
    "reads another process": "import os\nreturn open(f'/proc/{os.getppid() or 1}/environ').read() != ''",
    "signals another process": "import os\nos.kill(os.getppid() or -9999, 0)\nreturn True",
    "connects to the host": "import socket\nsocket.create_connection(('127.0.0.1', @PORT@), 1)\nreturn True",
    "opens a socket to a hypervisor": "import socket\nsocket.socket(40, 1)\nreturn True",
    "starts a process": "import os\nif os.fork() == 0: os._exit(0)\nreturn True",
    "runs a program": "import subprocess\nreturn subprocess.run(['/bin/true']).returncode == 0",
    "creates a user namespace": "import ctypes\nreturn ctypes.CDLL(None).unshare(0x10000000) == 0",
    "traces": "import ctypes\nreturn ctypes.CDLL(None).ptrace(0, 0, 0, 0) == 0",
    "opens an io_uring": "import ctypes\nreturn ctypes.CDLL(None).syscall(425, 8, bytes(120)) >= 0",
    "takes too much memory": f"return len(bytearray({4 * _LIMITS.memory_mb} << 20)) > 0",
    "starts too many threads": (
        "import threading, time\nthreading.stack_size(1 << 16)\n"
        f"for _ in range({2 * _LIMITS.threads}): threading.Thread(target=time.sleep, args=(9,)).start()\n"
        "return True"
    ),
    "runs forever": "while True: pass",
    "writes endlessly": "while True: print('x' * 10**6)",
}


@dataclass(frozen=True, slots=True)
class Proof:
    """One attack on the sandbox: it ``held`` if the attack failed in time, and the next run worked."""

    attack: str
    held: bool
    detail: str


@dataclass(frozen=True, slots=True)
class HostReport:
    """The sandbox of this host.

    Attributes:
        level: ``"full"``, ``"namespaces"``, ``"confined"``, or ``None`` if there is no local sandbox.
        reason: what the level consists of, or why there is no better one.
        landlock: the version of Landlock; 0: none.
        median_ms: milliseconds of an empty run.
        proofs: the attacks and their results.
        python: version of its interpreter.
        packages: packages that it can import besides the standard library.
    """

    level: str | None
    reason: str
    landlock: int = 0
    median_ms: float = 0.0
    proofs: tuple[Proof, ...] = ()
    python: str = ""
    packages: tuple[str, ...] = ()

    @property
    def strong(self) -> bool:
        """Return whether the sandbox may be used without ``allow_weak``, and has held."""
        return self.level in STRONG and all(proof.held for proof in self.proofs)

    def to_json(self) -> dict[str, Any]:
        """Return the report as JSON values."""
        return {**asdict(self), "strong": self.strong}

    def lines(self) -> Iterator[str]:
        """Yield the report as text."""
        yield f"local sandbox: {self.level or 'none'} ({self.reason})"
        if self.level is None:
            return
        host = f"Linux {os.uname().release}, {os.uname().machine}, as user {os.geteuid()}"
        yield f"{host}; Landlock {self.landlock or 'absent'}"
        packages = ", ".join(self.packages) or "no other packages (env_options.packages=[numpy] adds one)"
        yield f"Python {self.python}: the standard library and {packages}"
        yield f"an empty run takes {self.median_ms:.1f} ms"
        for proof in self.proofs:
            yield f"  {'held' if proof.held else 'BROKEN'}  {proof.attack}: {proof.detail}"
        held = sum(proof.held for proof in self.proofs)
        yield f"{held} of {len(self.proofs)} attacks held; {'strong' if self.strong else 'NOT strong'}"


def report() -> HostReport:
    """Start the best sandbox of this host, weak or not, attack it, and report the results."""
    why = ""
    for allow_weak in (False, True):
        backend = LocalBackend(1, allow_weak=allow_weak)
        try:
            return _report(backend, "; ".join(filter(None, (_MEANINGS[backend.level], why))))
        except SandboxUnavailable as error:
            why = str(error)
        finally:
            backend.close()
    return HostReport(None, why)


def _report(backend: LocalBackend, reason: str) -> HostReport:
    pool = Pool(backend, 1)
    times, proofs = _median_ms(pool), tuple(_proofs(pool))
    return HostReport(backend.level, reason, backend.landlock, times, proofs, *interpreter(pool))


def _median_ms(pool: Pool) -> float:
    times = []
    for _ in range(_RUNS):
        start = time.perf_counter()
        _works(pool)
        times.append(time.perf_counter() - start)
    return 1000 * statistics.median(times)


def _proofs(pool: Pool) -> Iterator[Proof]:
    name = f"AREAL_SANDBOX_CHECK_{os.getpid()}"
    os.environ[name] = "hush"
    try:
        with tempfile.TemporaryDirectory() as folder, socket.create_server(("127.0.0.1", 0)) as server:
            secret, out = Path(folder, "secret"), Path(folder, "out")
            secret.write_text("hush", encoding="utf-8")
            os.chmod(folder, 0o777)
            places = {"@SECRET@": secret, "@OUT@": out, "@NAME@": name, "@PORT@": server.getsockname()[1]}
            for attack, body in _ATTACKS.items():
                for place, value in places.items():
                    body = body.replace(place, str(value))
                yield _proof(pool, attack, body)
    finally:
        del os.environ[name]


def _proof(pool: Pool, attack: str, body: str) -> Proof:
    lines = "".join(f"    {line}\n" for line in body.split("\n"))
    start = time.monotonic()
    outcome = pool.run_blocking(Job(f"def probe():\n{lines}", Calls((Call("probe"),))), _LIMITS)
    seconds = time.monotonic() - start
    held = Returned(True) not in outcome.values and seconds < _LIMITS.wall_s + _SLACK_S and _works(pool)
    result = outcome.values[0] if outcome.values else None
    detail: str = outcome.status
    if isinstance(result, Raised):
        detail = f"{result.type_names[0]} {result.message}".strip()
    elif isinstance(result, Returned):
        detail = f"returned {result.value}"
    return Proof(attack, held, f"{detail} ({seconds:.2f} s)")


def _works(pool: Pool) -> bool:
    """Return whether an honest run works."""
    outcome = pool.run_blocking(Job("def f(x): return x * x", Calls((Call("f", (12,)),))), _LIMITS)
    return outcome.values == (Returned(144),)
