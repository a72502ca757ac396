"""Assigns a return to each sampled token: the reward of its episode or player, or the return of its turn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from areal.config.objective import Advantage, Objective
from areal.learner.advantages import of_returns, overlong_penalty
from areal.trajectory import Episode, Trajectory


@dataclass(frozen=True, slots=True)
class Credit:
    """The returns of R rows with up to K units of credit each; a unit is a turn, or the whole row.

    A row is an episode, or one player's part of it, because each player earns its own reward.

    Attributes:
        returns: float32 ``[R, K]``.
        lengths: int64 ``[R, K]``, sampled tokens of each unit; 0 after a row's last unit.
        episode: the episode of each row, in order.
        player: the player of each row.
        row: the row of each trajectory.
        units: for each trajectory, the unit of each of its sampled tokens.
    """

    returns: torch.Tensor
    lengths: torch.Tensor
    episode: list[int]
    player: list[str]
    row: list[int]
    units: list[np.ndarray]

    def of_tokens(self, values: torch.Tensor) -> list[torch.Tensor]:
        """Expand values of units, ``[R, K]``, to the sampled tokens of each trajectory."""
        known, pairs = values.numpy(), zip(self.row, self.units, strict=True)
        return [torch.from_numpy(known[row][units]) for row, units in pairs]

    def advantages(self, advantage: Advantage, group_size: int) -> torch.Tensor:
        """Return the advantage of each unit, ``[R, K]``; a player is only compared with itself.

        The expected reward of a player depends on its role: the first to move wins more often, and a seller
        earns a different reward than a buyer. Each role therefore has its own baseline, as in SPIRAL's
        role-conditioned advantage estimation (arXiv 2506.24119). There the baseline is a running mean over
        games; here it is the mean over the episodes of the group, which have the same problem. A player that
        acted in no other episode has the advantage 0.

        Args:
            advantage: the method of estimation.
            group_size: number of episodes per problem.

        Raises:
            ValueError: the advantage applies to single tokens instead of whole returns (gae).
        """
        whole = advantage == "global-normalized"
        compared: dict[tuple[int, str], list[int]] = {}
        for row, (episode, player) in enumerate(zip(self.episode, self.player, strict=True)):
            compared.setdefault((0 if whole else episode // group_size, player), []).append(row)
        by_size: dict[int, list[int]] = {}
        for rows in compared.values():
            by_size.setdefault(len(rows), []).extend(rows)
        found = torch.zeros_like(self.returns)
        for size, rows in ((len(r), r) for r in compared.values()) if whole else by_size.items():
            found[rows] = of_returns(advantage, self.returns[rows], self.lengths[rows], size)
        return found


def assign(episodes: Sequence[Episode], objective: Objective, max_new_tokens: int) -> Credit:
    """Assign a return to each sampled token.

    Without ``turn_discount``, each token has the reward of its episode, or of its player in it. With γ, a
    token of turn k has Σ_{j≥k} γ^(j−k)·r_j over the turns j of its episode, or of its player in it, in the
    order in which they began, across all trajectories. The penalty on overlong responses reduces this reward,
    or that of their turn.

    Args:
        max_new_tokens: tokens of the longest response allowed, including those inserted to end its thought.
    """
    rows, owners = _rows(episodes)
    if objective.turn_discount is None:
        return _of_rows(rows, owners, objective, max_new_tokens)
    return _of_turns(rows, owners, objective, max_new_tokens, objective.turn_discount)


@dataclass(frozen=True, slots=True)
class _Row:
    """One player's part of an episode, and its reward."""

    episode: int
    player: str
    reward: float
    trajectories: list[Trajectory]


def _rows(episodes: Sequence[Episode]) -> tuple[list[_Row], list[int]]:
    """Return the rows of the episodes, and the row of each trajectory."""
    rows: list[_Row] = []
    owners: list[int] = []
    for number, episode in enumerate(episodes):
        # A player without a reward from the environment earned 0.
        rewards = episode.players if episode.players else {"": episode.reward}
        known: dict[str, int] = {}
        for trajectory in episode.trajectories:
            player = trajectory.player
            if player not in known:
                known[player] = len(rows)
                rows.append(_Row(number, player, rewards.get(player, 0.0), []))
            rows[known[player]].trajectories.append(trajectory)
            owners.append(known[player])
    return rows, owners


def _of_rows(rows: Sequence[_Row], owners: list[int], objective: Objective, max_new_tokens: int) -> Credit:
    returns = torch.tensor([row.reward for row in rows])
    if objective.overlong > 0:
        turns = [max(int(response_lengths(t).max()) for t in row.trajectories) for row in rows]
        returns -= overlong_penalty(torch.tensor(turns).float(), max_new_tokens, objective.overlong)
    lengths = torch.tensor([[sum(t.sampled for t in row.trajectories)] for row in rows])
    taken = _taken(rows, owners)
    units = [np.zeros(t.sampled, dtype=np.int64) for _, t in taken]
    return Credit(returns[:, None], lengths, *_places(rows), owners, units)


def _of_turns(
    rows: Sequence[_Row], owners: list[int], objective: Objective, max_new_tokens: int, discount: float
) -> Credit:
    turns = [_turns_of(row) for row in rows]
    returns = torch.zeros(len(rows), max(map(len, turns)))
    lengths = torch.zeros(returns.shape, dtype=torch.int64)
    for i, order in enumerate(turns):
        tokens = torch.tensor([turn.tokens for turn in order])
        rewards = torch.tensor([turn.reward for turn in order])
        if objective.overlong > 0:
            whole = torch.tensor([turn.length for turn in order]).float()
            rewards -= overlong_penalty(whole, max_new_tokens, objective.overlong)
        returns[i, : len(order)] = torch.tensor(_discounted(rewards.tolist(), discount))
        lengths[i, : len(order)] = tokens
    units = []
    for owner, (number, _) in zip(owners, _taken(rows, owners), strict=True):
        own = [(k, turn.tokens) for k, turn in enumerate(turns[owner]) if turn.trajectory == number]
        ranks, counts = zip(*own, strict=True)
        units.append(np.repeat(ranks, counts))
    return Credit(returns, lengths, *_places(rows), owners, units)


def _places(rows: Sequence[_Row]) -> tuple[list[int], list[str]]:
    return [row.episode for row in rows], [row.player for row in rows]


def _taken(rows: Sequence[_Row], owners: list[int]) -> list[tuple[int, Trajectory]]:
    """Return all trajectories in the order of the batch, each with its index in its row."""
    left = [enumerate(row.trajectories) for row in rows]
    return [next(left[owner]) for owner in owners]


@dataclass(frozen=True, slots=True)
class _Turn:
    """A turn, with its number of sampled tokens and the length of its response."""

    call: int
    trajectory: int
    tokens: int
    length: int
    reward: float


def _turns_of(row: _Row) -> list[_Turn]:
    """Return the turns of a row in the order in which they began."""
    found = []
    for number, trajectory in enumerate(row.trajectories):
        tokens, lengths = turn_lengths(trajectory).tolist(), response_lengths(trajectory).tolist()
        calls = trajectory.calls or range(len(tokens))
        rewards = trajectory.rewards or [0.0] * len(tokens)
        turns = zip(calls, tokens, lengths, rewards, strict=True)
        found += [_Turn(call, number, part, whole, reward) for call, part, whole, reward in turns]
    return sorted(found, key=lambda turn: turn.call)


def turn_lengths(trajectory: Trajectory) -> np.ndarray:
    """Return the number of sampled tokens of each turn; a trajectory without turns counts as one turn."""
    if not trajectory.turns:
        return np.array([trajectory.sampled])
    return np.add.reduceat(trajectory.loss_mask.astype(np.int64), trajectory.turns)


def response_lengths(trajectory: Trajectory) -> np.ndarray:
    """Return the number of tokens of each turn's response, including those inserted to end its thought.

    ``max_new_tokens`` limits these lengths. A trajectory without turns counts as one turn.
    """
    if not trajectory.turns:
        return np.array([trajectory.sampled])
    return np.add.reduceat(trajectory.responses.astype(np.int64), trajectory.turns)


def _discounted(rewards: list[float], discount: float) -> list[float]:
    """Return Σ_{j≥k} γ^(j−k)·r_j for each k."""
    found, following = [], 0.0
    for reward in reversed(rewards):
        following = reward + discount * following
        found.append(following)
    return found[::-1]
