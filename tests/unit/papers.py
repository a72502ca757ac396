"""The objectives once more, straight from their papers: slow, one sequence at a time, no shared code.

The tests compare areal's with these, in value and in gradient.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

BEHAV_CLIP = 5.0
"""Tokens with π_prox/π_behav above this are left out, as areal's presets say."""


@dataclass
class Sequence:
    """The sampled tokens of a response: log-probabilities under each policy, all ``[T]``, and its reward."""

    theta: Tensor
    prox: Tensor
    behav: Tensor
    reference: Tensor
    values: Tensor
    reward: float
    group: int


def loss(name: str, sequences: list[Sequence], longest: int) -> Tensor:
    """Return the loss of one minibatch that is also the batch."""
    return _LOSSES[name](sequences, longest)


def others(sequences: list[Sequence], s: Sequence, rewards: list[float]) -> Tensor:
    members = [r for r, other in zip(rewards, sequences, strict=True) if other.group == s.group]
    return torch.tensor(members, dtype=torch.float64)


def rewards_of(sequences: list[Sequence]) -> list[float]:
    return [s.reward for s in sequences]


def grpo_advantages(sequences: list[Sequence], rewards: list[float]) -> list[float]:
    found = []
    for s, r in zip(sequences, rewards, strict=True):
        group = others(sequences, s, rewards)
        found.append(float((r - group.mean()) / (((group - group.mean()) ** 2).mean().sqrt() + 1e-6)))
    return found


def eq5(s: Sequence, a: float | Tensor, low: float, high: float) -> Tensor:
    """−(π_prox/π_behav)·min(u·Â, clip(u)·Â) of each token, and nothing where the weight is too large."""
    u, weight = torch.exp(s.theta - s.prox), torch.exp(s.prox - s.behav)
    kept = (weight <= BEHAV_CLIP).double()
    return -kept * weight * torch.minimum(u * a, torch.clip(u, 1 - low, 1 + high) * a)


def decoupled_ppo(sequences: list[Sequence], longest: int) -> Tensor:
    advantages = grpo_advantages(sequences, rewards_of(sequences))
    return torch.cat([eq5(s, a, 0.2, 0.2) for s, a in zip(sequences, advantages, strict=True)]).mean()


def ppo(sequences: list[Sequence], longest: int) -> Tensor:
    """Each advantage as the double sum Σ_l (γλ)^l δ_{t+l} with γ = 1, λ = 0.95; normalized; clipped."""
    raw = []
    for s in sequences:
        n = len(s.values)
        delta = [
            (s.values[t + 1] if t + 1 < n else s.reward) - s.values[t] for t in range(n)
        ]  # the reward comes at the end, where no value follows
        raw.append([sum(0.95 ** (k - t) * float(delta[k]) for k in range(t, n)) for t in range(n)])
    flat = torch.tensor([a for row in raw for a in row], dtype=torch.float64)
    mean, spread = flat.mean(), ((flat - flat.mean()) ** 2).mean().sqrt()
    losses = []
    for s, row in zip(sequences, raw, strict=True):
        for t, a in enumerate(row):
            normal = (a - mean) / (spread + 1e-6)
            r = torch.exp(s.theta[t] - s.behav[t])
            losses.append(-torch.minimum(r * normal, torch.clip(r, 0.8, 1.2) * normal))
    return torch.stack(losses).mean()


def grpo(sequences: list[Sequence], longest: int) -> Tensor:
    total = torch.zeros((), dtype=torch.float64)
    for s, a in zip(sequences, grpo_advantages(sequences, rewards_of(sequences)), strict=True):
        quotient = torch.exp(s.reference) / torch.exp(s.theta)
        kl = quotient - torch.log(quotient) - 1
        total = total + (eq5(s, a, 0.2, 0.2) + 0.04 * kl).mean()
    return total / len(sequences)


def dr_grpo(sequences: list[Sequence], longest: int) -> Tensor:
    total = torch.zeros((), dtype=torch.float64)
    for s in sequences:
        a = s.reward - others(sequences, s, rewards_of(sequences)).mean()
        total = total + eq5(s, a, 0.2, 0.2).sum() / longest
    return total / len(sequences)


def shaped(sequences: list[Sequence], longest: int) -> list[float]:
    """Soft overlong punishment: the last fifth of the longest response costs up to 1."""
    cache = 0.2 * longest
    return [s.reward + min(0.0, max(-1.0, ((longest - cache) - len(s.theta)) / cache)) for s in sequences]


def dapo(sequences: list[Sequence], longest: int) -> Tensor:
    advantages = grpo_advantages(sequences, shaped(sequences, longest))
    return torch.cat([eq5(s, a, 0.2, 0.28) for s, a in zip(sequences, advantages, strict=True)]).mean()


def rloo(sequences: list[Sequence], longest: int) -> Tensor:
    """Importance-weighted REINFORCE: the gradient of log π(y) times the ratio of who is to who sampled."""
    total = torch.zeros((), dtype=torch.float64)
    for i, s in enumerate(sequences):
        rest = [o.reward for j, o in enumerate(sequences) if o.group == s.group and j != i]
        a = s.reward - sum(rest) / len(rest)
        kept = (torch.exp(s.prox - s.behav) <= BEHAV_CLIP).double()
        total = total - (kept * torch.exp(s.theta - s.behav) * a).sum() / longest
    return total / len(sequences)


def reinforce_pp(sequences: list[Sequence], longest: int) -> Tensor:
    returns = torch.tensor([s.reward for s in sequences for _ in s.theta], dtype=torch.float64)
    mean, spread = returns.mean(), ((returns - returns.mean()) ** 2).mean().sqrt()
    return torch.cat([eq5(s, (s.reward - mean) / (spread + 1e-6), 0.2, 0.2) for s in sequences]).mean()


def gspo(sequences: list[Sequence], longest: int) -> Tensor:
    total = torch.zeros((), dtype=torch.float64)
    for s, a in zip(sequences, grpo_advantages(sequences, rewards_of(sequences)), strict=True):
        n = len(s.theta)
        ratio = torch.exp(s.theta.sum() / n) / torch.exp(s.prox.sum() / n)
        weight = torch.exp((s.prox - s.behav).sum() / n)
        if weight <= BEHAV_CLIP:
            total = total - weight * torch.minimum(ratio * a, torch.clip(ratio, 1 - 3e-4, 1 + 4e-4) * a)
    return total / len(sequences)


def cispo(sequences: list[Sequence], longest: int) -> Tensor:
    terms = []
    for s, a in zip(sequences, grpo_advantages(sequences, shaped(sequences, longest)), strict=True):
        weight = torch.exp(s.theta - s.behav).clip(max=5.0).detach()
        terms.append(-weight * a * s.theta)
    return torch.cat(terms).mean()


_LOSSES: dict[str, Callable[[list[Sequence], int], Tensor]] = {
    "decoupled-ppo": decoupled_ppo,
    "ppo": ppo,
    "grpo": grpo,
    "dr-grpo": dr_grpo,
    "dapo": dapo,
    "rloo": rloo,
    "reinforce++": reinforce_pp,
    "gspo": gspo,
    "cispo": cispo,
}
