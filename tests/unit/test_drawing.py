"""The curve of a run that goes on."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from pathlib import Path

import psutil
from until import until

from areal.config import parse_config
from areal.runtime.drawing import drawn_again
from areal.telemetry.run_directory import RunDirectory
from areal.telemetry.scores import best_of, scores_of


async def test_it_is_drawn_again_when_there_is_something_new(tmp_path: Path):
    run = RunDirectory.create(parse_config({"output": tmp_path}))
    async with drawn_again(run, "title", every=0.05, share=1.0):
        await asyncio.sleep(0.2)
        assert not run.curve.exists(), "there is nothing to draw"
        run.log_metrics({"step": 1, "reward/mean": 0.5})
        await until(run.curve.exists)
        first = run.curve.stat().st_mtime_ns
        run.log_metrics({"step": 2, "reward/mean": 0.7})
        await until(lambda: run.curve.stat().st_mtime_ns > first)


async def test_a_run_that_ends_waits_for_no_drawing(tmp_path: Path):
    run = RunDirectory.create(parse_config({"output": tmp_path}))
    run.log_metrics({"step": 1, "reward/mean": 0.5})
    async with drawn_again(run, "title", every=0.01):
        await until(drawing)
        [process] = drawing()
        process.suspend()
    assert not process.is_running()
    assert not run.curve.exists()


def drawing() -> list[psutil.Process]:
    found = []
    for child in psutil.Process().children():
        with suppress(psutil.Error):  # it has just ended
            found += [child] if "areal.telemetry.plot" in child.cmdline() else []
    return found


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
