"""Which return each sampled token answers for: its episode's reward, or what came from its turn on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from areal.learner.advantages import overlong_penalty
from areal.learner.presets import Objective
from areal.trajectory import Episode, Trajectory


@dataclass(frozen=True, slots=True)
class Credit:
    """The returns of E episodes with up to K units of credit each: their turns, or one for the whole episode.

    Attributes:
        returns: float32 ``[E, K]``.
        lengths: int64 ``[E, K]``, sampled tokens of each unit; 0 behind an episode's last unit.
        episode: of each trajectory, which episode it belongs to.
        units: of each trajectory, the unit of each of its sampled tokens.
    """

    returns: torch.Tensor
    lengths: torch.Tensor
    episode: list[int]
    units: list[np.ndarray]

    def of_tokens(self, values: torch.Tensor) -> list[torch.Tensor]:
        """Spread values of units, ``[E, K]``, over the sampled tokens of each trajectory."""
        pairs = zip(self.episode, self.units, strict=True)
        return [values[episode][torch.from_numpy(units)] for episode, units in pairs]


def assign(episodes: Sequence[Episode], objective: Objective, longest: int) -> Credit:
    """Return who answers for what.

    Without ``turn_discount`` every token answers for its episode's reward. With γ, a token of turn k answers
    for Σ_{j≥k} γ^(j−k)·r_j over the turns j of its episode, in the order in which they began, whichever
    trajectory they are in. Overlong answers lose in the reward of the episode, or of their turn.

    Args:
        episodes: of one batch.
        objective: whose discount and penalty.
        longest: tokens of the longest answer allowed.
    """
    discount = objective.turn_discount
    turns = [_turns_of(episode) for episode in episodes]
    width = 1 if discount is None else max(map(len, turns))
    returns = torch.zeros(len(episodes), width)
    lengths = torch.zeros(len(episodes), width, dtype=torch.int64)
    owners, units = [], []
    for i, (episode, order) in enumerate(zip(episodes, turns, strict=True)):
        tokens = torch.tensor([turn.tokens for turn in order])
        penalty = _penalty(tokens, objective, longest)
        if discount is None:
            returns[i, 0] = torch.tensor(episode.reward) - penalty.max()
            lengths[i, 0] = tokens.sum()
        else:
            rewards = [turn.reward - lost for turn, lost in zip(order, penalty.tolist(), strict=True)]
            returns[i, : len(order)] = torch.tensor(_discounted(rewards, discount))
            lengths[i, : len(order)] = tokens
        for number in range(len(episode.trajectories)):
            own = [(k, turn.tokens) for k, turn in enumerate(order) if turn.trajectory == number]
            ranks, counts = zip(*own, strict=True)
            units.append(np.repeat(np.zeros_like(ranks) if discount is None else ranks, counts))
            owners.append(i)
    return Credit(returns, lengths, owners, units)


@dataclass(frozen=True, slots=True)
class _Turn:
    call: int
    trajectory: int
    tokens: int
    reward: float


def _turns_of(episode: Episode) -> list[_Turn]:
    """The turns of an episode in the order in which they began."""
    found = []
    for number, trajectory in enumerate(episode.trajectories):
        tokens = turn_lengths(trajectory)
        calls = trajectory.calls or range(len(tokens))
        rewards = trajectory.rewards or [0.0] * len(tokens)
        found += [_Turn(c, number, int(t), r) for c, t, r in zip(calls, tokens, rewards, strict=True)]
    return sorted(found, key=lambda turn: turn.call)


def turn_lengths(trajectory: Trajectory) -> np.ndarray:
    """Return the number of sampled tokens of each turn; without turns, the trajectory is one."""
    if not trajectory.turns:
        return np.array([trajectory.sampled])
    return np.add.reduceat(trajectory.loss_mask.astype(np.int64), trajectory.turns)


def _penalty(tokens: torch.Tensor, objective: Objective, longest: int) -> torch.Tensor:
    if objective.overlong == 0:
        return torch.zeros(len(tokens))
    return overlong_penalty(tokens.float(), longest, objective.overlong)


def _discounted(rewards: list[float], discount: float) -> list[float]:
    """Σ_{j≥k} γ^(j−k)·r_j for each k."""
    found, following = [], 0.0
    for reward in reversed(rewards):
        following = reward + discount * following
        found.append(following)
    return found[::-1]
