"""Computes advantages from returns. All groups have the same size and follow one another.

A return is the value of a unit of credit: a whole episode, or each of its turns (areal.learner.credit). All
tensors are ``[E, K]``: E episodes with up to K units. Weights are 0 after an episode's last unit and sum to 1
over each episode, so that each episode counts once, independent of its number of turns.

If all returns in a comparison are equal, the advantages are exactly 0. The mean of equal floats may differ
from them in rounding, and a division of this difference by a spread close to 0 would be huge noise.
"""

from __future__ import annotations

import torch

from areal.config.objective import Advantage

_EPSILON = 1e-6


def group_normalized(
    returns: torch.Tensor, weights: torch.Tensor, group_size: int, epsilon: float = _EPSILON
) -> torch.Tensor:
    """Return each return minus its group's mean, divided by its standard deviation (GRPO, arXiv 2402.03300).

    Args:
        returns: ``[groups · group_size, K]``, group after group.
        weights: weights of the same shape.
        group_size: number of episodes per problem.
        epsilon: constant that is added to the standard deviation.

    Returns:
        ``[groups · group_size, K]``; exactly 0 if all returns of a group are equal.
    """
    centered = group_centered(returns, weights, group_size)
    return centered / (_group_mean(centered**2, weights, group_size).sqrt() + epsilon)


def group_centered(returns: torch.Tensor, weights: torch.Tensor, group_size: int) -> torch.Tensor:
    """Return each return minus its group's mean (Dr. GRPO, arXiv 2503.20783); shapes as above."""
    centered = returns - _group_mean(returns, weights, group_size)
    return torch.where(_group_equal(returns, weights, group_size), 0.0, centered)


def leave_one_out(returns: torch.Tensor, weights: torch.Tensor, group_size: int) -> torch.Tensor:
    """Return each return minus the mean of the group's other episodes (RLOO, arXiv 2402.14740); as above."""
    centered = group_centered(returns, weights, group_size)
    others = max(group_size - 1, 1)  # without other episodes, the centered return is 0
    return centered + (weights * centered).sum(dim=1, keepdim=True) / others


def global_normalized(
    returns: torch.Tensor, lengths: torch.Tensor, epsilon: float = _EPSILON
) -> torch.Tensor:
    """Normalize returns over the tokens of the batch (REINFORCE++, arXiv 2501.03262).

    A reward at the end is the return of each token, so a return counts once for each of its tokens.

    Args:
        returns: ``[E, K]``.
        lengths: ``[E, K]``, sampled tokens of each unit; 0 after an episode's last unit.
        epsilon: constant that is added to the standard deviation.

    Returns:
        ``[E, K]``; exactly 0 if all returns are equal.
    """
    weights = lengths.to(returns.dtype) / lengths.sum()
    centered = returns - (weights * returns).sum()
    spread = (weights * centered**2).sum().sqrt()
    return torch.where(_group_equal(returns, weights, len(returns)), 0.0, centered / (spread + epsilon))


def of_returns(
    advantage: Advantage, returns: torch.Tensor, lengths: torch.Tensor, group_size: int
) -> torch.Tensor:
    """Return the advantage of each unit, ``[E, K]``; ``lengths`` are its sampled tokens.

    Raises:
        ValueError: the advantage applies to single tokens instead of whole returns (gae).
    """
    present = (lengths > 0).to(returns.dtype)
    weights = present / present.sum(dim=1, keepdim=True)
    match advantage:
        case "group-normalized":
            return group_normalized(returns, weights, group_size)
        case "group-centered":
            return group_centered(returns, weights, group_size)
        case "leave-one-out":
            return leave_one_out(returns, weights, group_size)
        case "global-normalized":
            return global_normalized(returns, lengths)
    raise ValueError(f"{advantage} is not an advantage of whole returns")


def overlong_penalty(lengths: torch.Tensor, max_new_tokens: int, share: float) -> torch.Tensor:
    """Return the penalty on a long response's reward (DAPO's soft punishment, arXiv 2503.14476, eq 13).

    Args:
        lengths: ``[N]``, tokens of each response, at most ``max_new_tokens``.
        max_new_tokens: tokens of the longest response allowed.
        share: last share of ``max_new_tokens``, over which the penalty grows; more than 0.

    Returns:
        ``[N]``, 0 up to ``(1 − share) · max_new_tokens``, then linear to 1 at ``max_new_tokens``.
    """
    # Exactly 1 at the maximum length, so that equal rewards can remain exactly equal.
    return (1 - (max_new_tokens - lengths) / (share * max_new_tokens)).clamp(0, 1)


def gae(
    values: torch.Tensor, rewards: torch.Tensor, owner: torch.Tensor, gamma: float, gae_lambda: float
) -> torch.Tensor:
    """Generalized advantage estimation over sampled tokens with rewards at the end (arXiv 1506.02438, eq 16).

    Each sampled token is one action; tokens of the environment between two of them are not steps. With δ_t =
    r_t + γ·V_{t+1} − V_t: Â_t = δ_t + γλ·Â_{t+1}; after the last token V and Â are 0.

    Args:
        values: ``[K]``, V before each sampled token, sequence after sequence.
        rewards: ``[S]``.
        owner: ``[K]``, the sequence of each token, ascending.
        gamma: γ.
        gae_lambda: λ.

    Returns:
        ``[K]``; the returns for the critic are the advantages plus ``values``.
    """
    lengths = torch.bincount(owner, minlength=len(rewards))
    step = torch.arange(len(owner)) - (lengths.cumsum(0) - lengths)[owner]
    after = lengths[owner] - 1 - step  # tokens that follow in the same sequence
    padded = values.new_zeros(int(lengths.max()), len(rewards))  # the last token of each sequence is in row 0
    padded[after, owner] = values
    advantages = torch.zeros_like(padded)
    following, following_value = torch.zeros_like(rewards), torch.zeros_like(rewards)
    for row in range(len(padded)):
        delta = gamma * following_value - padded[row] + (rewards if row == 0 else 0)
        advantages[row] = following = delta + gamma * gae_lambda * following
        following_value = padded[row]
    return advantages[after, owner]


def whiten(advantages: torch.Tensor, epsilon: float = _EPSILON) -> torch.Tensor:
    """Normalize the advantages of all tokens of a batch, ``[K]``, to mean 0 and standard deviation 1."""
    return (advantages - advantages.mean()) / (advantages.std(correction=0) + epsilon)


def _group_mean(values: torch.Tensor, weights: torch.Tensor, group_size: int) -> torch.Tensor:
    """Return the mean of each group, for each of its episodes: ``[E, K]`` to ``[E, 1]``."""
    of_episodes = (weights * values).sum(dim=1)
    return of_episodes.view(-1, group_size).mean(dim=1).repeat_interleave(group_size)[:, None]


def _group_equal(values: torch.Tensor, weights: torch.Tensor, group_size: int) -> torch.Tensor:
    """Return whether all values of a group are equal, for each episode: ``[E, K]`` to bool ``[E, 1]``."""
    first = values[::group_size, :1].repeat_interleave(group_size, dim=0)
    same = ((values == first) | (weights == 0)).all(dim=1)
    return same.view(-1, group_size).all(dim=1).repeat_interleave(group_size)[:, None]
