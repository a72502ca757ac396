"""A short run of the promises without pytest, for a user who has neither rights nor packages."""

from __future__ import annotations

import os

from areal.sandbox.interface import Call, Calls, Job, Returned, SandboxLimits
from areal.sandbox.local import local_sandbox

SOURCE = """
import os, threading, time
def who(): return os.getuid(), os.getpid(), os.uname().nodename, sorted(os.environ)[:1]
def threads():
    n = 1
    try:
        for _ in range(100): threading.Thread(target=time.sleep, args=(1,), daemon=True).start(); n += 1
    except RuntimeError: pass
    return n
def forever():
    while True: pass
"""


def main() -> None:
    assert os.geteuid() != 0
    pool = local_sandbox(1)
    assert pool.backend.level in ("full", "namespaces"), pool.backend.level
    outcome = pool.run_blocking(
        Job(SOURCE, Calls((Call("who"), Call("threads"), Call("forever")))), SandboxLimits(wall_s=1)
    )
    assert outcome.status == "timeout"
    assert outcome.values == (Returned((1000, 1, "sandbox", ["HOME"])), Returned(32)), outcome
    assert pool.run_blocking(Job(SOURCE, Calls((Call("who"),)))).status == "ok"
    pool.close_blocking()
    print("all as promised")


if __name__ == "__main__":
    main()
