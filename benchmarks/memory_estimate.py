"""Compares the learner's memory estimate of `areal train --dry-run` with the memory that the learner takes.

    python benchmarks/memory_estimate.py --sizes 0.5b,1.5b,3b,7b --lora 0,32

The models have Qwen2.5's shapes and random weights. Each learner runs in its own process. It compiles the
model, and makes two updates with full micro-batches. For each learner, the benchmark prints:

- *needed*: the peak memory that PyTorch allocated, plus the memory that CUDA itself takes;
- *taken*: the GPU memory that the learner occupies. PyTorch keeps more memory than it needs as long as
  nothing else requests it;
- *bounded*: the relative duration of an update if PyTorch may take no more memory than the estimate.

Neither figure of memory includes the engine's snapshot of the weights, because no engine connects. If the
estimate of a shape exceeds nine tenths of the GPU, the benchmark skips the shape, because a run would refuse
it.
"""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import tempfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import parser, save
from learner import GROUP, batch, trajectories
from models import QWEN2, qwen2
from transformers import AutoConfig

from areal.config import LearnerConfig
from areal.learner.learner import Learner
from areal.placement.memory import GIB, Shape, Workload, learner_bytes

FULL = 0.9
"""The maximum share of a GPU that the plan of a run fills."""


def estimate(path: str, settings: LearnerConfig, longest: int) -> int:
    """Return the estimate of the plan in bytes, without the snapshot."""
    work = Workload(
        sequences=0,
        longest=longest,
        engine_bytes=0,
        micro_batch_tokens=settings.micro_batch_tokens,
        adapter=settings.lora_rank,
        nf4=settings.base_precision == "nf4",
        shared=False,
        activation_checkpointing=settings.activation_checkpointing is True,
    )
    return learner_bytes(Shape.of(AutoConfig.from_pretrained(path)), work)


def taken(path: str, settings: LearnerConfig, longest: int, bound: float | None = None) -> dict[str, float]:
    """Return the GPU memory that a learner takes, in bytes, and the seconds of its last update.

    Args:
        path: the folder of the model.
        settings: the settings of the learner.
        longest: the maximum number of tokens of a trajectory.
        bound: the share of the GPU that PyTorch may take; None: all of it.
    """
    if bound is not None:
        torch.cuda.set_per_process_memory_fraction(bound)
    before = used()
    learner = Learner(path, settings, "cuda", temperature=1.0)
    learner.warm_up()
    rng = np.random.default_rng(0)
    budget = settings.micro_batch_tokens
    assert budget is not None
    vocabulary = AutoConfig.from_pretrained(path).vocab_size
    for _ in range(2):
        members = trajectories(
            rng, GROUP * max(1, 3 * budget // (longest // 16 * GROUP)), vocabulary, longest
        )
        seconds = learner.update(batch(members))["time/train"]
    whole = used() - before
    context = whole - torch.cuda.memory_reserved()
    return {"needed": torch.cuda.max_memory_allocated() + context, "taken": whole, "seconds": seconds}


def alone(*arguments: Any) -> dict[str, float]:
    """Return the result of :func:`taken`, which runs in its own process."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(taken, *arguments).result()


def used() -> int:
    """Return the used bytes of the first GPU, as reported by its driver, which needs no CUDA context."""
    gpu = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
    command = ["nvidia-smi", f"--id={gpu}", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout) * 2**20


def main() -> None:
    made = parser(__doc__, "memory_estimate")
    made.add_argument(
        "--sizes",
        default="0.5b,1.5b,3b,7b",
        help=f"sizes of the models, from {', '.join(QWEN2)} (default: %(default)s)",
    )
    made.add_argument(
        "--lora", default="0,32", help="ranks of the adapter; 0: all weights (default: %(default)s)"
    )
    made.add_argument(
        "--budgets", default="16384,32768", help="tokens per micro-batch (default: %(default)s)"
    )
    made.add_argument(
        "--longest", type=int, default=8192, help="tokens per trajectory (default: %(default)s)"
    )
    arguments = made.parse_args()
    rows: list[dict[str, Any]] = []
    device = torch.cuda.get_device_properties(0).total_memory
    for size in arguments.sizes.split(","):
        with tempfile.TemporaryDirectory() as folder:
            path = qwen2(Path(folder), size)
            for rank in map(int, arguments.lora.split(",")):
                for budget in map(int, arguments.budgets.split(",")):
                    settings = LearnerConfig(minibatches=1, micro_batch_tokens=budget, lora_rank=rank)
                    said = estimate(path, settings, arguments.longest)
                    name = (
                        f"{size}, {f'adapter of rank {rank}' if rank else 'all weights'}, {budget:,} tokens"
                    )
                    if said > FULL * device:
                        print(f"{name}: estimate {said / GIB:.1f} GiB, skipped", flush=True)
                        continue
                    found = alone(path, settings, arguments.longest)
                    try:
                        bounded = alone(path, settings, arguments.longest, said / device)["seconds"]
                        slower = f"{bounded / found['seconds']:.2f} times"
                    except torch.OutOfMemoryError:
                        slower = "out of memory"
                    ratio = said / found["needed"]
                    parts = ", ".join(f"{key} {found[key] / GIB:.1f}" for key in ("needed", "taken"))
                    print(
                        f"{name}: estimate {said / GIB:.1f} GiB, {parts}; estimate / needed {ratio:.2f}; "
                        f"bounded {slower}",
                        flush=True,
                    )
                    rows.append({"name": name, "estimate": said, "ratio": ratio, "bounded": slower, **found})
    print(save(arguments.output, "memory_estimate", {"rows": rows}))


if __name__ == "__main__":
    main()
