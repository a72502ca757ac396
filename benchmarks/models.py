"""Provides models of real shapes with random weights, which measure speed without downloads or training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from areal.models import resolve_model

QWEN2: dict[str, dict[str, Any]] = {
    "0.5b": {
        "hidden_size": 896,
        "intermediate_size": 4864,
        "num_hidden_layers": 24,
        "num_attention_heads": 14,
    },
    "1.5b": {
        "hidden_size": 1536,
        "intermediate_size": 8960,
        "num_hidden_layers": 28,
        "num_attention_heads": 12,
    },
    "3b": {
        "hidden_size": 2048,
        "intermediate_size": 11008,
        "num_hidden_layers": 36,
        "num_attention_heads": 16,
    },
    "7b": {
        "hidden_size": 3584,
        "intermediate_size": 18944,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "tie_word_embeddings": False,
    },
    "tiny": {
        "hidden_size": 128,
        "intermediate_size": 384,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "vocab_size": 512,
    },
}
"""The settings of Qwen2.5's configurations, and of a tiny one for a trial on a CPU."""
for sizes in QWEN2.values():
    for key, value in {"num_key_value_heads": 2, "tie_word_embeddings": True, "vocab_size": 151936}.items():
        sizes.setdefault(key, value)


def qwen2(folder: Path, size: str, positions: int = 32768) -> str:
    """Write a model of a Qwen2.5 shape with random bfloat16 weights and a tokenizer, and return its path."""
    import torch
    from transformers import AutoTokenizer, Qwen2Config, Qwen2ForCausalLM

    more: dict[str, Any] = {"max_position_embeddings": positions, "rope_theta": 1e6}
    config = Qwen2Config(**QWEN2[size], **more, bos_token_id=None, eos_token_id=1)
    torch.manual_seed(0)
    # On a GPU if there is one: a CPU draws seven billion numbers for minutes.
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        model = Qwen2ForCausalLM(config).to(torch.bfloat16)
    model.save_pretrained(folder)
    del model
    torch.cuda.empty_cache()
    AutoTokenizer.from_pretrained(resolve_model("starter")).save_pretrained(folder)
    return str(folder)
