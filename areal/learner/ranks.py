"""The ranks of a learner: processes that hold its shards, and each do a part of every minibatch.

A rank is a process of torch.distributed's default group; a single process is rank 0 of 1. FSDP keeps the
ranks in step: all make as many micro-batches, and their gradients are summed.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist

from areal.errors import UserError

T = TypeVar("T")

_MEETING = 300.0
"""Seconds for all ranks to reach each other."""
_APART = timedelta(minutes=10)
"""How much later than another a rank may come to a collective: it may read the model from a slow disk. One
that has ended, or is frozen, is found before that, and the others are not left waiting."""


def rank() -> int:
    """Return which rank this process is."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """Return how many ranks there are."""
    return dist.get_world_size() if dist.is_initialized() else 1


def open_store(address: str) -> dist.TCPStore:
    """Open the store at which the ranks meet, on a free port of this host."""
    return dist.TCPStore(address, 0, is_master=True, wait_for_workers=False, timeout=_APART)


def join_store(address: str, port: int, patience: float = _MEETING) -> dist.TCPStore:
    """Connect to the store of rank 0.

    Raises:
        UserError: it is not reached within ``patience`` seconds.
    """
    try:
        store = dist.TCPStore(address, port, is_master=False, timeout=timedelta(seconds=patience))
    except dist.DistError as error:
        raise _unreachable(f"rank 0 of the learner at {address}:{port} was not", patience, error) from error
    store.set_timeout(_APART)
    return store


def init_process_group(
    device: str, store: dist.Store, rank: int, world_size: int, patience: float = _MEETING
) -> None:
    """Become a rank of the default process group, on a GPU of its own or a CPU.

    A group that an earlier learner of this process left behind is destroyed first.

    Args:
        device: of this rank, such as ``cpu`` or ``cuda:1``.
        store: where the ranks find each other.

    Raises:
        UserError: the ranks do not reach each other within ``patience`` seconds.
    """
    if dist.is_initialized():
        dist.destroy_process_group()
    on_gpu = torch.device(device).type == "cuda"
    if on_gpu:
        torch.cuda.set_device(device)
    backend = "cpu:gloo,cuda:nccl" if on_gpu else "gloo"
    limit = timedelta(seconds=patience)
    try:
        dist.init_process_group(backend, store=store, rank=rank, world_size=world_size, timeout=limit)
    except RuntimeError as error:  # of several kinds, by what was waited for
        raise _unreachable("some ranks of the learner were not", patience, error) from error
    dist.distributed_c10d._set_pg_timeout(_APART)


def _unreachable(what: str, patience: float, error: RuntimeError) -> UserError:
    reason = str(error).strip().partition("\n")[0]
    return UserError(
        f"{what} reached within {patience:.0f} s ({reason}); allow connections between the hosts on all "
        "ports, or set ray.interface to the network interface that connects them"
    )


def broken(error: RuntimeError) -> str:
    """Return what an error says of a GPU, or of a connection to other ranks, that has failed; else nothing.

    Processes that are started anew may have better ones. Lack of memory is not of this kind.
    """
    # Gloo has no error of its own.
    if not isinstance(error, torch.AcceleratorError | dist.DistError) and "/gloo/" not in str(error):
        return ""
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"


def all_gather_objects(value: T) -> list[T]:
    """Return the value of each rank; all ranks have to call this."""
    if world_size() == 1:
        return [value]
    found: list[T | None] = [None] * world_size()
    dist.all_gather_object(found, value)
    return found  # type: ignore[return-value]
