"""At η=0 the runtime on vLLM is the synchronous algorithm: batches, losses and weights, to the bit.

What the engine computes for a request must not depend on which requests are computed beside it: the reference
generates one group after the other, the run all groups of a batch at once.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from synchronous import Shared, assert_same, synchronous, trainer_with

import areal
from areal.config import parse_config
from areal.rollout.worker import RolloutWorker
from areal.runtime.learner import make_learner
from areal.runtime.plan import plan
from areal.runtime.rollouts import environments
from areal.telemetry.run_directory import RunDirectory
from areal.weights.sender import open_sender


@pytest.mark.skipif(torch.cuda.is_available(), reason="the order of sums on a GPU depends on the batch")
async def test_eta_zero_is_the_synchronous_algorithm(worker: RolloutWorker, tmp_path: Path):
    rollout = {"batch_size": 32, "group_size": 8, "max_staleness": 0, "max_model_len": 512}
    config = parse_config(
        {
            "output": tmp_path,
            "name": "r",
            "steps": 3,
            "seed": 5,
            "rollout": rollout,
            "learner": {"threads": 1},
            "evaluation": {"problems": 0},
        }
    )
    checked = plan(config)

    def new_rollout_worker() -> RolloutWorker:
        engine: Any = Shared(worker.engine)
        return RolloutWorker(engine, worker.renderer, checked.agent, environments(config), 512)

    learner = make_learner(config, checked.model, "cpu", 1)
    sender = open_sender(["shared memory"], learner.named_parameters(), torch.float32, "cpu")
    await worker.engine.connect(sender.init_infos())

    async def publish(version: int) -> None:
        sender.write(learner.named_parameters())
        await worker.engine.load(version)

    await publish(0)
    reference = new_rollout_worker()
    expected = await synchronous(checked, reference, learner, publish)
    await reference.close()

    fresh = make_learner(config, checked.model, "cpu", 1)
    sender.write(fresh.named_parameters())
    await worker.engine.load(0)
    sender.close()

    directory = RunDirectory.create(config)
    async with trainer_with(new_rollout_worker(), checked, directory) as trainer:
        await trainer.run()
    assert_same(directory.path, expected)
    assert areal.replay(directory.path).verdict == "bitwise identical: 3 updates"
