"""The vision parts of a small model: a small vision tower and, if necessary, marks for the tokenizer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from areal.models.sight import FAMILIES, Sight, load_sight

_SIZES = {"intermediate_size": 96, "num_position_embeddings": 64}
_DEPTH, _WIDTH, _HEADS = 2, 64, 2
_MARKS = {
    "vision_start_token_id": "<|vision_start|>",
    "vision_end_token_id": "<|vision_end|>",
    "image_token_id": "<|image_pad|>",
    "video_token_id": "<|video_pad|>",
}
_TEMPLATE = """\
{%- for message in messages -%}
{{- '<|' + message['role'] + '|>' -}}
{%- if message['content'] is string -%}{{- message['content'] -}}
{%- else -%}
{%- for part in message['content'] -%}
{{- '<|vision_start|><|image_pad|><|vision_end|>' if part['type'] == 'image' else part['text'] -}}
{%- endfor -%}
{%- endif -%}
{{- '<|end|>\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|assistant|>' -}}{%- endif -%}
"""
"""The starter's chat template, with images."""
_SIDES = 4, 16
"""Sides of the smallest and of the largest image, in squares with one placeholder each."""


def make_sight_small(config: Any) -> None:
    """Make the vision tower of a small configuration small; windows and the features of layers remain."""
    if config.model_type not in FAMILIES:
        return
    tower, text = config.vision_config, config.get_text_config()
    for name, most in _SIZES.items():
        if hasattr(tower, name):
            setattr(tower, name, min(getattr(tower, name), most))
    tower.depth, tower.num_heads = _DEPTH, _HEADS
    if hasattr(tower, "embed_dim"):  # Qwen2-VL, where hidden_size is that of the language model
        tower.embed_dim, tower.hidden_size = _WIDTH, text.hidden_size
    else:
        tower.hidden_size, tower.out_hidden_size = _WIDTH, text.hidden_size
    if hasattr(tower, "fullatt_block_indexes"):
        tower.window_size, tower.fullatt_block_indexes = 4 * tower.patch_size, [_DEPTH - 1]
    if hasattr(tower, "deepstack_visual_indexes"):
        tower.deepstack_visual_indexes = [0, 1]
    tower.initializer_range = text.initializer_range
    # Numbers of pairs of a head's values that rotate with time, height and width.
    pairs, held = text.hidden_size // text.num_attention_heads // 2, dict(text.rope_parameters)
    before = held.get("mrope_section") or [1, 1, 1]
    turning = [pairs * part // sum(before) for part in before]
    turning[0] += pairs - sum(turning)
    text.rope_parameters = {**held, "mrope_section": turning}


def add_marks(config: Any, tokenizer: Any) -> None:
    """Give a tokenizer without image support the model's marks, and give the model their ids."""
    tokenizer.add_special_tokens({"additional_special_tokens": list(_MARKS.values())})
    tokenizer.chat_template = _TEMPLATE
    for name, mark in _MARKS.items():
        setattr(config, name, tokenizer.convert_tokens_to_ids(mark))


def save_processor(path: str, bare: bool, config: Any, folder: Path) -> None:
    """Write the image processor of a model or, for a bare configuration, one for small images."""
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    if not bare:
        sight = load_sight(path)
        assert isinstance(sight, Sight)
        sight.processor.save_pretrained(folder)
        return
    tower = config.vision_config
    shortest, longest = ((side * tower.patch_size * tower.spatial_merge_size) ** 2 // 4 for side in _SIDES)
    Qwen2VLImageProcessorPil(
        size={"shortest_edge": shortest, "longest_edge": longest},
        patch_size=tower.patch_size,
        merge_size=tower.spatial_merge_size,
        temporal_patch_size=tower.temporal_patch_size,
    ).save_pretrained(folder)
