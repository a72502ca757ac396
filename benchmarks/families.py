"""Creates tiny models of many families, with random weights and the starter model's tokenizer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from areal.models import resolve_model

VOCABULARY = 530
"""Number of rows of the embedding, which exceeds the size of the tokenizer, as in most models."""

Settings = dict[str, Any]

_SIZES: Settings = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 512,
    "initializer_range": 0.1,
}
_EXPERTS: Settings = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
_GPT: Settings = {"n_embd": 64, "n_layer": 2, "n_head": 2, "n_positions": 512, "initializer_range": 0.1}
# Caps of the size of the scores, so that leaving them out would show.
_CAPS: Settings = {"attn_logit_softcapping": 2.0, "final_logit_softcapping": 2.0}

FAMILIES: dict[str, Settings] = {
    "llama": {"model_type": "llama", **_SIZES},
    "llama-tied": {"model_type": "llama", **_SIZES, "tie_word_embeddings": True},
    "qwen2": {"model_type": "qwen2", **_SIZES},
    "qwen3": {"model_type": "qwen3", **_SIZES, "head_dim": 32},
    "qwen3-moe": {"model_type": "qwen3_moe", **_SIZES, **_EXPERTS, "head_dim": 32},
    "qwen3-moe-tied": {
        "model_type": "qwen3_moe",
        **_SIZES,
        **_EXPERTS,
        "head_dim": 32,
        "tie_word_embeddings": True,
    },
    "qwen2-moe": {"model_type": "qwen2_moe", **_SIZES, **_EXPERTS, "shared_expert_intermediate_size": 32},
    "mixtral": {"model_type": "mixtral", **_SIZES, "num_local_experts": 4},
    "mixtral-tied": {"model_type": "mixtral", **_SIZES, "num_local_experts": 4, "tie_word_embeddings": True},
    "olmoe": {"model_type": "olmoe", **_SIZES, **_EXPERTS},
    "gpt-oss": {
        "model_type": "gpt_oss",
        **_SIZES,
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
        "head_dim": 32,
    },
    "deepseek-v3": {
        "model_type": "deepseek_v3",
        **_SIZES,
        "num_key_value_heads": 2,
        "topk_method": "noaux_tc",
        "scoring_func": "sigmoid",
        "n_routed_experts": 4,
        "n_shared_experts": 1,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 32,
        "n_group": 2,
        "topk_group": 1,
        "kv_lora_rank": 512,  # with 64 the only size that vLLM has on a CPU
        "q_lora_rank": 32,
        "qk_rope_head_dim": 64,
        "qk_nope_head_dim": 32,
        "v_head_dim": 64,
        "first_k_dense_replace": 1,
    },
    "mistral": {"model_type": "mistral", **_SIZES, "sliding_window": 16},
    "gemma": {"model_type": "gemma", **_SIZES, "head_dim": 32},
    "gemma2": {
        "model_type": "gemma2",
        **_SIZES,
        **_CAPS,
        "head_dim": 32,
        "query_pre_attn_scalar": 32,
        "sliding_window": 16,
    },
    "gemma3": {
        "model_type": "gemma3_text",
        **_SIZES,
        "head_dim": 32,
        "query_pre_attn_scalar": 32,
        "sliding_window": 16,
    },
    "phi3": {"model_type": "phi3", **_SIZES, "pad_token_id": 0},
    "phi": {"model_type": "phi", **_SIZES, "num_key_value_heads": 2},
    "olmo2": {"model_type": "olmo2", **_SIZES},
    "smollm3": {"model_type": "smollm3", **_SIZES, "pad_token_id": 0},
    "granite": {"model_type": "granite", **_SIZES, "attention_multiplier": 0.25},
    "granite-scaled": {
        "model_type": "granite",
        **_SIZES,
        "attention_multiplier": 0.25,
        "logits_scaling": 8.0,
    },
    "cohere": {"model_type": "cohere", **_SIZES},
    "glm4": {"model_type": "glm4", **_SIZES, "head_dim": 32, "pad_token_id": 0},
    "gpt2": {"model_type": "gpt2", **_GPT},
    "gpt-neox": {"model_type": "gpt_neox", **_SIZES},
    "opt": {"model_type": "opt", **_SIZES, "ffn_dim": 96, "word_embed_proj_dim": 64},
    "mamba": {"model_type": "mamba", "hidden_size": 64, "num_hidden_layers": 2, "state_size": 16},
    "mamba2": {
        "model_type": "mamba2",
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_heads": 4,
        "head_dim": 32,
        "state_size": 16,
        "n_groups": 1,
    },
    "lfm2": {"model_type": "lfm2", **_SIZES, "layer_types": ["conv", "full_attention"]},
    "qwen3-next": {
        "model_type": "qwen3_next",
        **_SIZES,
        **_EXPERTS,
        "shared_expert_intermediate_size": 32,
        "head_dim": 32,
        "layer_types": ["linear_attention", "full_attention"],
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 4,
        "linear_key_head_dim": 32,
        "linear_value_head_dim": 32,
    },
}


def make(name: str, folder: Path, change: Callable[[Any], None] | None = None) -> Path:
    """Write the model of a family, with the same weights in every call.

    Args:
        name: the name of the family.
        folder: the folder to write to.
        change: called with the model before it is written.
    """
    tokenizer = AutoTokenizer.from_pretrained(resolve_model("starter"))
    settings = {"vocab_size": VOCABULARY, "bos_token_id": 0, "eos_token_id": tokenizer.eos_token_id}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**{**settings, **FAMILIES[name]}))
    if change is not None:
        change(model)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@torch.no_grad()
def sent_to(model: Any, tokens: Sequence[int]) -> np.ndarray:
    """Return the experts that transformers' own model routes tokens to, with shape ``[T, layers, k]``.

    The indices are 0 in a layer that has no experts.
    """
    gates = [getattr(layer.mlp, "gate", getattr(layer.mlp, "router", None)) for layer in model.model.layers]
    found: dict[Any, torch.Tensor] = {}

    def note(gate: Any, inputs: Any, outputs: Any) -> None:
        found[gate] = next(o for o in outputs if not o.is_floating_point())

    hooks = [gate.register_forward_hook(note) for gate in gates if gate is not None]
    model(input_ids=torch.tensor([list(map(int, tokens))]), use_cache=False)
    for hook in hooks:
        hook.remove()
    none = torch.zeros_like(next(iter(found.values())))
    return torch.stack([found.get(gate, none) for gate in gates], 1).numpy().astype(np.uint8)
