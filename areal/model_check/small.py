"""A small model of the same architecture with random weights, which behaves like the full one."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

from areal.errors import UserError
from areal.model_check.small_sight import add_marks, make_sight_small, save_processor
from areal.models import load_tokenizer, resolve_model
from areal.models.sight import FAMILIES, auto_class

_HEAD = 32
"""Width of an attention head: the smallest that every kernel supports."""
_SIZES = {
    "intermediate_size": 96,
    "ffn_dim": 96,
    "n_inner": 96,
    "moe_intermediate_size": 32,
    "shared_expert_intermediate_size": 32,
    "num_experts": 4,
    "num_local_experts": 4,
    "n_routed_experts": 4,
    "n_shared_experts": 1,
    "num_experts_per_tok": 2,
    "n_group": 2,
    "topk_group": 1,
    "first_k_dense_replace": 1,
    "q_lora_rank": 32,
    "qk_nope_head_dim": 32,
    "v_head_dim": 32,
    "sliding_window": 16,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 32,
    "linear_value_head_dim": 32,
}
"""Maximum sizes. A window is shorter than the test sequences, so that it has an effect."""
_LAYERS = ("num_hidden_layers", "n_layer", "num_layers")
_HEADS = ("num_attention_heads", "n_head")
_WIDTHS = ("hidden_size", "n_embd", "word_embed_proj_dim")
_PER_LAYER = ("layer_types", "mlp_layer_types", "no_rope_layers", "block_types")
"""Settings of configurations that are lists with an entry for each layer."""
_SPREAD = 0.1
"""Standard deviation of random weights; with the usual 0.02, a small model predicts the same everywhere."""


def small_config(config: Any) -> Any:
    """Return a configuration of the same architecture with one or two layers of each kind.

    It keeps what characterizes an architecture: heads that share keys, windows, caps, scales, tied
    embeddings, experts.
    """
    made = copy.deepcopy(config)
    text = made.get_text_config()
    for name, most in _SIZES.items():
        if isinstance(value := getattr(text, name, None), int) and not isinstance(value, bool):
            setattr(text, name, min(value, most))
    _set_layers(text)
    heads, keys = _heads(text)
    for name in _HEADS:
        if hasattr(text, name):
            setattr(text, name, heads)
    if isinstance(getattr(text, "num_key_value_heads", None), int):
        text.num_key_value_heads = keys
    for name in _WIDTHS:
        if hasattr(text, name):
            setattr(text, name, heads * _HEAD)
    latent = hasattr(text, "qk_rope_head_dim")  # the parts of a head have their own sizes, which kernels fix
    if isinstance(before := getattr(text, "head_dim", None), int) and not latent:
        text.head_dim = _HEAD
        _scale_rotary(text, before)
    for name in ("initializer_range", "init_std"):
        if hasattr(text, name):
            setattr(text, name, _SPREAD)
    make_sight_small(made)
    return made


def make_small(path: str, folder: Path, tied: bool | None = None) -> Path:
    """Write a small model with random weights, always the same, and its tokenizer.

    Args:
        path: a model from :func:`areal.models.resolve_model`, or a folder with only a configuration; without
            a tokenizer, it gets the starter's.
        folder: the folder to write.
        tied: whether embeddings and output layer are tied; None: as in the configuration.

    Raises:
        UserError: there is no configuration, or no model can be created from it.
    """
    import torch
    from huggingface_hub.errors import StrictDataclassError
    from transformers import AutoConfig

    bare = Path(path).is_dir() and not any(Path(path).glob("tokenizer*"))
    tokenizer = load_tokenizer(resolve_model("starter") if bare else path)
    try:
        config = small_config(AutoConfig.from_pretrained(path))
    except (StrictDataclassError, AttributeError) as error:
        raise UserError(f"cannot create a small version of {path}: {_line(error)}") from error
    text, seeing = config.get_text_config(), config.model_type in FAMILIES
    if bare:
        if seeing:
            add_marks(config, tokenizer)
        text.vocab_size, text.eos_token_id = len(tokenizer), tokenizer.eos_token_id
        text.bos_token_id, text.pad_token_id = 0, 0
    if tied is not None:
        config.tie_word_embeddings = text.tie_word_embeddings = tied
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        try:
            model = auto_class(config).from_config(config, dtype=torch.float32)
        except (ValueError, TypeError, KeyError, RuntimeError) as error:
            raise UserError(f"cannot create a small version of {path}: {_line(error)}") from error
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    if seeing:
        save_processor(path, bare, config, folder)
    return folder


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def _set_layers(text: Any) -> None:
    name = next((name for name in _LAYERS if isinstance(getattr(text, name, None), int)), None)
    if name is None:
        return
    count: int = getattr(text, name)
    per_layer: dict[str, Any] = {key: vars(text).get(key) for key in _PER_LAYER}
    listed = {key: held for key, held in per_layer.items() if _lists(held, count)}
    kinds = [tuple(repr(held[n]) for held in listed.values()) for n in range(count)]
    first = {kind: n for n, kind in reversed(list(enumerate(kinds)))}
    kept = sorted(first.values())
    kept += [n for n in range(count) if n not in kept][: max(0, 2 - len(kept))]
    for key, held in listed.items():
        setattr(text, key, [held[n] for n in sorted(kept)])
    setattr(text, name, len(kept))


def _lists(value: Any, count: int) -> bool:
    return isinstance(value, list | tuple) and len(value) == count


def _heads(text: Any) -> tuple[int, int]:
    """Return the number of heads and of key heads, which share keys if the original model does."""
    heads = next((value for name in _HEADS if (value := getattr(text, name, None))), 2)
    keys = getattr(text, "num_key_value_heads", None) or heads
    if keys == heads:
        return 2, 2
    return (2, 1) if keys == 1 else (4, 2)


def _scale_rotary(text: Any, before: int) -> None:
    """Shorten the factors of a rotary embedding per pair of a head's values (LongRoPE), and its own width."""
    if isinstance(turned := getattr(text, "rotary_dim", None), int):
        text.rotary_dim = turned * _HEAD // before
    held = getattr(text, "rope_parameters", None) or getattr(text, "rope_scaling", None)
    if not isinstance(held, dict):
        return
    for name in ("short_factor", "long_factor"):
        if isinstance(factors := held.get(name), list):
            held[name] = factors[: math.ceil(len(factors) * _HEAD / before)]
