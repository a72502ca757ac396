"""Batches with choices of experts, and one of several processes that train on one.

Run by test_routers.py: ``python routed.py RANK RANKS LORA_RANK MODEL FOLDER``.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch.distributed as dist
from dummy_batches import batch

from areal.config import LearnerConfig
from areal.learner.learner import Learner
from areal.trajectory import Batch

EXPERTS, CHOSEN, LAYERS = 4, 2, 2
"""Of the mixtures of benchmarks/families.py: how many there are, and how many a token is sent to."""


def others(rng: np.random.Generator, length: int) -> np.ndarray:
    """Choices that no router made, for each of ``length`` tokens."""
    return np.argsort(rng.random((length, LAYERS, EXPERTS)))[..., :CHOSEN].astype(np.uint8)


def with_experts(seed: int, groups: int = 2) -> Batch:
    """A batch with choices of experts; members of a group have one prompt, and so its choices."""
    made, rng = batch(seed, groups), np.random.default_rng(seed)
    for group in made.groups:
        chosen = others(rng, 64)
        for trajectory in group.trajectories:
            prompt = int(trajectory.loss_mask.argmax())
            rest = others(rng, len(trajectory) - prompt - 1)
            trajectory.experts = np.concatenate([chosen[:prompt], rest])
    return made


def settings(lora_rank: int) -> dict[str, Any]:
    """Of an update in small parts."""
    return {"router_replay": True, "micro_batch_tokens": 64, "lora_rank": lora_rank}


def main(rank: int, ranks: int, lora_rank: int, model: str, folder: Path) -> None:
    """Make an update, and write down its metrics."""
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=ranks)
    of_one = {"minibatches": 1, "warmup_steps": 0, "objective": "grpo", "kl": 0, **settings(lora_rank)}
    learner = Learner(model, LearnerConfig(**of_one, processes=ranks), "cpu", 1.0, 1)
    (folder / f"{rank}.json").write_text(json.dumps(learner.update(with_experts(1, 3))))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(*map(int, sys.argv[1:4]), sys.argv[4], Path(sys.argv[5]))
