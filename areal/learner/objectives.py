"""The objective, as a pure function of log-probabilities.

All tensors are ``[K]``, one entry per sampled token.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True)
class TokenLoss:
    """Loss of each token, and what it says of the policy.

    Attributes:
        loss: ``[K]``, to be minimised; differentiable.
        clipped: bool ``[K]``, where clipping took the gradient away.
        behav_ratio: ``[K]``, π_prox/π_behav.
    """

    loss: torch.Tensor
    clipped: torch.Tensor
    behav_ratio: torch.Tensor


def ppo(
    logprobs: torch.Tensor,
    prox: torch.Tensor,
    behav: torch.Tensor,
    advantages: torch.Tensor,
    clip: float,
    decoupled: bool = True,
    behav_clip: float | None = None,
) -> TokenLoss:
    """PPO's clipped objective; decoupled (arXiv 2505.24298, eq 5) or naive.

    Decoupled: −(π_prox/π_behav) · min(u·Â, clip(u, 1−ε, 1+ε)·Â) with u = π_θ/π_prox: the trust region is
    around the policy at the start of the step, and the weight corrects for who sampled. Naive: the same
    with π_behav in place of π_prox, so that stale samples are clipped against a policy long gone.

    Args:
        logprobs: of the policy that is trained, π_θ.
        prox: of the policy at the start of the step, π_prox; no gradient.
        behav: of the policy that sampled, π_behav; no gradient.
        advantages: Â.
        clip: ε.
        decoupled: which of the two.
        behav_clip: tokens with π_prox/π_behav above this get no loss; None: all do.
    """
    behav_ratio = torch.exp(prox - behav)
    centre, weight = (prox, behav_ratio) if decoupled else (behav, torch.ones_like(behav))
    ratio = torch.exp(logprobs - centre)
    plain = ratio * advantages
    bounded = ratio.clamp(1 - clip, 1 + clip) * advantages
    if decoupled and behav_clip is not None:
        weight = torch.where(behav_ratio > behav_clip, 0.0, weight)
    return TokenLoss(
        loss=-weight * torch.minimum(plain, bounded),
        clipped=bounded.detach() < plain.detach(),
        behav_ratio=behav_ratio,
    )
