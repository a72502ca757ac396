"""The policy as the learner holds it: a Hugging Face causal language model on packed sequences."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch

from areal.errors import UserError
from areal.learner.attention import ATTENTION, Padded, packed_attention
from areal.learner.logits import Loss, Scores, scores
from areal.learner.packed import Packed


class Policy(torch.nn.Module):
    """A causal language model that gives log-probabilities of sampled tokens, never logits.

    Attributes:
        model: the Hugging Face model; its parameters are float32.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, packed: Packed, temperature: float, loss: Loss | None = None, separable: bool = True
    ) -> Scores:
        """Return the log-probability of each sampled token, the entropy of its distribution, and the loss.

        The logits are divided by ``temperature`` first, as the engine does: it is that distribution which was
        sampled from. Logits are computed only where a sampled token is predicted. ``loss`` and ``separable``
        as in :func:`areal.learner.logits.scores`; without a loss there is no gradient.
        """
        hidden = hidden_states(self.model.base_model, packed).index_select(0, packed.before)
        weight = self.model.get_output_embeddings().weight
        return scores(hidden, weight, packed.targets, temperature, loss, separable)


def load_model(path: str) -> Any:
    """Load a causal language model for training, in float32, on the CPU.

    Raises:
        UserError: the folder or hub id holds no causal language model, or one whose logits are not simply
            the output layer's product with the last hidden states, which is what the learner computes.
    """
    from transformers import AttentionInterface, AutoModelForCausalLM

    AttentionInterface.register(ATTENTION, packed_attention)
    try:
        model: Any = AutoModelForCausalLM.from_pretrained(
            path, dtype=torch.float32, attn_implementation=ATTENTION
        )
    except (OSError, ValueError) as error:
        raise UserError(f"cannot load the model {path}: {str(error).splitlines()[0]}") from error
    # No dropout: the recomputed log-probabilities must be those of the policy that is updated.
    model.eval()
    if not _logits_are_a_product(model):
        raise UserError(
            f"the model {path} changes its logits after the output layer (soft-capping, scaling or a bias): "
            "areal cannot train it"
        )
    return model


def hidden_states(trunk: Any, packed: Packed) -> torch.Tensor:
    """Return the last hidden states of the row, ``[N, hidden]``."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*attention_mask.*")
        return trunk(
            input_ids=packed.tokens[None],
            position_ids=packed.positions[None],
            use_cache=False,
            layout=packed.layout,
        ).last_hidden_state[0]


@torch.no_grad()
def _logits_are_a_product(model: Any) -> bool:
    """Try it on two tokens."""
    device = torch.device("cpu")
    index = np.arange(2)[None]
    layout = Padded.build(index, np.ones_like(index, dtype=bool), np.array([2]), device)
    inputs = {
        "input_ids": torch.tensor([[1, 2]]),
        "position_ids": torch.arange(2)[None],
        "use_cache": False,
        "layout": layout,
    }
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*attention_mask.*")
        hidden = model.base_model(**inputs).last_hidden_state
        logits = model(**inputs).logits
    product = hidden @ model.get_output_embeddings().weight.t()
    return torch.allclose(logits, product, rtol=1e-4, atol=1e-4)
