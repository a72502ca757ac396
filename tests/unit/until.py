"""Tests wait for conditions: a span of time may be too short on a machine that is busy."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable

import psutil

HANG = 120.0
"""Seconds that nothing takes, however busy the machine is."""


async def until(condition: Callable[[], object]) -> None:
    """Wait until something is true that other tasks or processes bring about."""
    end = time.monotonic() + HANG
    while not condition():
        assert time.monotonic() < end, "it does not come about"
        await asyncio.sleep(0.005)


async def stopped(pid: int) -> None:
    """Stop a process by SIGSTOP, and wait until it stands: it takes the signal when it next runs."""
    os.kill(pid, signal.SIGSTOP)
    await until(lambda: psutil.Process(pid).status() == psutil.STATUS_STOPPED)
