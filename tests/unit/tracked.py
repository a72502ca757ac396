"""A run as its trackers see it, in a process of its own: they hook into exceptions, exit and output."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import numpy as np

from areal.config import parse_config
from areal.telemetry.trackers.interface import Consumed
from areal.telemetry.trackers.tracking import Trackers
from areal.trajectory import Episode, Group, Trajectory

ROLLOUT = {"update": 1, "group": 7, "reward": 0.5, "text": "Was ist 6 · 7?\n# <b>42</b>"}


def consumed(step: int) -> Consumed:
    """What an update learned from: a group with one rollout, which is :data:`ROLLOUT`."""
    one = np.array([1, 1])
    episode = Episode([Trajectory(one, one > 1, one * 0.0, one)], 0.5)
    return Consumed(step, [Group(7, 0, [episode])], lambda ids: ROLLOUT["text"])


def reward(step: int, version: int) -> float:
    """What update ``step`` earns in a run that was started after update ``version``."""
    return step + version / 16


async def track(name: str, directory: Path, version: int, last: int, succeeded: bool) -> None:
    """Make the updates until ``last``; an evaluation of update 2 comes late."""
    said = directory.with_name("said").open("a")  # trackers print, too
    trackers = Trackers(directory, *[lambda line: print(line, file=said)] * 2)
    config = {"trackers": [name], "steps": 1234, "env_options": {"a b": {"c": 5}}}
    trackers.start(parse_config(config), version)
    for step in range(version + 1, last + 1):
        trackers.log({"step": step, "reward/mean": reward(step, version), "loss": None, "lr": float("nan")})
        trackers.rollouts(consumed(step))
    trackers.log({"step": 2, "eval/math-v1/avg@8": 0.25})
    await trackers.close(succeeded, patience=120)
    said.close()


if __name__ == "__main__":
    _, name, directory, version, last, succeeded = sys.argv
    asyncio.run(track(name, Path(directory), int(version), int(last), succeeded == "True"))
