"""The ranks of a learner: processes that hold its shards, and each do a part of every minibatch.

A rank is a process of torch.distributed's default group; a lone process is the only one. FSDP makes the ranks
go in step: all have as many micro-batches, and gradients are summed over them.
"""

from __future__ import annotations

from typing import TypeVar

import torch
import torch.distributed as dist

from areal.learner.microbatches import allocate

T = TypeVar("T")


def rank() -> int:
    """Return which rank this process is."""
    return dist.get_rank() if dist.is_initialized() else 0


def ranks() -> int:
    """Return how many there are."""
    return dist.get_world_size() if dist.is_initialized() else 1


def join(device: str, store: dist.Store, number: int, of: int) -> None:
    """Become a rank of the default process group; on a GPU, with the GPU of that number.

    A group that an earlier learner of this process has left is given up.

    Args:
        device: ``cpu`` or ``cuda``.
        store: where the ranks meet.
        number: which rank.
        of: how many.
    """
    if dist.is_initialized():
        dist.destroy_process_group()
    if device == "cuda" and of > 1:
        torch.cuda.set_device(number)
    backend = "cpu:gloo,cuda:nccl" if device == "cuda" else "gloo"
    dist.init_process_group(backend, store=store, rank=number, world_size=of)


def deal(lengths: list[int], budget: int, among: int) -> list[list[list[int]]]:
    """Return the micro-batches of each rank, as lists of indices into ``lengths``.

    What the ranks do at the same time has about as many tokens: they wait for each other. All have as many
    micro-batches; if there are too few sequences for that, some are empty lists.

    Args:
        lengths: tokens of each sequence.
        budget: largest sum of lengths in one micro-batch.
        among: how many ranks.

    Raises:
        UserError: a sequence is longer than the budget.
    """
    parts = allocate(lengths, budget)
    while len(parts) % among and len(parts) < len(lengths):
        parts = allocate(lengths, budget, minimum=len(parts) + 1)
    if among > 1:
        parts.sort(key=lambda part: -sum(lengths[i] for i in part))
    parts += [[]] * (-len(parts) % among)
    rounds = [parts[i : i + among] for i in range(0, len(parts), among)]
    # The other way round each time, so that no rank always has the larger one.
    rounds = [part[::-1] if number % 2 else part for number, part in enumerate(rounds)]
    return [[part[which] for part in rounds] for which in range(among)]


def of_all(value: T) -> list[T]:
    """Return what each rank has; every rank has to ask."""
    if ranks() == 1:
        return [value]
    found: list[T | None] = [None] * ranks()
    dist.all_gather_object(found, value)
    return found  # type: ignore[return-value]
