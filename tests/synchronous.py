"""The synchronous algorithm, straight, and what a run must have in common with it."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from areal.learner.learner import Learner
from areal.rollout.seeds import derive
from areal.rollout.tasks import TaskSource
from areal.rollout.worker import RolloutWorker
from areal.runtime.build import learner_setup, make_trainer
from areal.runtime.learner_rank import LearnerRank
from areal.runtime.loop import Trainer
from areal.runtime.monitor import Monitor
from areal.runtime.plan import Plan
from areal.runtime.recording import Records
from areal.runtime.resuming import ResumePoint
from areal.runtime.sampling import training_sampling
from areal.runtime.start import start_learner
from areal.telemetry.progress import Progress
from areal.telemetry.run_directory import RunDirectory
from areal.trajectory import Batch, Episode, Group
from areal.workers import process
from areal.workers.group import WorkerGroup
from areal.workers.handle import Launch

Outcome = tuple[list[list[Group]], list[dict[str, float]], Learner]


class Shared:
    """The engine of all tests: a run that ends leaves it running."""

    def __init__(self, engine: Any) -> None:
        self._engine = engine

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    async def close(self) -> None:
        """Nothing."""


class Watched(Progress):
    """A display that tells of each line of metrics."""

    recorded: Callable[[], None] = staticmethod(lambda: None)

    def update(self, metrics: dict[str, Any]) -> None:
        super().update(metrics)
        self.recorded()


@asynccontextmanager
async def trainer_with(
    worker: RolloutWorker,
    checked: Plan,
    directory: RunDirectory,
    resume: ResumePoint | None = None,
    rank: type[LearnerRank] = LearnerRank,
    learner: Callable[[WorkerGroup[LearnerRank]], Any] = lambda started: started,
    recorded: Callable[[Trainer], None] = lambda trainer: None,
    launch: Launch | None = None,
) -> AsyncIterator[Trainer]:
    """A trainer with parts of a test's own; it closes them all.

    Args:
        worker: on an engine that is started.
        checked: the run.
        directory: of the run.
        resume: where to go on.
        rank: the class of the learner's ranks.
        learner: returns what stands for the learner in the run.
        recorded: called after each line of metrics.
        launch: starts the learner's ranks; None: in processes of their own.
    """
    with Watched(checked.config.steps, "", False, sys.stderr) as progress:
        records = Records(directory, progress)
        monitor = Monitor(checked.config, records)
        launches = [launch or process.launch_guarded(monitor.guard)] * checked.config.learner.processes
        async with monitor.watching():
            with monitor.waits.named("the run", "the learner to start"):
                started = await start_learner(learner_setup(checked, directory.checkpoints), launches, rank)
            try:
                trainer = await make_trainer(checked, learner(started), worker, records, monitor, resume)
                monitor.watch_over(trainer, worker.pool.calls)
                progress.recorded = lambda: recorded(trainer)
                yield trainer
            finally:
                await worker.close()
                await started.close()


async def synchronous(
    checked: Plan, worker: RolloutWorker, learner: Learner, publish: Callable[[int], Awaitable[None]]
) -> Outcome:
    """Generate a batch, wait for all of it, update, hand over the weights; again.

    Groups are generated one after the other, which no run does: it must not matter.
    """
    config, batches, metrics = checked.config, [], []
    tasks = TaskSource(checked.env, config.seed)
    size = config.groups_per_batch

    def run_episode(number: int, member: int) -> Awaitable[Episode]:
        sampling = replace(training_sampling(config), seed=derive(config.seed, number, member, 0))
        return worker.run_episode(tasks.task(number), sampling)

    for version in range(config.steps):
        groups = []
        for number in range(version * size, (version + 1) * size):
            members = await asyncio.gather(
                *(run_episode(number, m) for m in range(config.rollout.group_size))
            )
            groups.append(Group(number, version, list(members)))
        metrics.append(learner.update(Batch(version, groups)))
        batches.append(groups)
        await publish(version + 1)
    return batches, metrics, learner


def assert_same(run: Path, outcome: Outcome) -> None:
    """The run consumed the same batches, had the same losses and ends with the same weights, to the bit."""
    batches, metrics, learner = outcome
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, len(batches) + 1))
    for step, (groups, expected) in enumerate(zip(batches, metrics, strict=True), 1):
        recorded = (run / "rollouts" / f"step-{step:06d}.jsonl").read_text().splitlines()
        assert [_without_times(json.loads(line)) for line in recorded] == [
            _without_times(json.loads(json.dumps(g.to_json()))) for g in groups
        ]
        for name in ("loss", "grad_norm", "policy/kl", "policy/entropy"):
            assert lines[step - 1][name] == expected[name], (step, name)
    assert any(line["loss"] != 0 for line in lines), "something is learnt"
    model = AutoModelForCausalLM.from_pretrained(run / "model", dtype=torch.float32)
    for ours, theirs in zip(learner.model.parameters(), model.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def _without_times(group: dict[str, Any]) -> dict[str, Any]:
    for episode in group["episodes"]:
        for name in ("started", "ended", "seconds", "spans"):
            del episode[name]
    return group
