"""Finds the processes of a run that may die, and ends them in several ways."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import psutil

WORKERS = ("engine", "learner rank", "rollout worker")
"""Kinds of workers in the run's status, by the prefixes of their names."""
SEVERAL = ("environment", "zygote", "math worker")
"""Kinds that are started on demand and of which each environment has its own."""
KINDS = (*WORKERS, "EngineCore", *SEVERAL, "run")
WAYS = ("kill", "stop", "crash", "memory")
_BOMB = "hog = []\nwhile True: hog.append(bytearray(b'x' * 2**20))"
_ROOM = 64 << 20
"""Bytes of memory that a victim and a bomb share."""
_FIRST = "1000"
"""The score that makes a process the first choice of the kernel's out-of-memory killer."""


class Victim(NamedTuple):
    """A process of a run.

    Attributes:
        kind: one of KINDS.
        name: the name of this process.
    """

    kind: str
    name: str
    process: psutil.Process


def draws(kinds: Sequence[str], ways: Sequence[str], seed: int) -> Iterator[tuple[str, str]]:
    """Yield pairs endlessly: each kind once per round, and with each way once in as many rounds as ways."""
    chance = random.Random(f"draws {seed}")
    while True:
        order, turned = chance.sample(kinds, len(kinds)), chance.sample(ways, len(ways))
        for turn in range(len(ways)):
            pairs = [(kind, turned[(place + turn) % len(ways)]) for place, kind in enumerate(order)]
            yield from chance.sample(pairs, len(pairs))


def victims(run: Path, own: int) -> list[Victim]:
    """Return all processes that may die now.

    Args:
        run: the run directory.
        own: the PID of the run's own process.
    """
    with contextlib.suppress(psutil.NoSuchProcess):
        return [Victim("run", "the run", psutil.Process(own)), *_workers(run, own), *_below(own)]
    return []


def _workers(run: Path, own: int) -> Iterator[Victim]:
    """Yield the workers in the run's status, which `areal status` shows."""
    with contextlib.suppress(FileNotFoundError):
        status = json.loads((run / "status.json").read_text())
        for worker in status["workers"] if status["pid"] == own else []:
            kind = next((kind for kind in WORKERS if worker["name"].startswith(kind)), None)
            with contextlib.suppress(psutil.NoSuchProcess):
                if kind is not None and not worker["starting"]:
                    yield Victim(kind, worker["name"], psutil.Process(worker["pid"]))


def _below(own: int) -> Iterator[Victim]:
    """Yield the victims in the process tree."""
    for process in psutil.Process(own).children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
            words = " ".join(process.cmdline())
            if process.name().startswith("VLLM::EngineCor"):
                yield Victim("EngineCore", f"EngineCore {process.pid}", process)
            elif words.startswith("areal env "):
                yield Victim("environment", words.removeprefix("areal "), process)
            elif _is_zygote(words) and not _is_run(process):
                yield Victim("zygote", f"zygote {process.pid}", process)
            elif "areal.rewards.math_worker" in words:
                yield Victim("math worker", f"math worker {process.pid}", process)


def _is_zygote(words: str) -> bool:
    return "areal.sandbox.local.zygote" in words


def _is_run(process: psutil.Process) -> bool:
    """Return whether a zygote forked the process, so that a crash is the fault of its program."""
    above = process.parents()[:2]
    return len(above) == 2 and all(_is_zygote(" ".join(each.cmdline())) for each in above)


def kill(victim: psutil.Process) -> str:
    """End a process with SIGKILL."""
    victim.send_signal(signal.SIGKILL)
    return "SIGKILL"


def stop(victim: psutil.Process) -> str:
    """Stop a process permanently with SIGSTOP."""
    victim.send_signal(signal.SIGSTOP)
    return "SIGSTOP"


def crash(victim: psutil.Process) -> str:
    """End a process with SIGSEGV, as a bug in native code might.

    Some libraries have handlers that attribute the first SIGSEGV to their own guard page and let the process
    continue. The first process of a namespace, such as a zygote, receives no SIGSEGV from outside, and ends
    with SIGKILL instead.
    """
    if _is_first(victim):
        return kill(victim)
    for _ in range(3):
        with contextlib.suppress(psutil.NoSuchProcess):
            victim.send_signal(signal.SIGSEGV)
            time.sleep(0.05)
    return "SIGSEGV"


def _is_first(process: psutil.Process) -> bool:
    """Return whether a process is the first of its PID namespace."""
    with contextlib.suppress(FileNotFoundError):  # it has just ended
        lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
        return any(line.startswith("NSpid:") and line.split()[-1] == "1" for line in lines)
    return False


def memory(victim: psutil.Process) -> str:
    """Make the kernel's out-of-memory killer end a process, while another process allocates endlessly.

    Both processes are in a control group with little memory. Where no control group can be created, the
    victim gets no more address space, so its next allocation fails.
    """
    group = _new_group(victim.pid)
    if group is None:
        size = victim.memory_info().vms + (1 << 20)
        victim.rlimit(psutil.RLIMIT_AS, (size, size))
        return "no more address space"
    try:
        _bomb(victim, group)
    finally:
        for _ in range(100):
            with contextlib.suppress(OSError):
                group.rmdir()
                break
            time.sleep(0.1)
    return "out of memory"


def _bomb(victim: psutil.Process, group: Path) -> None:
    members = group / "cgroup.procs"
    Path(f"/proc/{victim.pid}/oom_score_adj").write_text(_FIRST)
    members.write_text(str(victim.pid))
    join = f"import os; open({str(members)!r}, 'w').write(str(os.getpid()))\n"
    with subprocess.Popen([sys.executable, "-S", "-c", join + _BOMB]) as bomb:
        with contextlib.suppress(psutil.TimeoutExpired):
            victim.wait(30)
        bomb.kill()


END: dict[str, Callable[[psutil.Process], str]] = dict(zip(WAYS, (kill, stop, crash, memory), strict=True))
"""Functions that end a process and return the cause of its death."""


def _new_group(pid: int) -> Path | None:
    """Create a control group with little memory beside that of a process; None: that is not permitted."""
    for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers not in ("", "memory"):
            continue
        root = Path("/sys/fs/cgroup", controllers)
        group = (root / path.strip("/")).parent / f"areal-soak-{os.getpid()}-{pid}"
        if not group.is_relative_to(root):
            continue
        with contextlib.suppress(OSError):
            group.mkdir()
            try:
                limit = "memory.limit_in_bytes" if controllers else "memory.max"
                (group / limit).write_text(str(_ROOM))
            except OSError:
                group.rmdir()
                continue
            return group
    return None
