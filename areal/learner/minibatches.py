"""A batch as it passes through the model: minibatches, their micro-batches, and the part of each token."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from areal.config.objective import Objective
from areal.learner.advantages import of_returns
from areal.learner.attention import Kernel
from areal.learner.credit import assign
from areal.learner.microbatches import partition
from areal.learner.objectives import Tokens, shares
from areal.learner.packed import Packed, pack
from areal.trajectory import Batch


@dataclass(slots=True)
class MicroBatch:
    """One forward and backward pass: S sequences with K sampled tokens.

    Attributes:
        share: ``[K]``, share of each sampled token in the loss of the minibatch.
        rewards: ``[S]``, on the CPU.
        advantages: ``[K]``; None until the critic has judged, if there is one.
        returns: ``[K]``, what the critic is to learn, once it is known.
        prox: ``[K]``, log-probabilities under π_prox once they are known.
        reference: ``[K]``, and under the reference model.
        counts: false for one that only keeps a rank in step with the others: its shares are 0.
    """

    packed: Packed
    share: torch.Tensor
    rewards: torch.Tensor
    advantages: torch.Tensor | None = None
    returns: torch.Tensor | None = None
    prox: torch.Tensor | None = None
    reference: torch.Tensor | None = None
    counts: bool = True

    def tokens(self, logprobs: torch.Tensor, entropy: torch.Tensor, part: slice) -> Tokens:
        """Return the inputs of the objective for a part of the sampled tokens, given what the policy says."""
        assert self.advantages is not None, "the critic judges first"
        return Tokens(
            logprobs=logprobs,
            prox=logprobs.detach() if self.prox is None else self.prox[part],
            behav=self.packed.behav[part],
            advantages=self.advantages[part],
            owner=self.packed.owner[part],
            entropy=entropy,
            reference=None if self.reference is None else self.reference[part],
        )


@dataclass(frozen=True, slots=True)
class Splitter:
    """Splits a batch into minibatches, and this rank's part of each into micro-batches.

    Attributes:
        budget: tokens of one micro-batch.
        kernel: of attention; None: PyTorch's plain one, padded.
        rank: which of the learner's processes this is.
    """

    objective: Objective
    minibatches: int
    budget: int
    max_new_tokens: int
    device: torch.device
    kernel: Kernel | None = None
    rank: int = 0
    world_size: int = 1

    def split(self, batch: Batch) -> tuple[list[list[MicroBatch]], float]:
        """Return this rank's part of each minibatch, and the share of trajectories that have no advantage.

        Groups stay whole within a minibatch. Trajectories that cannot move the policy, since their advantage
        is exactly 0 and no other term of the objective sees them, are left out; their tokens still count in
        the denominators.

        Raises:
            UserError: a trajectory does not fit in a micro-batch.
        """
        objective, trajectories, group = self.objective, batch.trajectories, len(batch.groups[0].episodes)
        credit = assign(batch.episodes, objective, self.max_new_tokens)
        advantages: list[torch.Tensor] | None = None
        if objective.advantage != "gae":
            advantages = credit.of_tokens(
                of_returns(objective.advantage, credit.returns, credit.lengths, group)
            )
        tokens = credit.lengths.sum(dim=1)
        size = len(tokens) // self.minibatches
        share = torch.cat(
            [shares(objective.aggregation, part, self.max_new_tokens) for part in tokens.split(size)]
        )
        minibatches = []
        for start in range(0, len(tokens), size):
            members = [i for i, e in enumerate(credit.episode) if start <= e < start + size]
            micros = []
            useful = self._useful(members, advantages)
            lengths = [len(trajectories[i]) for i in useful]
            for part in partition(lengths, self.budget, self.world_size)[self.rank]:
                chosen = [useful[i] for i in part] or useful[:1]
                packed = pack([trajectories[i] for i in chosen], self.device, self.kernel)
                owners = [credit.episode[i] for i in chosen]
                micro = MicroBatch(
                    packed, share[owners].to(self.device)[packed.owner], credit.returns[owners, 0]
                )
                if advantages is not None:
                    micro.advantages = torch.cat([advantages[i] for i in chosen]).to(self.device)
                if not part:
                    micro.counts, micro.share = False, torch.zeros_like(micro.share)
                micros.append(micro)
            minibatches.append(micros)
        idle = 0.0 if advantages is None else sum(not a.any() for a in advantages) / len(advantages)
        return minibatches, float(idle)

    def _useful(self, members: list[int], advantages: list[torch.Tensor] | None) -> list[int]:
        """Return the trajectories of a minibatch that can move it."""
        if advantages is None or self.objective.uses_every_token:
            return members
        return [i for i in members if advantages[i].any()]
