"""The ranks of a learner: processes that hold its shards, and each do a part of every minibatch.

A rank is a process of torch.distributed's default group; a single process is rank 0 of 1. FSDP keeps the
ranks in step: all make as many micro-batches, and their gradients are summed.
"""

from __future__ import annotations

from typing import TypeVar

import torch
import torch.distributed as dist

T = TypeVar("T")


def rank() -> int:
    """Return which rank this process is."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """Return how many ranks there are."""
    return dist.get_world_size() if dist.is_initialized() else 1


def init_process_group(device: str, store: dist.Store, rank: int, world_size: int) -> None:
    """Become a rank of the default process group, on a GPU of its own or a CPU.

    A group that an earlier learner of this process left behind is destroyed first.

    Args:
        device: of this rank, such as ``cpu`` or ``cuda:1``.
        store: where the ranks find each other.
    """
    if dist.is_initialized():
        dist.destroy_process_group()
    on_gpu = torch.device(device).type == "cuda"
    if on_gpu:
        torch.cuda.set_device(device)
    backend = "cpu:gloo,cuda:nccl" if on_gpu else "gloo"
    dist.init_process_group(backend, store=store, rank=rank, world_size=world_size)


def all_gather_objects(value: T) -> list[T]:
    """Return the value of each rank; all ranks have to call this."""
    if world_size() == 1:
        return [value]
    found: list[T | None] = [None] * world_size()
    dist.all_gather_object(found, value)
    return found  # type: ignore[return-value]
