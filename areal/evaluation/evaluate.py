"""Held-out accuracy of whatever weights the engine holds."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable
from typing import Any

from areal.evaluation.report import Report
from areal.trajectory import Episode


async def evaluate(
    play: Callable[[dict[str, Any], int], Awaitable[Episode]],
    tasks: list[dict[str, Any]],
    samples: int,
    concurrency: int,
    env: str,
    model: str,
    settings: dict[str, Any],
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Report:
    """Play every task ``samples`` times and report.

    Args:
        play: plays one episode of a task with a sampling seed.
        tasks: reset arguments of the problems.
        samples: episodes of each.
        concurrency: episodes under way at once.
        env: name of the environment, for the report.
        model: name of the model, for the report.
        settings: what else the figures depend on, for the report.
        progress: called with the episodes done and their total.

    Returns:
        Scores by problem and sample; the same settings give the same seeds.
    """
    started = time.monotonic()
    slots = asyncio.Semaphore(concurrency)
    done = 0

    async def one(task: dict[str, Any], seed: int) -> Episode:
        nonlocal done
        async with slots:
            episode = await play(task, seed)
        done += 1
        progress(done, len(tasks) * samples)
        return episode

    running = [
        [asyncio.create_task(one(task, i * samples + k)) for k in range(samples)]
        for i, task in enumerate(tasks)
    ]
    try:
        played = [await asyncio.gather(*row) for row in running]
    finally:
        for row in running:
            for episode in row:
                episode.cancel()
    return Report(
        env=env,
        model=model,
        scores=[[e.reward for e in row] for row in played],
        finishes=[[e.finish for e in row] for row in played],
        lengths=[[e.sampled for e in row] for row in played],
        seconds=time.monotonic() - started,
        settings=settings,
        parts=_mean_parts([t for row in played for t in row]),
    )


def _mean_parts(played: list[Episode]) -> dict[str, float]:
    names = dict.fromkeys(name for episode in played for name in episode.reward_parts)
    return {name: statistics.fmean(e.reward_parts.get(name, 0.0) for e in played) for name in names}
