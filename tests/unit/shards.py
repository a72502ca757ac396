"""One of two processes that hold a learner's shards: it loads a checkpoint, makes an update, and saves.

Run by test_checkpoint.py: ``python shards.py RANK CHECKPOINT FOLDER``.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from areal.config import LearnerConfig
from areal.learner.learner import Learner
from areal.learner.optimizer import set_rate, step
from areal.learner.packed import pack
from areal.models import load_tokenizer, resolve_model
from areal.runtime import checkpoint
from areal.trajectory import Trajectory

STARTER = resolve_model("starter")
NOTHING: dict[str, Any] = {"next_group": 0, "in_flight": []}


def update(learner: Learner, processes: int = 1) -> None:
    """Any update that moves all weights, the same one on all processes."""
    tokens = np.arange(40, 60, dtype=np.int32)
    mask = np.arange(20) >= 5
    trajectory = Trajectory(
        tokens=tokens,
        loss_mask=mask,
        logprobs=np.zeros(20, np.float32),
        versions=np.where(mask, 0, -1).astype(np.int32),
    )

    def mean(logprobs: torch.Tensor, _entropy: torch.Tensor, _part: slice) -> torch.Tensor:
        return -logprobs / trajectory.sampled / processes  # gradients are summed over them

    learner.policy(pack([trajectory], torch.device("cpu")), 1.0, mean).loss.backward()
    set_rate(learner._optimizer, 1e-4)
    step(learner.policy, learner._optimizer, 1.0, learner.version)
    learner.version += 1


def main(rank: int, saved: Path, folder: Path) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    learner = Learner(STARTER, LearnerConfig(), "cpu", 1.0, 1)
    checkpoint.load_learner(saved, learner)
    update(learner, 2)
    group = dist.new_group(backend="gloo")
    kept = checkpoint.Checkpoints(folder, learner, load_tokenizer(STARTER), 2, torch.float32, group)
    kept.write(kept.stage(NOTHING, []))
    held = sum(p.to_local().numel() for p in learner.model.parameters())
    assert held < 0.6 * sum(p.numel() for p in learner.model.parameters()), "each holds a part"
    # An error of the first is an error of all: none waits for ever.
    if rank == 0:
        kept._tokenizer = None
    try:
        kept.write(kept.stage(NOTHING, []))
    except AttributeError:
        print("the error is known")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]))
