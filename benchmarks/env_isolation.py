"""Measures the cost of a separate process for each environment, compared with threads of one process.

The benchmark plays episodes of ``math-v1`` with fixed responses and without an engine. The environments take
all of the time, so the ratio of the rates is the worst case. The benchmark also prints how long the first
environment takes and how much memory each process uses.

    python benchmarks/env_isolation.py --episodes 2000 --concurrent 8
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import time
from typing import Any

import psutil

from areal.config import load_config
from areal.registry import make_env
from areal.rollout.environments import EnvironmentPool
from areal.runtime.build import env_launcher
from areal.runtime.rollouts import environments


async def episode(pool: EnvironmentPool, number: int) -> None:
    """Play one episode."""
    task = {"seed": number, "options": {"index": number, "split": "train"}}
    async with pool.lend() as env:
        await pool.reset(env, task)
        await pool.step(env, "\\boxed{12}", task)


async def measure(isolation: str, episodes: int, concurrent: int) -> dict[str, Any]:
    """Return the cost of environments on threads or in processes."""
    config = load_config(overrides=[f"rollout.env_isolation={isolation}", "env=math-v1"])
    pool = environments(config, env_launcher(config, make_env("math-v1")))
    started = time.perf_counter()
    await episode(pool, 0)
    first = time.perf_counter() - started
    started = time.perf_counter()
    await asyncio.gather(*(episode(pool, n) for n in range(concurrent)))
    warm = time.perf_counter() - started
    rates = []
    numbers = iter(range(10**9))

    async def lane(until: int) -> None:
        for number in numbers:
            if number >= until:
                return
            await episode(pool, number)

    for part in range(1, 6):
        started = time.perf_counter()
        await asyncio.gather(*(lane(part * episodes // 5) for _ in range(concurrent)))
        rates.append(episodes / 5 / (time.perf_counter() - started))
    children = psutil.Process().children()
    memory = [child.memory_full_info().uss >> 20 for child in children]
    await pool.close()
    return {
        "isolation": isolation,
        "first_s": round(first, 3),
        f"next_{concurrent}_s": round(warm, 3),
        "episodes_per_s": round(statistics.median(rates), 1),
        "processes": len(children),
        "memory_mib_each": round(statistics.mean(memory), 1) if memory else 0,
    }


def main() -> None:
    """Measure both kinds of isolation and print the results as JSON lines."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--episodes", type=int, default=2000)
    parser.add_argument("--concurrent", type=int, default=8)
    args = parser.parse_args()
    found = [asyncio.run(measure(kind, args.episodes, args.concurrent)) for kind in ("thread", "process")]
    for line in found:
        print(json.dumps(line))
    ratio = found[0]["episodes_per_s"] / found[1]["episodes_per_s"]
    print(json.dumps({"thread/process": round(ratio, 2)}))


if __name__ == "__main__":
    main()
