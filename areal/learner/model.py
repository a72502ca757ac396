"""The policy in the learner: a Hugging Face causal language model on packed sequences."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch

from areal.errors import UserError
from areal.learner.attention import ATTENTION, Padded, packed_attention
from areal.learner.logits import Loss, Scores, scores
from areal.learner.packed import Packed
from areal.learner.routers import Routers
from areal.learner.sight import embedded
from areal.models.sight import auto_class, sees


class Policy(torch.nn.Module):
    """A causal language model that returns log-probabilities of sampled tokens, never logits.

    Attributes:
        model: the Hugging Face model; its parameters are float32.
        routers: routers of its mixtures of experts, which repeat the engine's choices; None: no replay.
    """

    def __init__(self, model: Any, routers: Routers | None = None) -> None:
        super().__init__()
        self.model, self.routers = model, routers

    def forward(
        self, packed: Packed, temperature: float, loss: Loss | None = None, separable: bool = True
    ) -> Scores:
        """Return the log-probability of each sampled token, the entropy of its distribution, and the loss.

        The logits are first divided by ``temperature``, as in the engine, because that is the sampling
        distribution. Logits are computed only where they predict a sampled token. ``loss`` and ``separable``
        are those of :func:`areal.learner.logits.scores`; without a loss there is no gradient.
        """
        if self.routers is not None:
            self.routers.replay(packed.experts)
        hidden = hidden_states(self.model.base_model, packed).index_select(0, packed.before)
        weight = self.model.get_output_embeddings().weight
        scale, cap = output_of(self.model.config)
        return scores(hidden, weight, packed.targets, temperature / scale, loss, separable, cap)


def load_model(path: str) -> Any:
    """Load a causal language model for training, in float32, on the CPU; a vision tower is frozen.

    Raises:
        UserError: the folder or hub id contains no causal language model, or one that the learner would
            compute incorrectly.
    """
    from transformers import AttentionInterface, AutoConfig

    AttentionInterface.register(ATTENTION, packed_attention)
    attention: Any = ATTENTION
    if sees(path):
        attention = {"text_config": ATTENTION, "vision_config": "sdpa"}
    try:
        model: Any = auto_class(AutoConfig.from_pretrained(path)).from_pretrained(
            path, dtype=torch.float32, attn_implementation=attention
        )
    except (OSError, ValueError) as error:
        raise UserError(f"cannot load the model {path}: {str(error).splitlines()[0]}") from error
    # No dropout, because the recomputed log-probabilities must be those of the updated policy.
    model.eval()
    if sees(path):
        model.base_model.visual.requires_grad_(False)
    _check(model, path)
    return model


@torch.no_grad()
def require_replay(model: Any, routers: Routers, path: str) -> None:
    """Test on two tokens whether a model's routers can repeat the choices of an engine.

    Raises:
        UserError: it has no routers, or areal does not know how they choose.
    """
    if not len(routers):
        raise UserError(
            f"learner.router_replay=true: areal does not know the routers of the model {path}; set it to "
            "false"
        )
    tokens = torch.tensor([[1, 2]])
    routers.counting = True
    _tried(language_model(model.base_model), tokens, 1)
    routers.counting = False
    routers.clear()
    routers.replay(torch.arange(routers.chosen).expand(2, len(routers), routers.chosen))
    _tried(language_model(model.base_model), tokens, 1)
    routers.replay(None)


def output_of(config: Any) -> tuple[float, float | None]:
    """Return the factor of the products of output layer and hidden states, and their soft cap.

    Granite divides them (logits_scaling), Cohere multiplies them (logit_scale), Gemma 2 caps them.
    """
    text = config.get_text_config()
    scale = (getattr(text, "logit_scale", None) or 1.0) / (getattr(text, "logits_scaling", None) or 1.0)
    return scale, getattr(text, "final_logit_softcapping", None)


def language_model(trunk: Any) -> Any:
    """Return the language model of a trunk, without the vision tower of a vision-language model."""
    return getattr(trunk, "language_model", trunk)


def hidden_states(trunk: Any, packed: Packed) -> torch.Tensor:
    """Return the last hidden states of the row, ``[N, hidden]``."""
    tokens, positions = packed.tokens[None], packed.positions
    inputs = {"input_ids": tokens} if packed.pictures is None else embedded(trunk, tokens, packed.pictures)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*attention_mask.*")
        return language_model(trunk)(
            **inputs,
            position_ids=positions[None] if positions.ndim == 1 else positions[:, None],
            use_cache=False,
            layout=packed.layout,
        ).last_hidden_state[0]


@torch.no_grad()
def _check(model: Any, path: str) -> None:
    """Test the model on two sequences of two tokens, together and separately.

    Raises:
        UserError: the learner's computation differs from the model's.
    """
    first, second = torch.tensor([[1, 2]]), torch.tensor([[3, 1]])
    trunk = language_model(model.base_model)
    alone = _tried(trunk, second, 1).last_hidden_state
    together = _tried(trunk, torch.cat([first, second], 1), 2).last_hidden_state
    logits = _tried(model, second, 1).logits
    if not torch.isfinite(logits).all():
        raise UserError(
            f"the weights of {path} produce logits that are not finite: some weights are NaN or infinite"
        )
    if not torch.allclose(alone, together[:, 2:], rtol=1e-4, atol=1e-4):
        raise UserError(
            f"areal cannot train the model {path}, which carries a state from token to token besides "
            "attention (as Mamba does), because the state would leak from one sequence into the next"
        )
    scale, cap = output_of(model.config)
    expected = scale * (alone @ model.get_output_embeddings().weight.t())
    if cap is not None:
        expected = cap * torch.tanh(expected / cap)
    if not torch.allclose(logits, expected, rtol=1e-4, atol=1e-4):
        raise UserError(
            f"areal cannot train the model {path}, which transforms its logits after the output layer in an "
            "unknown way, such as with a bias"
        )


def _tried(module: Any, tokens: torch.Tensor, sequences: int) -> Any:
    """Call a model or its trunk on one row that contains several sequences of the same length."""
    index = np.arange(tokens.shape[1]).reshape(sequences, -1)
    length = index.shape[1]
    owned, lengths = np.ones_like(index, dtype=bool), np.full(sequences, length)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*attention_mask.*")
        return module(
            input_ids=tokens,
            position_ids=torch.arange(length).repeat(sequences)[None],
            use_cache=False,
            layout=Padded.build(index, owned, lengths, torch.device("cpu")),
        )
