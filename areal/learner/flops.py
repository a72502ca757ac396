"""Floating-point operations of a pass, for the share of a GPU's peak that the learner reaches (MFU)."""

from __future__ import annotations

from typing import Any

import torch

from areal.learner.parallelize import decoder_layers

_PEAKS = {
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H100": 989e12,
    "H200": 989e12,
    "H800": 989e12,
    "GH200": 989e12,
    "B200": 2250e12,
    "A100": 312e12,
    "A800": 312e12,
    "L40S": 362e12,
    "RTX 4090": 165e12,
}
"""Dense bfloat16 operations per second, from the vendor's data sheets; the first matching name counts."""


def peak_flops(device: torch.device) -> float | None:
    """Return the GPU's peak in bfloat16, by its name; None for a CPU or a GPU that is not in the table."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak for part, peak in _PEAKS.items() if part in name), None)


def head_size(config: Any) -> int:
    """Return the size of an attention head's queries and keys, by the configuration of a language model."""
    if hasattr(config, "qk_rope_head_dim"):  # multi-head latent attention
        return config.qk_nope_head_dim + config.qk_rope_head_dim
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


class FlopCounter:
    """Counts the operations of a model's passes, as PaLM's appendix B does (arXiv 2204.02311).

    It counts two operations for each matrix weight and token, and 4·d for each pair of tokens that attention
    compares in each layer. A backward pass has twice the operations of the forward pass. Recomputation that
    saves memory does not count, nor do logits that are not needed.
    """

    def __init__(self, model: Any) -> None:
        config = model.config.get_text_config()
        layers = decoder_layers(model)
        self._trunk = sum(p.numel() for layer in layers for p in layer.parameters() if p.ndim >= 2)
        self._head = model.get_output_embeddings().weight.numel()
        self._attention = 2 * len(layers) * config.num_attention_heads * head_size(config)

    def forward(self, tokens: int, predicted: int, pairs: int) -> int:
        """Return the operations of a forward pass.

        Args:
            tokens: number N of tokens that pass through the layers.
            predicted: number K of tokens with logits.
            pairs: number of pairs of a token with itself or an earlier token that it sees.
        """
        return 2 * (self._trunk * tokens + self._head * predicted + self._attention * pairs)
