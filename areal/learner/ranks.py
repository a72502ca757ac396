"""The ranks of a learner: processes that store its shards and compute a part of every minibatch.

A rank is a process of torch.distributed's default group; a single process is rank 0 of 1. FSDP keeps the
ranks in step: all have the same number of micro-batches, and their gradients are summed.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist

from areal.errors import UserError

T = TypeVar("T")

_MEETING = 300.0
"""Time limit in seconds for all ranks to reach each other."""
_APART = timedelta(minutes=10)
"""Time limit by which a rank may arrive at a collective later than another, for example because it reads the
model from a slow disk. A rank that has ended or hangs is detected before that, so the others do not wait for
it."""


def rank() -> int:
    """Return the rank of this process."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """Return the number of ranks."""
    return dist.get_world_size() if dist.is_initialized() else 1


def open_store(address: str) -> dist.TCPStore:
    """Open the store at which the ranks meet, on a free port of this host."""
    return dist.TCPStore(address, 0, is_master=True, wait_for_workers=False, timeout=_APART)


def join_store(address: str, port: int, patience: float = _MEETING) -> dist.TCPStore:
    """Connect to the store of rank 0.

    Raises:
        UserError: the store is not reached within ``patience`` seconds.
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
    """Join the default process group as a rank, on its own GPU or on a CPU.

    If an earlier learner of this process has left a group behind, the group is destroyed first.

    Args:
        device: device of this rank, such as ``cpu`` or ``cuda:1``.
        store: the store at which the ranks meet.

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
    except RuntimeError as error:  # the kind depends on what it waited for
        raise _unreachable("some ranks of the learner were not", patience, error) from error
    dist.distributed_c10d._set_pg_timeout(_APART)


def _unreachable(what: str, patience: float, error: RuntimeError) -> UserError:
    reason = str(error).strip().partition("\n")[0]
    return UserError(
        f"{what} reached within {patience:.0f} s ({reason}); allow connections between the hosts on all "
        "ports, or set ray.interface to the network interface that connects them"
    )


def broken(error: RuntimeError) -> str:
    """Return the message of an error of a failed GPU or connection between ranks; empty for other errors.

    New processes may not have this error. Out-of-memory errors are not of this kind.
    """
    # Gloo has no exception class of its own.
    if not isinstance(error, torch.AcceleratorError | dist.DistError) and "/gloo/" not in str(error):
        return ""
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"


def all_gather_objects(value: T) -> list[T]:
    """Return the value of each rank; every rank must call this."""
    if world_size() == 1:
        return [value]
    found: list[T | None] = [None] * world_size()
    dist.all_gather_object(found, value)
    return found  # type: ignore[return-value]
