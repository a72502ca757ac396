"""Says where a run is when nothing in it moves any more, not even the event loop.

Native code that keeps Python's lock, such as a regular expression that backtracks for ever, stops every
thread of the process, and Ctrl-C with them. What still runs is a thread of faulthandler's own, in C: it
writes where each thread is. The process can then be killed (SIGQUIT will do), and the run resumed.
"""

from __future__ import annotations

import asyncio
import faulthandler
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TextIO

SILENCE = 300.0
"""Seconds in which the event loop did nothing, after which it is said where everything is."""


@asynccontextmanager
async def heartbeat(terminal: TextIO, seconds: float = SILENCE) -> AsyncIterator[None]:
    """Watch over the event loop; if it stands still for so long, all stacks are written, again and again."""
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
    except OSError:  # a notebook's is none: standard error, which goes to a log
        return 2
