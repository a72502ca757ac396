"""One of two processes that hold a learner's shards: it loads a checkpoint, makes updates, and saves.

Run by test_checkpoint.py: ``python shards.py RANK CHECKPOINT FOLDER``.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from dummy_batches import batch, episode

from areal.config import LearnerConfig
from areal.learner.learner import Learner
from areal.learner.packed import pack
from areal.models import load_tokenizer, resolve_model
from areal.runtime import checkpoint
from areal.trajectory import Batch, Group

STARTER = resolve_model("starter")
SETTINGS = LearnerConfig(minibatches=2, micro_batch_tokens=40)
NOTHING: dict[str, Any] = {"next_group": 0, "in_flight": []}


def batches() -> list[Batch]:
    """Return what every number of processes makes two updates on.

    In each minibatch of the second, three sequences have an advantage, and no two fit in a micro-batch: two
    processes cannot share them evenly.
    """
    rng = np.random.default_rng(0)
    uneven = [
        Group(number, 0, [episode(rng, 8, 29, reward) for reward in (0.0, 0.0, 0.5, 1.5)])
        for number in range(2)
    ]
    return [batch(2, groups=6), Batch(2, uneven)]


def updates(learner: Learner) -> list[dict[str, float]]:
    """Make them."""
    return [learner.update(each) for each in batches()]


def main(rank: int, saved: Path, folder: Path) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    learner = Learner(STARTER, SETTINGS, "cpu", 1.0, 1)
    checkpoint.load_learner(saved, learner)
    metrics = updates(learner)
    group = dist.new_group(backend="gloo")
    kept = checkpoint.Checkpoints(folder, learner, load_tokenizer(STARTER), 2, torch.float32, group)
    kept.write(kept.stage(NOTHING, []))
    learner.policy(pack(batches()[0].trajectories, torch.device("cpu")), 1.0)  # leaves nothing gathered
    held = sum(p.to_local().numel() for p in learner.model.parameters())
    assert held < 0.6 * sum(p.numel() for p in learner.model.parameters()), "each holds a part"
    # An error of the first is an error of all: none waits for ever.
    if rank == 0:
        kept._tokenizer = None
    try:
        kept.write(kept.stage(NOTHING, []))
    except AttributeError:
        print("the error is known")
    (folder / f"metrics-{rank}.json").write_text(json.dumps(metrics))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]))
