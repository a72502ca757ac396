"""A batch as it passes through the model: minibatches, their micro-batches, and the part of each token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from areal.learner.advantages import of_rewards, overlong_penalty
from areal.learner.microbatches import allocate
from areal.learner.objectives import shares
from areal.learner.packed import Packed, pack
from areal.learner.presets import Objective
from areal.trajectory import Batch, Trajectory


@dataclass(slots=True)
class Micro:
    """One forward and backward pass: S sequences with K sampled tokens.

    Attributes:
        packed: the tokens.
        share: ``[K]``, share of each sampled token in the loss of the minibatch.
        rewards: ``[S]``, on the CPU.
        advantages: ``[K]``; None until the critic has judged, if there is one.
        returns: ``[K]``, what the critic is to learn, once it is known.
        prox: ``[K]``, log-probabilities under π_prox once they are known.
        reference: ``[K]``, and under the reference model.
    """

    packed: Packed
    share: torch.Tensor
    rewards: torch.Tensor
    advantages: torch.Tensor | None = None
    returns: torch.Tensor | None = None
    prox: torch.Tensor | None = None
    reference: torch.Tensor | None = None


@dataclass(frozen=True, slots=True)
class Splitter:
    """Splits batches.

    Attributes:
        objective: what advantages and shares are made by.
        minibatches: optimizer steps for one batch.
        budget: tokens of one micro-batch.
        longest: tokens of the longest answer allowed.
        device: where the tokens go.
        varlen: whether attention has kernels of variable length.
    """

    objective: Objective
    minibatches: int
    budget: int
    longest: int
    device: torch.device
    varlen: bool = False

    def split(self, batch: Batch) -> tuple[list[list[Micro]], float]:
        """Return the micro-batches of each minibatch, and the share of trajectories that have no advantage.

        Groups stay whole within a minibatch. Trajectories that cannot move the policy, since their advantage
        is exactly 0 and no other term of the objective sees them, are left out; their tokens still count in
        the denominators.

        Raises:
            UserError: a trajectory does not fit in a micro-batch.
        """
        objective, trajectories = self.objective, batch.trajectories
        rewards = self._rewards(trajectories)
        lengths = torch.tensor([t.sampled for t in trajectories])
        advantages = None
        if objective.advantage != "gae":
            size = len(batch.groups[0].trajectories)
            advantages = of_rewards(objective.advantage, rewards, lengths, size)
        size = len(trajectories) // self.minibatches
        minibatches = []
        for start in range(0, len(trajectories), size):
            part = slice(start, start + size)
            share = shares(objective.aggregation, lengths[part], self.longest)
            known = None if advantages is None else advantages[part]
            minibatches.append(self._micros(trajectories[part], rewards[part], share, known))
        return minibatches, 0.0 if advantages is None else float((advantages == 0).float().mean())

    def _rewards(self, trajectories: Sequence[Trajectory]) -> torch.Tensor:
        rewards = torch.tensor([t.reward for t in trajectories], dtype=torch.float32)
        if self.objective.overlong > 0:
            lengths = torch.tensor([longest_turn(t) for t in trajectories], dtype=torch.float32)
            rewards -= overlong_penalty(lengths, self.longest, self.objective.overlong)
        return rewards

    def _micros(
        self,
        trajectories: Sequence[Trajectory],
        rewards: torch.Tensor,
        share: torch.Tensor,
        advantages: torch.Tensor | None,
    ) -> list[Micro]:
        useful = list(range(len(trajectories)))
        if advantages is not None and not self.objective.uses_every_token:
            useful = [i for i in useful if advantages[i] != 0]
        micros = []
        for members in allocate([len(trajectories[i]) for i in useful], self.budget):
            chosen = [useful[m] for m in members]
            packed = pack([trajectories[i] for i in chosen], self.device, self.varlen)
            micro = Micro(packed, share[chosen].to(self.device)[packed.owner], rewards[chosen])
            if advantages is not None:
                micro.advantages = advantages[chosen].to(self.device)[packed.owner]
            micros.append(micro)
        return micros


def longest_turn(trajectory: Trajectory) -> int:
    """Return the number of tokens of the longest answer of one turn, which is what the limit is set for."""
    if not trajectory.turns:
        return trajectory.sampled
    return int(np.add.reduceat(trajectory.loss_mask.astype(np.int64), trajectory.turns).max())
