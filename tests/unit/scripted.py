"""Runs whose engine is scripted; everything else is what a run has."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
from synchronous import trainer_with

from areal.config import Config, parse_config
from areal.models import load_tokenizer
from areal.rollout.engine import Completion, Sampling
from areal.rollout.environments import EnvironmentPool
from areal.rollout.rendering import Renderer, eos_ids
from areal.rollout.worker import RolloutWorker
from areal.runtime.loop import Trainer
from areal.runtime.plan import Plan, plan
from areal.runtime.resuming import ResumePoint
from areal.telemetry.run_directory import RunDirectory

STEPS, GROUPS, MEMBERS = 4, 2, 4


class ScriptedEngine:
    """Samples by seed and version; finishes in any order."""

    busy_seconds = 0.0

    def __init__(self) -> None:
        self.version = 0
        self.seeds: list[int | None] = []

    async def generate(self, ids: list[int], sampling: Sampling, *, images: object = ()) -> Completion:
        self.seeds.append(sampling.seed)
        rng = np.random.default_rng([sampling.seed or 0, self.version, *ids])
        await asyncio.sleep(random.random() / 100)  # the order is anyone's
        length = int(rng.integers(2, 10))
        digits = [int(i) for i in rng.integers(6, 380, length)]
        return Completion(digits, list(rng.normal(-2, 0.5, length)), [self.version] * length, "eos")

    async def connect(self, init_infos: list[dict[str, Any]]) -> None: ...

    async def load(self, version: int, digest: str = "") -> dict[str, float]:
        await asyncio.sleep(random.random() / 100)
        self.version = version
        return {}

    async def close(self) -> None: ...


class Scored:
    """The run's environment, with a reward that scripted responses do earn: by their length."""

    def __init__(self, env: Any) -> None:
        self._env = env

    def reset(self, **task: Any) -> Any:
        return self._env.unwrapped.reset(**task)

    def step(self, action: str) -> Any:
        return "", float(len(action) % 3), True, False, {}

    def close(self) -> None: ...


def make_rollout_worker(
    checked: Plan, engine: ScriptedEngine, env: Callable[[Any], Any] = Scored
) -> RolloutWorker:
    tokenizer = load_tokenizer(checked.model)
    renderer = Renderer(tokenizer, eos_ids(tokenizer))
    pool = EnvironmentPool(lambda: env(checked.env), 4)
    return RolloutWorker(engine, renderer, checked.agent, pool, 512)


def settings(output: Path, name: str, **more: Any) -> Config:
    rollout = {"batch_size": GROUPS * MEMBERS, "group_size": MEMBERS, "max_staleness": 0}
    return parse_config(
        {
            "output": output,
            "name": name,
            "steps": STEPS,
            "seed": 7,
            "rollout": rollout,
            "learner": {"threads": 1, "max_mismatch": "inf"},
            "evaluation": {"problems": 0},
            **more,
        }
    )


@asynccontextmanager
async def trainer_on(
    engine: ScriptedEngine,
    directory: RunDirectory,
    config: Config,
    resume: ResumePoint | None = None,
    env: Callable[[Any], Any] = Scored,
    **parts: Any,
) -> AsyncIterator[Trainer]:
    """A trainer whose engine is scripted, and perhaps other parts; see :func:`synchronous.trainer_with`."""
    checked = plan(config)
    worker = make_rollout_worker(checked, engine, env)
    async with trainer_with(worker, checked, directory, resume, **parts) as trainer:
        yield trainer


async def asynchronous(engine: ScriptedEngine, directory: RunDirectory, *args: Any, **parts: Any) -> None:
    """Train with the parts of :func:`trainer_on`."""
    async with trainer_on(engine, directory, *args, **parts) as trainer:
        await trainer.run()
