"""Advantages of trajectories from their rewards. Groups are told by their common size, one after the other.

Where all rewards that are compared with each other are equal, the advantages are exactly 0: means of equal
floats need not be those floats, and dividing what is left by a spread of all but 0 would be huge noise.
"""

from __future__ import annotations

import torch

from areal.learner.presets import Advantage

_EPSILON = 1e-6


def group_normalised(rewards: torch.Tensor, group_size: int, epsilon: float = _EPSILON) -> torch.Tensor:
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
    spread = grouped.std(dim=1, correction=0, keepdim=True)
    return torch.where(_equal(grouped), 0.0, centred / (spread + epsilon)).flatten()


def group_centred(rewards: torch.Tensor, group_size: int) -> torch.Tensor:
    """Return each reward less its group's mean (Dr. GRPO, arXiv 2503.20783); shapes as above."""
    grouped = rewards.view(-1, group_size)
    return torch.where(_equal(grouped), 0.0, grouped - grouped.mean(dim=1, keepdim=True)).flatten()


def leave_one_out(rewards: torch.Tensor, group_size: int) -> torch.Tensor:
    """Return each reward less the mean of its group's others (RLOO, arXiv 2402.14740); shapes as above."""
    return group_centred(rewards, group_size) * (group_size / (group_size - 1))


def global_normalised(
    rewards: torch.Tensor, lengths: torch.Tensor, epsilon: float = _EPSILON
) -> torch.Tensor:
    """Normalise rewards over the tokens of the batch (REINFORCE++, arXiv 2501.03262).

    A reward at the end is the return of each token, so that a trajectory counts once for each of its tokens.

    Args:
        rewards: ``[N]``.
        lengths: ``[N]``, sampled tokens of each.
        epsilon: added to the standard deviation.

    Returns:
        ``[N]``; exactly 0 if all rewards are equal.
    """
    weights = lengths.to(rewards.dtype) / lengths.sum()
    centred = rewards - (weights * rewards).sum()
    spread = (weights * centred**2).sum().sqrt()
    return torch.where(_equal(rewards[None])[0], 0.0, centred / (spread + epsilon))


def of_rewards(
    advantage: Advantage, rewards: torch.Tensor, lengths: torch.Tensor, group_size: int
) -> torch.Tensor:
    """Return the advantage of each trajectory, ``[N]``, by one of the above.

    Raises:
        ValueError: the advantage is not one of whole trajectories but of their tokens (gae).
    """
    match advantage:
        case "group-normalised":
            return group_normalised(rewards, group_size)
        case "group-centred":
            return group_centred(rewards, group_size)
        case "leave-one-out":
            return leave_one_out(rewards, group_size)
        case "global-normalised":
            return global_normalised(rewards, lengths)
    raise ValueError(f"{advantage} is no advantage of whole trajectories")


def overlong_penalty(lengths: torch.Tensor, longest: int, share: float) -> torch.Tensor:
    """Return what a long answer's reward loses (DAPO's soft punishment, arXiv 2503.14476, eq 13).

    Args:
        lengths: ``[N]``, tokens of each answer, at most ``longest``.
        longest: tokens of the longest answer allowed.
        share: of ``longest``, the last part of it, over which the penalty grows; more than 0.

    Returns:
        ``[N]``, 0 up to ``(1 − share) · longest``, from there linear to 1 at ``longest``.
    """
    # Exactly 1 at the longest: what is left of a reward may then be exactly that of others.
    return (1 - (longest - lengths) / (share * longest)).clamp(0, 1)


def gae(
    values: torch.Tensor, rewards: torch.Tensor, owner: torch.Tensor, gamma: float, gae_lambda: float
) -> torch.Tensor:
    """Generalised advantage estimation over sampled tokens, rewards at the end (arXiv 1506.02438, eq 16).

    Each sampled token is one action; what the environment said between two of them is no step of its own.
    With δ_t = r_t + γ·V_{t+1} − V_t: Â_t = δ_t + γλ·Â_{t+1}; behind the last token V and Â are 0.

    Args:
        values: ``[K]``, V before each sampled token, sequence after sequence.
        rewards: ``[S]``.
        owner: ``[K]``, sequence of each token, ascending.
        gamma: γ.
        gae_lambda: λ.

    Returns:
        ``[K]``; returns for the critic are these plus ``values``.
    """
    lengths = torch.bincount(owner, minlength=len(rewards))
    step = torch.arange(len(owner)) - (lengths.cumsum(0) - lengths)[owner]
    after = lengths[owner] - 1 - step  # tokens that follow in the same sequence
    padded = values.new_zeros(int(lengths.max()), len(rewards))  # the last token of each is in row 0
    padded[after, owner] = values
    advantages = torch.zeros_like(padded)
    following, following_value = torch.zeros_like(rewards), torch.zeros_like(rewards)
    for row in range(len(padded)):
        delta = gamma * following_value - padded[row] + (rewards if row == 0 else 0)
        advantages[row] = following = delta + gamma * gae_lambda * following
        following_value = padded[row]
    return advantages[after, owner]


def whiten(advantages: torch.Tensor, epsilon: float = _EPSILON) -> torch.Tensor:
    """Normalise the advantages of all tokens of a batch, ``[K]``, to mean 0 and standard deviation 1."""
    return (advantages - advantages.mean()) / (advantages.std(correction=0) + epsilon)


def _equal(grouped: torch.Tensor) -> torch.Tensor:
    """Whether all of a row are equal: ``[rows, n]`` to bool ``[rows, 1]``."""
    return (grouped == grouped[:, :1]).all(dim=1, keepdim=True)
