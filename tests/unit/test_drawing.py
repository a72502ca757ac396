"""The curve of a run that goes on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from areal.runtime.drawing import drawn_again
from areal.telemetry.run_directory import RunDirectory
from areal.telemetry.scores import best_of, scores_of


async def until(condition: Callable[[], bool]) -> None:
    while True:
        if condition():
            return
        await asyncio.sleep(0.05)


async def test_it_is_drawn_again_when_there_is_something_new(tmp_path: Path):
    run = RunDirectory(tmp_path)
    async with drawn_again(run, "title", every=0.05, share=1.0):
        await asyncio.sleep(0.2)
        assert not run.curve.exists(), "there is nothing to draw"
        run.log_metrics({"step": 1, "reward/mean": 0.5})
        await until(run.curve.exists)
        first = run.curve.stat().st_mtime_ns
        run.log_metrics({"step": 2, "reward/mean": 0.7})
        await until(lambda: run.curve.stat().st_mtime_ns > first)


async def test_a_run_that_ends_waits_for_no_drawing(tmp_path: Path):
    run = RunDirectory(tmp_path)
    run.log_metrics({"step": 1, "reward/mean": 0.5})
    async with drawn_again(run, "title", every=0.01):
        await asyncio.sleep(0.1)  # it has begun
    assert not run.curve.exists()


def test_the_best_score_is_the_last_of_equal_ones():
    lines = [
        {"step": 0, "eval/e/avg@1": 0.4, "eval/e/avg@1/low": 0.9},
        {"step": 1, "reward/mean": 1.0},
        # A mixture: the whole first, then its members.
        {"step": 2, "eval/e/avg@4": 0.6, "eval/a/avg@4": 0.1},
        {"step": 4, "eval/e/avg@4": 0.6, "eval/a/avg@4": 0.2},
        {"step": 6, "eval/e/avg@4": None, "eval/a/avg@4": 0.9},
    ]
    assert scores_of(lines) == {0: 0.4, 2: 0.6, 4: 0.6}
    assert best_of(scores_of(lines)) == 4
    assert best_of({}) is None
