"""Episodes of programs, and what they leave behind."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import shlex
import sys
import time
from collections import Counter
from pathlib import Path

import psutil
from endpoints import Scripted

from areal.agents.interface import Step
from areal.agents.program import Program
from areal.rollout.endpoint.server import EndpointServer


class NotingEnv:
    """An environment that is worth 0.25 and records its actions."""

    def __init__(self) -> None:
        self.actions: list[str] = []

    async def reset(self) -> str:
        return "What is 2 + 2?"

    async def step(self, action: str) -> Step:
        self.actions.append(action)
        return Step("", 0.25, True, False, {})


async def run_episode(program: Program) -> tuple[list[str], list[float]]:
    """Run an episode; return the actions in the environment and the reward that the program set."""
    env, model = NotingEnv(), Scripted()
    model.server = EndpointServer(lambda ids: [], 1.0)
    try:
        await program.run(env, model)
    finally:
        assert model.server._sessions == {}, "no key outlives its episode"
        await model.server.close()
    return env.actions, model.rewards


def python(code: str) -> str:
    return shlex.join([sys.executable, "-S", "-c", code])


MARK = f"left behind in {os.getpid()}"
CHILD = (
    "import subprocess, sys\n"
    f"subprocess.Popen([sys.executable, '-S', '-c', 'import time; time.sleep(99)', '{MARK}'])\n"
)


def resources() -> Counter[str]:
    """How many of what this process has: its descendants, orphans that they left, its open files."""
    gc.collect()  # what earlier tests dropped
    held = Counter(f"process {child.pid}" for child in psutil.Process().children(recursive=True))
    for process in psutil.process_iter(["cmdline"]):
        if MARK in (process.info["cmdline"] or []):
            held[f"process {process.pid}"] += 1
    for entry in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # the listing's own
            held[f"file {os.readlink(entry)}"] += 1
    return held


async def left(before: Counter[str]) -> Counter[str]:
    """What has come since and stays; those that were killed may take a moment to be gone."""
    deadline, new = time.monotonic() + 60, resources() - before
    while new and time.monotonic() < deadline:
        await asyncio.sleep(0.02)
        new = resources() - before
    return new
