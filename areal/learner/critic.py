"""The critic of ``advantage: gae``: a copy of the model with one output, the expected return.

A copy, so that the loss of the values never moves the policy. Its head begins at 0: the first advantages are
returns less nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from areal.config import LearnerConfig
from areal.learner.advantages import gae, whiten
from areal.learner.minibatches import MicroBatch
from areal.learner.model import hidden_states, load_model
from areal.learner.optimizer import adamw, forget, set_rate, step
from areal.learner.packed import Packed
from areal.learner.parallelize import gather_gradients, let_go, parallelize
from areal.learner.state import Tensors, load_tensors, tensors_of


class Critic(torch.nn.Module):
    """Values of states, their optimizer, and the advantages that they give.

    Args:
        path: the model to copy.
        settings: of the learner.
        device: where to.
    """

    def __init__(self, path: str, settings: LearnerConfig, device: torch.device) -> None:
        super().__init__()
        model = load_model(path)
        self._trunk = model.base_model
        self._head = torch.nn.Linear(model.config.get_text_config().hidden_size, 1)
        torch.nn.init.zeros_(self._head.weight)
        torch.nn.init.zeros_(self._head.bias)
        self._settings = settings
        parallelize(self, self._trunk, settings, device)
        self._optimizer = adamw(self, settings)

    def forward(self, packed: Packed) -> torch.Tensor:
        """Return the expected return before each sampled token, float32 ``[K]``."""
        return (
            self._head(hidden_states(self._trunk, packed).index_select(0, packed.before)).squeeze(-1).float()
        )

    @torch.no_grad()
    def judge(self, micros: Sequence[MicroBatch]) -> dict[str, float]:
        """Fill in the advantages, normalised over the batch, and the returns; return what to report."""
        s = self._settings.choices
        values = [self(micro.packed).cpu() for micro in micros]
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
        """Add a micro-batch's gradient of the squared error, in the shares of the policy's loss."""
        assert micro.returns is not None, "judge first"
        error = self(micro.packed) - micro.returns
        (error.square() / 2 * micro.share).sum().backward()
        gather_gradients(self)

    def step(self, lr_scale: float, version: int) -> None:
        """Make one optimizer step at this share of the peak learning rate.

        Raises:
            FloatingPointError: a gradient is not finite.
        """
        set_rate(self._optimizer, self._settings.critic_learning_rate * lr_scale)
        step(self, self._optimizer, self._settings.grad_clip, version)

    def forget(self) -> None:
        """Drop the gradients."""
        forget(self, self._optimizer)

    def state(self, whole: bool = False) -> Tensors:
        """All that the critic is, as :meth:`areal.learner.learner.Learner.state` has it."""
        let_go(self)
        return tensors_of(self, self._optimizer, whole)

    def load_state(self, state: Tensors) -> None:
        """Take back what :meth:`state` returned."""
        let_go(self)
        load_tensors(self, self._optimizer, state)
