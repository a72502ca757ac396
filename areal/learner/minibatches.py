"""A batch as it passes through the model: minibatches, their micro-batches, and the share of each token."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch

from areal.config.objective import Objective
from areal.learner.attention import Kernel, to_device
from areal.learner.credit import assign
from areal.learner.microbatches import partition
from areal.learner.objectives import Tokens, shares
from areal.learner.packed import Packed, pack
from areal.models.sight import Sight
from areal.trajectory import Batch, Episode

LOOKED_AT = 16
"""Number of rollouts per update whose token values are kept."""


@dataclass
class MicroBatch:
    """One forward and backward pass: S sequences with K sampled tokens.

    It is packed when its pass begins. A GPU still computes the previous pass at that time, so it does not
    wait.

    Attributes:
        pack: packs the sequences into one row on the device.
        shares: ``[S]``, share of each sampled token of each sequence in the loss of the minibatch.
        rewards: ``[S]``, on the CPU.
        of_sequences: advantages of the sampled tokens of each sequence; None: the critic estimates them.
        returns: ``[K]``, targets of the critic, once they are known.
        prox: ``[K]``, log-probabilities under π_prox, once they are known.
        reference: ``[K]``, log-probabilities under the reference model, once they are known.
        looked_at: trajectories whose values are kept: the index in the batch, and the slice of the K tokens.
        counts: false for a micro-batch that only keeps a rank in step with the others; its shares are 0.
    """

    pack: Callable[[], Packed]
    shares: torch.Tensor
    rewards: torch.Tensor
    of_sequences: list[torch.Tensor] | None = None
    returns: torch.Tensor | None = None
    prox: torch.Tensor | None = None
    reference: torch.Tensor | None = None
    looked_at: list[tuple[int, slice]] = field(default_factory=list)
    counts: bool = True

    @functools.cached_property
    def packed(self) -> Packed:
        """The packed sequences, on the device."""
        return self.pack()

    @functools.cached_property
    def share(self) -> torch.Tensor:
        """``[K]``, the share of each sampled token in the loss of the minibatch."""
        return to_device(self.shares.numpy(), self.packed.owner.device)[self.packed.owner]

    @functools.cached_property
    def advantages(self) -> torch.Tensor | None:
        """``[K]``; None until the critic has estimated them, if there is a critic."""
        if self.of_sequences is None:
            return None
        return to_device(torch.cat(self.of_sequences).numpy(), self.packed.owner.device)

    def tokens(self, logprobs: torch.Tensor, entropy: torch.Tensor, part: slice) -> Tokens:
        """Return the inputs of the objective for a part of the sampled tokens, given the policy's outputs."""
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
        budget: number of tokens of one micro-batch.
        kernel: attention kernel; None: PyTorch's plain attention, padded.
        sight: how the model processes images; None: the model has no vision.
        rank: rank of this process of the learner.
    """

    objective: Objective
    minibatches: int
    budget: int
    max_new_tokens: int
    device: torch.device
    kernel: Kernel | None = None
    rank: int = 0
    world_size: int = 1
    sight: Sight | None = None

    def split(self, batch: Batch) -> tuple[list[list[MicroBatch]], float]:
        """Return this rank's part of each minibatch, and the share of trajectories without an advantage.

        Groups stay whole within a minibatch. Trajectories that cannot change the policy are left out: their
        advantage is exactly 0, and no other term of the objective uses them. Their tokens still count in the
        denominators.

        Raises:
            UserError: a trajectory does not fit into a micro-batch.
        """
        objective, trajectories, group = self.objective, batch.trajectories, len(batch.groups[0].episodes)
        credit = assign(batch.episodes, objective, self.max_new_tokens)
        advantages: list[torch.Tensor] | None = None
        if objective.advantage != "gae":
            advantages = credit.of_tokens(credit.advantages(objective.advantage, group))
        tokens = credit.lengths.sum(dim=1)
        size = len(batch.episodes) // self.minibatches
        rows = torch.bincount(torch.tensor(credit.episode) // size).tolist()
        share = torch.cat(
            [shares(objective.aggregation, part, self.max_new_tokens) for part in tokens.split(rows)]
        )
        episode = [credit.episode[row] for row in credit.row]
        moves = None if advantages is None else [bool(a.numpy().any()) for a in advantages]
        passing = [episode[i] for i in self._useful(range(len(trajectories)), moves)]
        looked_at = _looked_at(batch.episodes, sorted(set(passing)))
        minibatches = []
        for start in range(0, len(batch.episodes), size):
            micros = []
            of_minibatch = [i for i, e in enumerate(episode) if start <= e < start + size]
            useful = self._useful(of_minibatch, moves)
            lengths = [len(trajectories[i]) for i in useful]
            for part in partition(lengths, self.budget, self.world_size)[self.rank]:
                chosen = [useful[i] for i in part] or useful[:1]
                members = [trajectories[i] for i in chosen]
                owners = [credit.row[i] for i in chosen]
                micro = MicroBatch(
                    functools.partial(pack, members, self.device, self.kernel, self.sight),
                    share[owners],
                    credit.returns[owners, 0],
                    None if advantages is None else [advantages[i] for i in chosen],
                )
                ends = itertools.accumulate(trajectories[i].sampled for i in chosen)
                bounds = itertools.pairwise([0, *ends])
                micro.looked_at = [
                    (i, slice(*pair))
                    for i, pair in zip(chosen, bounds, strict=True)
                    if episode[i] in looked_at
                ]
                if not part:
                    micro.counts, micro.shares = False, torch.zeros_like(micro.shares)
                micros.append(micro)
            minibatches.append(micros)
        idle = 0.0 if moves is None else moves.count(False) / len(moves)
        return minibatches, idle

    def _useful(self, members: Sequence[int], moves: list[bool] | None) -> list[int]:
        """Return the trajectories of a minibatch that can change the policy; ``moves``: by advantage."""
        if moves is None or self.objective.uses_every_token:
            return list(members)
        return [i for i in members if moves[i]]


def _looked_at(episodes: Sequence[Episode], passing: Sequence[int]) -> set[int]:
    """Return the passing episodes whose values are kept: the worst, the best, and some between, by reward."""
    ordered = sorted(passing, key=lambda i: episodes[i].reward)
    if len(ordered) <= LOOKED_AT:
        return set(ordered)
    last = len(ordered) - 1
    return {ordered[round(k * last / (LOOKED_AT - 1))] for k in range(LOOKED_AT)}
