"""How far the engine is off the learner, update after update, for a model in a folder."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import torch

from areal.config import parse_config
from areal.rollout.engine import Completion, Engine, Sampling
from areal.runtime.build import start_rollout_worker
from areal.runtime.learner import make_learner
from areal.runtime.plan import engine_dtype, plan
from areal.trajectory import Batch, Episode, Group, Trajectory
from areal.weights.interface import VLLM_BACKEND
from areal.weights.sender import open_sender, transfer

GROUPS, MEMBERS = 4, 4
PROMPT, RESPONSE = 6, 40


async def mismatches(folder: Path, updates: int = 3, **settings: Any) -> list[float]:
    """Return the largest difference of log-probabilities before the first update, and after each.

    Engine and learner are those of a run, on one device.

    Args:
        folder: the model.
        updates: with a learning rate that moves every weight.
        settings: of the learner.
    """
    learner_settings = {"learning_rate": 1e-2, "warmup_steps": 0, "threads": 1, **settings}
    config = parse_config(
        {
            "model": str(folder),
            "learner": learner_settings,
            "engine": {"dtype": "float32", "eager": True, "memory": 0.1 if torch.cuda.is_available() else 1},
            "rollout": {"max_new_tokens": RESPONSE, "max_model_len": 128},
        }
    )
    checked = plan(config)
    worker = await start_rollout_worker(checked, VLLM_BACKEND)
    try:
        learner = make_learner(config, checked.model, checked.device, 1)
        dtype = engine_dtype(config, checked.device)
        sender = open_sender(checked.placement.backends, learner.named_parameters(), dtype, checked.device)
        await worker.engine.connect(sender.init_infos())
        found = []
        for version in range(updates + 1):
            batch = await sampled(worker.engine, version)
            found.append(learner.update(batch)["mismatch/logprob_max"])
            if version < updates:
                sender.write(learner.named_parameters())
                sending = asyncio.to_thread(sender.send)
                await transfer(worker.engine.load(version + 1), sending)
        sender.close()
        return found
    finally:
        await worker.close()


async def sampled(engine: Engine, version: int) -> Batch:
    """Sample random prompts; half of the responses to each count as right."""
    rng = np.random.default_rng(version)
    prompts = [rng.integers(6, 300, PROMPT).tolist() for _ in range(GROUPS)]
    sampling = Sampling(RESPONSE, ignore_eos=True)
    responses = await asyncio.gather(
        *(engine.generate(prompt, sampling) for prompt in prompts for _ in range(MEMBERS))
    )
    groups = []
    for number, prompt in enumerate(prompts):
        members = responses[number * MEMBERS : (number + 1) * MEMBERS]
        episodes = [Episode([trajectory(prompt, a)], float(i % 2)) for i, a in enumerate(members)]
        groups.append(Group(number, version, episodes))
    return Batch(version, groups)


def trajectory(prompt: list[int], response: Completion) -> Trajectory:
    """Put a response behind its prompt."""
    before = len(prompt)
    return Trajectory(
        tokens=np.array([*prompt, *response.ids], np.int32),
        loss_mask=np.arange(before + len(response.ids)) >= before,
        logprobs=np.array([0.0] * before + response.logprobs, np.float32),
        versions=np.array([-1] * before + response.versions, np.int32),
    )
