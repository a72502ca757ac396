"""Advantages of trajectories from their rewards."""

from __future__ import annotations

import torch


def group_normalised(rewards: torch.Tensor, group_size: int, epsilon: float = 1e-6) -> torch.Tensor:
    """Return each reward less its group's mean, over its group's standard deviation (GRPO, arXiv 2402.03300).

    Args:
        rewards: ``[groups · group_size]``, group after group.
        group_size: trajectories of one problem.
        epsilon: added to the standard deviation.

    Returns:
        ``[groups · group_size]``; exactly 0 where all rewards of a group are equal.
    """
    grouped = rewards.view(-1, group_size)
    centred = grouped - grouped.mean(dim=1, keepdim=True)
    # Means of equal floats need not be those floats: without this a hopeless group would get huge noise.
    equal = (grouped == grouped[:, :1]).all(dim=1, keepdim=True)
    spread = grouped.std(dim=1, correction=0, keepdim=True)
    return torch.where(equal, 0.0, centred / (spread + epsilon)).flatten()
