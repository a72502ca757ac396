"""Compares the cost of a run in the local sandbox with a plain Python subprocess, and looks for leaks.

    python benchmarks/sandbox.py [--blocks 10] [--leak-runs 10000] [--any-core]

The benchmark prints and writes one JSON object. The program and this process share one processor unless
``--any-core`` is given. The two ways take turns in blocks, so that a slow moment of the machine affects both.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import psutil
from common import parser, save

from areal.sandbox.interface import Call, Calls, Job
from areal.sandbox.local import local_sandbox
from areal.sandbox.pool import Pool

SOURCE = "def f(x):\n    return x * x\n"
SCRIPT = f"{SOURCE}\nprint(f(3))"
BLOCK = 50


def main() -> None:
    options = parser(__doc__, "sandbox")
    options.add_argument(
        "--blocks", type=int, default=10, help=f"number of blocks of {BLOCK} runs of each way"
    )
    options.add_argument(
        "--leak-runs", type=int, default=10_000, help="runs between the two checks for leaks"
    )
    options.add_argument("--any-core", action="store_true", help="use all processors, with one run on each")
    given = options.parse_args()
    if not given.any_core:
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    pool = local_sandbox()
    try:
        result = {
            **{"processors": pool.size, "level": pool.backend.level, "user": os.geteuid()},
            "kernel": os.uname().release,
            "cost": costs(pool, given.blocks),
            "leaks": leaks(pool, given.leak_runs),
        }
    finally:
        pool.close_blocking()
    print(json.dumps(result, indent=2))
    save(given.output, "sandbox", result)


def costs(pool: Pool, blocks: int) -> dict[str, float]:
    """Return the milliseconds per run and the runs per second of both ways, with sequential runs."""
    times: dict[str, list[float]] = {"sandbox": [], "subprocess": []}
    for warm in range(blocks + 1):
        for name, run in (("sandbox", lambda: in_sandbox(pool)), ("subprocess", in_subprocess)):
            block = [timed(run) for _ in range(BLOCK)]
            times[name] += block if warm else []
    found = {}
    for name, seconds in times.items():
        found[f"{name}_median_ms"] = 1000 * statistics.median(seconds)
        found[f"{name}_p95_ms"] = 1000 * statistics.quantiles(seconds, n=20)[-1]
        found[f"{name}_runs_per_s"] = len(seconds) / sum(seconds)
    found["times_faster"] = found["sandbox_runs_per_s"] / found["subprocess_runs_per_s"]
    return {name: round(value, 2) for name, value in found.items()}


def in_sandbox(pool: Pool) -> None:
    outcome = pool.run_blocking(Job(SOURCE, Calls((Call("f", (3,)),))))
    assert outcome.status == "ok", outcome


def in_subprocess() -> None:
    subprocess.run([sys.executable, "-I", "-c", SCRIPT], capture_output=True, check=True, timeout=10)


def timed(run: Callable[[], None]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def leaks(pool: Pool, runs: int) -> dict[str, object]:
    """Return the resources that this process and its children hold before and after many runs."""
    for _ in range(200):
        in_sandbox(pool)
    before = held()
    start = time.monotonic()
    for _ in range(runs):
        in_sandbox(pool)
    return {"runs": runs, "seconds": round(time.monotonic() - start, 1), "before": before, "after": held()}


def held() -> dict[str, float]:
    family = [psutil.Process(), *psutil.Process().children(recursive=True)]
    # A process frees what it has read of the kernel's accounts a little after it has ended.
    return {
        "processes": len(family),
        "descriptors": sum(process.num_fds() for process in family),
        "resident_mib": round(sum(process.memory_info().rss for process in family) / 2**20, 1),
    }


if __name__ == "__main__":
    main()
