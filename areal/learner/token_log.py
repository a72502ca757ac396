"""Values that an update computes for each sampled token of a few rollouts, for people to inspect."""

from __future__ import annotations

import torch

from areal.config.objective import Objective
from areal.learner.logits import Scores
from areal.learner.minibatches import MicroBatch
from areal.learner.objectives import TokenLoss
from areal.learner.ranks import all_gather_objects
from areal.trajectory import Batch, TokenValues


class TokenLog:
    """The values of one update; they stay on the device until they are gathered."""

    def __init__(self, objective: Objective) -> None:
        self._decoupled = objective.decoupled
        self._kept: list[tuple[int, list[str], torch.Tensor]] = []

    def add(self, micro: MicroBatch, scores: Scores, token: TokenLoss) -> None:
        """Add the values of a pass for the micro-batch's selected trajectories."""
        assert micro.advantages is not None, "the critic judges first"
        values = {"advantage": micro.advantages, "entropy": scores.entropy}
        if self._decoupled:
            values |= {"prox/behav": token.behav_ratio, "theta/prox": token.ratio}
        else:
            values["theta/behav"] = token.ratio
        for index, part in micro.looked_at:
            kept = torch.stack([column[part] for column in values.values()])
            self._kept.append((index, list(values), kept))

    def gathered(self, batch: Batch) -> list[TokenValues]:
        """Return the values of all ranks, in the order of the batch; every rank must call this."""
        own = {index: dict(zip(names, kept.cpu().numpy(), strict=True)) for index, names, kept in self._kept}
        found = {index: values for of_rank in all_gather_objects(own) for index, values in of_rank.items()}
        places = [
            (group.id, number, conversation)
            for group in batch.groups
            for number, episode in enumerate(group.episodes, 1)
            for conversation in range(len(episode.trajectories))
        ]
        return [TokenValues(*places[index], found[index]) for index in sorted(found)]
