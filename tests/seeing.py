"""Small models that see, of each kind that areal knows, and sequences with pictures for them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from transformers import AutoConfig

from areal.images import Image, to_png
from areal.model_check.small import make_small
from areal.models.sight import Sight
from areal.trajectory import Trajectory

KINDS = {
    "qwen2_vl": "Qwen2VLForConditionalGeneration",
    "qwen2_5_vl": "Qwen2_5_VLForConditionalGeneration",
    "qwen3_vl": "Qwen3VLForConditionalGeneration",
}


def configuration(kind: str, folder: Path) -> Path:
    """Write the configuration of a whole model of a kind."""
    config: Any = AutoConfig.for_model(kind)
    config.architectures = [KINDS[kind]]
    if kind == "qwen3_vl":  # as its checkpoints have it; vLLM reads it, transformers takes it for granted
        text = config.get_text_config()
        text.rope_parameters = {
            **text.rope_parameters,
            "mrope_interleaved": True,
            "mrope_section": [24, 20, 20],
        }
    config.save_pretrained(folder)
    return folder


def make(kind: str, folder: Path) -> str:
    """Write a small model of a kind."""
    return str(make_small(str(configuration(kind, folder / "whole")), folder / "small"))


def noise(height: int, width: int, seed: int = 0) -> bytes:
    """Return a picture of noise."""
    return to_png(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def sequence(sight: Sight, parts: list[bytes | list[int]], sampled: list[int]) -> Trajectory:
    """Return a sequence of pictures and tokens.

    Args:
        sampled: which of the parts the policy sampled.
    """
    tokens: list[int] = []
    mask: list[bool] = []
    images: list[Image] = []
    for number, part in enumerate(parts):
        if isinstance(part, bytes):
            images.append(Image(part, len(tokens), sight.count(part)))
            part = [sight.token] * sight.count(part)
        tokens += part
        mask += [number in sampled] * len(part)
    return Trajectory(
        np.array(tokens, np.int32),
        np.array(mask),
        np.where(mask, -1.0, 0.0).astype(np.float32),
        np.where(mask, 0, -1).astype(np.int32),
        images=images,
    )
