"""Which return each sampled token answers for: its episode's reward, or what came from its turn on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from areal.config.objective import Objective
from areal.learner.advantages import overlong_penalty
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


def assign(episodes: Sequence[Episode], objective: Objective, max_new_tokens: int) -> Credit:
    """Assign to each sampled token the return that it answers for.

    Without ``turn_discount`` every token answers for its episode's reward. With γ, a token of turn k answers
    for Σ_{j≥k} γ^(j−k)·r_j over the turns j of its episode, in the order in which they began, whichever
    trajectory they are in. Overlong responses lose in the reward of the episode, or of their turn.

    Args:
        max_new_tokens: tokens of the longest response allowed.
    """
    if objective.turn_discount is None:
        return _of_episodes(episodes, objective, max_new_tokens)
    return _of_turns(episodes, objective, max_new_tokens, objective.turn_discount)


def _of_episodes(episodes: Sequence[Episode], objective: Objective, max_new_tokens: int) -> Credit:
    returns = torch.tensor([episode.reward for episode in episodes])
    if objective.overlong > 0:
        turns = [max(int(turn_lengths(t).max()) for t in e.trajectories) for e in episodes]
        returns -= overlong_penalty(torch.tensor(turns).float(), max_new_tokens, objective.overlong)
    owned = [(i, t.sampled) for i, episode in enumerate(episodes) for t in episode.trajectories]
    lengths = torch.zeros(len(episodes), 1, dtype=torch.int64)
    for i, tokens in owned:
        lengths[i, 0] += tokens
    units = [np.zeros(tokens, dtype=np.int64) for _, tokens in owned]
    return Credit(returns[:, None], lengths, [i for i, _ in owned], units)


def _of_turns(
    episodes: Sequence[Episode], objective: Objective, max_new_tokens: int, discount: float
) -> Credit:
    turns = [_turns_of(episode) for episode in episodes]
    returns = torch.zeros(len(episodes), max(map(len, turns)))
    lengths = torch.zeros(returns.shape, dtype=torch.int64)
    owners, units = [], []
    for i, (episode, order) in enumerate(zip(episodes, turns, strict=True)):
        tokens = torch.tensor([turn.tokens for turn in order])
        rewards = torch.tensor([turn.reward for turn in order])
        if objective.overlong > 0:
            rewards -= overlong_penalty(tokens.float(), max_new_tokens, objective.overlong)
        returns[i, : len(order)] = torch.tensor(_discounted(rewards.tolist(), discount))
        lengths[i, : len(order)] = tokens
        for number in range(len(episode.trajectories)):
            own = [(k, turn.tokens) for k, turn in enumerate(order) if turn.trajectory == number]
            ranks, counts = zip(*own, strict=True)
            units.append(np.repeat(ranks, counts))
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


def _discounted(rewards: list[float], discount: float) -> list[float]:
    """Σ_{j≥k} γ^(j−k)·r_j for each k."""
    found, following = [], 0.0
    for reward in reversed(rewards):
        following = reward + discount * following
        found.append(following)
    return found[::-1]
