"""Short runs in a sandbox, each way that one may end, and whether its processes are gone."""

from __future__ import annotations

import time

import psutil

from areal.sandbox.interface import Call, Calls, Job, SandboxLimits

SHORT = SandboxLimits(wall_s=0.6)
"""For code that takes its time to the end; any other has so much that no machine is too busy for it."""
LONG = SandboxLimits(wall_s=60)


def call(sandbox, source: str, *args, limits: SandboxLimits = LONG):
    return sandbox.run_blocking(Job(source, Calls((Call("f", args),))), limits)


def gone(pids: list[int], patience_s: float = 60) -> bool:
    end = time.monotonic() + patience_s
    while time.monotonic() < end:
        if not any(map(_lives, pids)):
            return True
        time.sleep(0.02)
    return False


def _lives(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != "zombie"
    except psutil.NoSuchProcess:
        return False


def descendants(pid: int, at_least: int = 0, patience_s: float = 60) -> list[int]:
    """The processes below one, once there are as many, or when patience is over."""
    end = time.monotonic() + patience_s
    while True:
        found = [process.pid for process in psutil.Process(pid).children(recursive=True)]
        if len(found) >= at_least or time.monotonic() > end:
            return found
        time.sleep(0.02)


STATUSES = {
    "runtime_error": "1/0",
    "timeout": "import time; time.sleep(1000)",
    "memory": "x = bytearray(4 << 30)",
    "output_limit": "while True: print('x' * 100000)",
    "crashed": "import ctypes; ctypes.string_at(0)",
    "violation": "import ctypes; ctypes.CDLL(None).unshare(0x10000000)",
    "no_result": "import os; os._exit(0)",
    "protocol_error": "import os; os.write(4, b'\\0\\0\\0\\1?')",
}
"""Code that ends a run with each of the statuses other than ``ok``."""
