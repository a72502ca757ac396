"""One of several processes that hold a learner's shards: it loads a checkpoint, makes updates, and saves.

Run by test_checkpoint.py: ``python shards.py RANK RANKS REPLICAS CHECKPOINT FOLDER``.
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
from areal.learner.parallelize import full
from areal.models import load_tokenizer, resolve_model
from areal.runtime import checkpoint
from areal.runtime.rollout_state import RolloutState
from areal.trajectory import Batch, Group

STARTER = resolve_model("starter")
SETTINGS = LearnerConfig(minibatches=2, micro_batch_tokens=40)


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


def adapted() -> LearnerConfig:
    """Return settings that train an adapter, held to the model that it began with."""
    return SETTINGS.model_copy(update={"lora_rank": 4, "kl": 0.1})


def threads(_: Any) -> int:
    """Return how many CPU threads this process computes with."""
    return torch.get_num_threads()


def main(rank: int, ranks: int, replicas: int, saved: Path, folder: Path) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=ranks)
    settings = SETTINGS.model_copy(update={"processes": ranks, "replicas": replicas})
    learner = Learner(STARTER, settings, "cpu", 1.0, 1)
    checkpoint.load_learner(saved, learner)
    metrics = updates(learner)
    group = dist.new_group(backend="gloo")
    kept = checkpoint.Checkpoints(folder, learner, load_tokenizer(STARTER), 2, torch.float32, group)
    written = kept.write(kept.stage(RolloutState()))
    learner.policy(pack(batches()[0].trajectories, torch.device("cpu")), 1.0)  # leaves nothing gathered
    held = sum(p.to_local().numel() for p in learner.model.parameters())
    share = held / sum(p.numel() for p in learner.model.parameters())
    assert 0.9 < share * ranks / replicas < 1.1, "each holds a part"
    # Another layout makes the same updates, and takes a state over to the bit.
    another = SETTINGS.model_copy(update={"replicas": ranks if replicas == 1 else 1})
    other = Learner(STARTER, another, "cpu", 1.0, 1)
    checkpoint.load_learner(saved, other)
    metrics += updates(other)
    checkpoint.load_learner(written, other)
    ours, theirs = learner.state(), other.state()
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if not torch.equal(full(ours[name]), full(theirs[name]))] == []
    small = adapted().model_copy(update={"replicas": replicas})
    metrics += updates(Learner(STARTER, small, "cpu", 1.0, 1))
    # An error of the first is an error of all: none waits for ever.
    if rank == 0:
        kept.tokenizer = None
    try:
        kept.write(kept.stage(RolloutState()))
    except AttributeError:
        print("the error is known")
    (folder / f"metrics-{rank}.json").write_text(json.dumps(metrics))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(*map(int, sys.argv[1:4]), *map(Path, sys.argv[4:]))
