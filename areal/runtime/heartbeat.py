"""Reports the state of a run in which nothing moves anymore, not even the event loop.

Native code that holds the GIL, such as a regular expression that backtracks forever, blocks every thread of
the process and Ctrl-C. A C thread of faulthandler still runs and writes the stack of each thread. The process
can then be killed (with SIGQUIT, for example), and the run can be resumed.
"""

from __future__ import annotations

import asyncio
import faulthandler
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TextIO

SILENCE = 300.0
"""Seconds without activity of the event loop after which all stacks are written."""


@asynccontextmanager
async def heartbeat(terminal: TextIO, seconds: float = SILENCE) -> AsyncIterator[None]:
    """Watch the event loop; while it is blocked for this long, all stacks are written repeatedly."""
    beating = asyncio.create_task(_beat(_descriptor(terminal), seconds), name="heartbeat")
    try:
        yield
    finally:
        beating.cancel()
        faulthandler.cancel_dump_traceback_later()


async def _beat(file: int, seconds: float) -> None:
    while True:
        faulthandler.dump_traceback_later(seconds, repeat=True, file=file)
        await asyncio.sleep(seconds / 10)


def _descriptor(terminal: TextIO) -> int:
    try:
        return terminal.fileno()
    except OSError:  # a notebook's has none, so use standard error, which goes to a log
        return 2
