"""The policy as the learner holds it: a Hugging Face causal language model on packed sequences."""

from __future__ import annotations

import warnings
from typing import Any

import torch

from areal.errors import UserError
from areal.learner.packed import ATTENTION, Packed, packed_attention


def load_model(path: str, device: torch.device, dtype: torch.dtype) -> Any:
    """Load a causal language model for training.

    Raises:
        UserError: the folder or hub id holds no causal language model.
    """
    from transformers import AttentionInterface, AutoModelForCausalLM

    AttentionInterface.register(ATTENTION, packed_attention)
    try:
        model: Any = AutoModelForCausalLM.from_pretrained(path, dtype=dtype, attn_implementation=ATTENTION)
    except (OSError, ValueError) as error:
        raise UserError(f"cannot load the model {path}: {str(error).splitlines()[0]}") from error
    # No dropout: the recomputed log-probabilities must be those of the policy that is updated.
    return model.to(device).eval()


def logprobs_and_entropy(
    model: Any, packed: Packed, temperature: float, entropy_gradient: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the log-probability of each sampled token and the entropy of its distribution, both ``[K]``.

    The logits are divided by ``temperature`` first, as the engine does: it is that distribution which was
    sampled from. Logits are computed only where a sampled token is predicted. The entropy is differentiable
    only if ``entropy_gradient`` says so.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*attention_mask.*")
        logits = model(
            input_ids=packed.tokens[None],
            position_ids=packed.positions[None],
            logits_to_keep=packed.before,
            use_cache=False,
            layout=packed.layout,
        ).logits[0]
    logprobs = torch.log_softmax(logits.float() / temperature, dim=-1)
    chosen = logprobs.gather(-1, packed.targets[:, None]).squeeze(-1)
    with torch.set_grad_enabled(entropy_gradient and torch.is_grad_enabled()):
        entropy = -(logprobs.exp() * logprobs).sum(-1)
    return chosen, entropy
