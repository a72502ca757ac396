"""Draws the curve of a run while it is running, and at its end."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from areal.telemetry.plot import plot_curve
from areal.telemetry.progress import Progress
from areal.telemetry.run_directory import RunDirectory, read_metrics

_EVERY, _SHARE = 30.0, 0.02


@asynccontextmanager
async def drawn_again(
    directory: RunDirectory, title: str, every: float = _EVERY, share: float = _SHARE
) -> AsyncIterator[None]:
    """Draw the curve regularly, in a process with low priority.

    Args:
        every: minimum seconds between two drawings.
        share: maximum share of the time in which a process is drawing.
    """
    drawing = asyncio.create_task(_draw_again(directory, title, every, share), name="curve")
    try:
        yield
    finally:
        drawing.cancel()
        await asyncio.gather(drawing, return_exceptions=True)


async def _draw_again(directory: RunDirectory, title: str, every: float, share: float) -> None:
    pause, drawn = every, 0
    while True:
        await asyncio.sleep(pause)
        if (size := directory.metrics_size) == drawn:
            continue
        drawn, begun = size, time.monotonic()
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "areal.telemetry.plot", str(directory.path), title
        )
        try:
            await process.wait()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        pause = max(every, (time.monotonic() - begun) / share)


def draw_last(directory: RunDirectory, title: str, progress: Progress) -> None:
    """Draw the curve of a run that has ended or failed, and report its path."""
    if not (metrics := read_metrics(directory.path)):
        return
    try:
        plot_curve(metrics, directory.curve, title)
    except OSError as error:  # the reason for the run's end is more important
        progress.message(f"cannot draw the learning curve: {error}")
    else:
        progress.message(f"learning curve: {directory.curve}")
