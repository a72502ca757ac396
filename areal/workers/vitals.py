"""The kernel's data on a process that may not respond itself, and the stacks of a stuck process."""

from __future__ import annotations

import asyncio
import faulthandler
import fcntl
import os
import signal
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")
_STACKS = "AREAL_STACKS"
"""Variable that names the file into which this process and its descendants write their stacks."""
_FILE = "areal-stacks"
_LOOK = 0.05
"""Interval in seconds of checks for written stacks."""
_LOOKS = 15
"""Number of checks for the stacks of one process, for each way of requesting them."""
_QUIET = 5
"""Number of checks without anything new, after which no more is expected."""
_END = b" in <module>\n"
_ASKED, _FORCED = signal.SIGUSR2, signal.SIGUSR1
_LIMIT = 3.0
"""Seconds after which no further process is asked for its stacks, because frozen ones wait to be killed."""


@dataclass(frozen=True, slots=True)
class Vitals:
    """The kernel's data on a process.

    Attributes:
        name: name of the program, at most 15 characters.
        state: a letter: R runs, S sleeps, D waits for a disk, T is stopped by a signal, t by a debugger.
        cpu: seconds of CPU time so far.
        nbytes: bytes read and written so far, mostly of files.
        debugged: whether a debugger is attached.
    """

    pid: int
    name: str
    state: str
    cpu: float
    nbytes: int
    debugged: bool

    @property
    def stopped(self) -> bool:
        """Whether a signal such as SIGSTOP has stopped it."""
        return self.state == "T"


def _read_vitals(pid: int) -> Vitals | None:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return None
    name, _, rest = stat.partition("(")[2].rpartition(")")
    fields = rest.split()
    cpu = (int(fields[11]) + int(fields[12])) / _TICKS
    return Vitals(pid, name, fields[0], cpu, _read_bytes(pid), "\nTracerPid:\t0\n" not in status)


def _read_bytes(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/io").read_text().splitlines()
    except OSError:  # it has just ended, or belongs to another user
        return 0
    return sum(int(line.split()[1]) for line in lines[:2])


def read_family(pid: int) -> list[Vitals]:
    """Return the vitals of a process of this host, first, and of all its descendants."""
    pids = [pid]
    for parent in pids:
        for thread in _entries(Path(f"/proc/{parent}/task")):
            with suppress(OSError):
                pids += map(int, (thread / "children").read_text().split())
    return [vitals for each in pids if (vitals := _read_vitals(each)) is not None]


def _entries(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError:  # the process has ended
        return []


def stacks_file() -> int:
    """Return a descriptor of a file in memory, for the stacks of a process that is about to start.

    A process that writes into such a file itself shares it, so that the file contains those of all
    descendants.
    """
    with suppress(OSError, KeyError):  # this is not a worker, or the owner of the file is gone
        return _open_shared()
    file = os.memfd_create(_FILE)
    fcntl.fcntl(file, fcntl.F_SETFL, os.O_APPEND)
    return file


def write_stacks_to(file: int) -> None:
    """Let this process, and those that it forks, write their stacks when :func:`take_stacks` requests it.

    Args:
        file: an open descriptor of a file.
    """
    os.environ[_STACKS] = f"/proc/{os.getpid()}/fd/{file}"
    _write_on_signals(file)


def write_stacks_to_parents() -> None:
    """Write stacks to the same file as the process that spawned this one."""
    with suppress(OSError, KeyError):  # nobody needs them
        _write_on_signals(_open_shared())


def _write_on_signals(file: int) -> None:
    def write_stacks(*_: object) -> None:
        faulthandler.dump_traceback(file, all_threads=True)

    signal.signal(_ASKED, write_stacks)  # its thread has the GIL, so the others do not run
    faulthandler.register(_FORCED, file, all_threads=True)  # even if native code holds the GIL


def _open_shared() -> int:
    """Open the file of the worker that this process is or belongs to; raises OSError, KeyError.

    Its owner may be gone, and another process may have its number, so the opened file must be checked.
    """
    name = os.environ[_STACKS]
    if not os.readlink(name).startswith(f"/memfd:{_FILE}"):
        raise FileNotFoundError(name)
    return os.open(name, os.O_RDWR | os.O_APPEND)


async def take_stacks(pid: int, file: int, forced: bool) -> str:
    """Return the stacks of a process and of all descendants that write them.

    A stopped process has to run again for a moment; stopped ones come first.

    Args:
        file: the file to which they write.
        forced: whether to read also those that do not respond. Running code may crash because of it.
    """
    found, until = [], time.monotonic() + _LIMIT
    ways = (_ASKED, _FORCED) if forced else (_ASKED,)
    for vitals in sorted(read_family(pid), key=lambda vitals: not vitals.stopped):
        text = " not asked, because of the time limit\n"
        if time.monotonic() <= until:
            text = await _stacks(vitals, file, ways)
        found.append(f"process {vitals.pid} ({vitals.name}), state {vitals.state}:{text}")
    return "\n".join(found)


async def _stacks(vitals: Vitals, file: int, ways: tuple[signal.Signals, ...]) -> str:
    """Return the stacks of one process, after a line break, or why there are none, in the same line."""
    if not all(_catches(vitals.pid, way) for way in ways):  # it would end because of the signal
        return " it does not run Python, or has just started\n"
    begin = os.fstat(file).st_size
    for way in ways:
        with suppress(ProcessLookupError):
            os.kill(vitals.pid, way)
            if vitals.stopped:
                os.kill(vitals.pid, signal.SIGCONT)
        if text := await _written(file, begin):
            return f"\n{text}"
    return " it does not answer\n"


async def _written(file: int, begin: int) -> str:
    """Wait for a while until a file contains the stacks of a process from ``begin`` on; return them.

    The main thread comes last, and most start in a module. A process may pause while it writes.
    """
    size, quiet = begin, 0
    for _ in range(_LOOKS):
        await asyncio.sleep(_LOOK)
        before, size = size, os.fstat(file).st_size
        quiet = quiet + 1 if begin < before == size else 0
        if quiet == _QUIET or (quiet and os.pread(file, size - begin, begin).endswith(_END)):
            break
    return os.pread(file, size - begin, begin).decode(errors="replace")


def _catches(pid: int, number: signal.Signals) -> bool:
    """Return whether a process has a handler for a signal."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return False
    [mask] = [line.split()[1] for line in lines if line.startswith("SigCgt:")]
    return bool(int(mask, 16) >> (number - 1) & 1)
