"""Splits sequences into micro-batches under a token budget.

All tokens of a sequence count, even those of a shared prompt: the row contains that prompt once, but
attention gathers it for each sequence, and attention determines the memory.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from areal.errors import UserError


def allocate(lengths: Sequence[int], budget: int, minimum: int = 1) -> list[list[int]]:
    """Return micro-batches as lists of indices into ``lengths``; each index occurs exactly once.

    Algorithm 1 of arXiv 2505.24298. The longest sequence comes first. A sequence opens a new micro-batch if
    there are fewer than ``minimum`` or it fits into none; otherwise it joins the fitting one with the fewest
    sequences.

    Args:
        lengths: number of tokens of each sequence.
        budget: largest sum of lengths in one micro-batch.
        minimum: smallest number of micro-batches, if there are enough sequences.

    Raises:
        UserError: a sequence is longer than the budget.
    """
    return _fill(lengths, budget, minimum, lambda members, room: len(members))


def best_fit(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Return micro-batches as :func:`allocate` does, but as full as possible (sequence packing).

    The longest sequence comes first; each joins the fitting micro-batch with the least free space (best-fit
    decreasing).

    Raises:
        UserError: a sequence is longer than the budget.
    """
    return _fill(lengths, budget, 1, lambda members, room: room)


def partition(lengths: list[int], budget: int, world_size: int) -> list[list[list[int]]]:
    """Return the micro-batches of each rank, as lists of indices into ``lengths``.

    Micro-batches that the ranks compute at the same time have similar numbers of tokens, because the ranks
    wait for each other. All ranks have the same number of micro-batches; with too few sequences, some are
    empty.

    Args:
        lengths: number of tokens of each sequence.
        budget: largest sum of lengths in one micro-batch.

    Raises:
        UserError: a sequence is longer than the budget.
    """
    parts = allocate(lengths, budget)
    while len(parts) % world_size and len(parts) < len(lengths):
        parts = allocate(lengths, budget, minimum=len(parts) + 1)
    if world_size > 1:
        parts.sort(key=lambda part: -sum(lengths[i] for i in part))
    parts += [[]] * (-len(parts) % world_size)
    rounds = [parts[i : i + world_size] for i in range(0, len(parts), world_size)]
    # Reversed every second time, so that no rank always has the larger one.
    rounds = [parts[::-1] if i % 2 else parts for i, parts in enumerate(rounds)]
    return [[parts[rank] for parts in rounds] for rank in range(world_size)]


def _fill(
    lengths: Sequence[int], budget: int, minimum: int, cost: Callable[[list[int], int], int]
) -> list[list[int]]:
    """Fill micro-batches, longest sequence first, each into the fitting one with the lowest cost."""
    if lengths and max(lengths) > budget:
        raise UserError(
            f"a sequence of {max(lengths)} tokens does not fit into learner.micro_batch_tokens={budget}; "
            "increase it, or decrease rollout.max_new_tokens"
        )
    batches: list[list[int]] = []
    room: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        fitting = [b for b, free in enumerate(room) if free >= lengths[index]]
        if len(batches) < minimum or not fitting:
            batches.append([index])
            room.append(budget - lengths[index])
        else:
            chosen = min(fitting, key=lambda b: cost(batches[b], room[b]))
            batches[chosen].append(index)
            room[chosen] -= lengths[index]
    return batches
