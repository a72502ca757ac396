"""The optimizer of the policy and of the critic."""

from __future__ import annotations

from typing import Any

import torch

from areal.config import LearnerConfig
from areal.learner.parallelize import full, let_go


def adamw(module: torch.nn.Module, settings: LearnerConfig) -> torch.optim.Optimizer:
    """AdamW that decays matrices only: norms and biases have no scale to hold down."""
    trained = [p for p in module.parameters() if p.requires_grad]
    groups: list[dict[str, Any]] = [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": settings.weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    return torch.optim.AdamW(groups, lr=settings.learning_rate, betas=settings.betas, fused=True)


def step(
    module: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    grad_clip: float,
    version: int,
    moves: bool = True,
) -> float:
    """Clip the gradients, make one step, drop them; return their norm before clipping.

    Args:
        module: whose gradients.
        optimizer: of its parameters.
        grad_clip: largest norm.
        version: finished updates, for the message.
        moves: false if there are no gradients: then nothing is done.

    Raises:
        FloatingPointError: a gradient is not finite.
    """
    let_go(module)
    norm = full(torch.nn.utils.clip_grad_norm_(module.parameters(), grad_clip))
    if not torch.isfinite(norm):
        raise FloatingPointError(
            f"the gradient is not finite at version {version}: lower learner.learning_rate"
        )
    if moves:
        optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return float(norm)


def forget(module: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Drop the gradients."""
    let_go(module)
    optimizer.zero_grad(set_to_none=True)


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate of the next step."""
    for group in optimizer.param_groups:
        group["lr"] = rate
