"""The critic of ``advantage: gae``: a copy of the model with one output, the expected return.

It is a copy, so that the value loss never changes the policy. Its head starts at 0, so the first advantages
are the returns themselves.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from areal.config import LearnerConfig
from areal.learner.advantages import gae, whiten
from areal.learner.minibatches import MicroBatch
from areal.learner.model import hidden_states, load_model
from areal.learner.packed import Packed
from areal.learner.trainable import TrainableModule


class ValueModel(torch.nn.Module):
    """The model's layers, and a linear head in place of its output layer."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self._trunk = model.base_model
        self._head = torch.nn.Linear(model.config.get_text_config().hidden_size, 1)
        torch.nn.init.zeros_(self._head.weight)
        torch.nn.init.zeros_(self._head.bias)

    def forward(self, packed: Packed) -> torch.Tensor:
        """Return the expected return before each sampled token, float32 ``[K]``."""
        hidden = hidden_states(self._trunk, packed).index_select(0, packed.before)
        return self._head(hidden).squeeze(-1).float()


class Critic:
    """Predicts the values of states, trains them, and computes advantages from them.

    Args:
        path: the model to copy.

    Attributes:
        values: the trained copy.
    """

    def __init__(self, path: str, settings: LearnerConfig, device: torch.device) -> None:
        self._settings = settings
        self.values = TrainableModule(ValueModel(load_model(path)), settings, device)

    def judge(self, micros: Sequence[MicroBatch]) -> dict[str, float]:
        """Set the advantages, normalized over the batch, and the returns; return metrics."""
        s = self._settings
        values = [self.values(micro.packed).cpu() for micro in micros]
        found = [
            gae(value, micro.rewards, micro.packed.owner.cpu(), s.gamma, s.gae_lambda)
            for value, micro in zip(values, micros, strict=True)
        ]
        advantages = torch.cat(found)
        returns = advantages + torch.cat(values)
        sizes = [len(value) for value in values]
        parts = zip(micros, whiten(advantages).split(sizes), returns.split(sizes), strict=True)
        for micro, advantage, target in parts:
            device = micro.packed.tokens.device
            micro.advantages, micro.returns = advantage.to(device), target.to(device)
        spread = returns.var(correction=0)
        explained = 1 - advantages.var(correction=0) / spread if spread > 0 else torch.tensor(0.0)
        return {"critic/loss": float(advantages.square().mean() / 2), "critic/explained": float(explained)}

    def accumulate(self, micro: MicroBatch) -> None:
        """Add a micro-batch's gradient of the squared error, with the token shares of the policy's loss."""
        returns = micro.returns
        assert returns is not None, "judge first"
        self.values.accumulate(
            lambda values: ((values - returns).square() / 2 * micro.share).sum(), micro.packed
        )

    def step(self, lr_scale: float, version: int) -> None:
        """Make one optimizer step at this share of the peak learning rate.

        Raises:
            FloatingPointError: a gradient is not finite.
        """
        self.values.step(self._settings.critic_learning_rate * lr_scale, version)
