"""Recipes: settings for models of a size on GPUs of a size, as YAML files beside this one.

areal's own defaults are for the model that ships with it, whose responses are short and whose weights are
few. A larger model gets those of a recipe, chosen by its parameters and the machine's GPUs
(areal.recipes.choice); what is given goes before it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from areal.errors import UserError, nearest

_FOLDER = Path(__file__).parent
NONE = "none"
"""The name that stands for areal's own defaults."""
_SMALL = 50e6
"""Parameters below which a model is like the one that ships with areal."""
_SIZES = {"0.5b": 1e9, "1.5b": 4e9, "7b": 10e9}
"""Sizes by which recipes are named, and the parameters up to which they are for a model."""


def names() -> list[str]:
    """Return the names of all recipes."""
    return sorted(file.stem for file in _FOLDER.glob("*.yaml"))


def about(name: str) -> str:
    """Return what a recipe says of itself."""
    lines = _file(name).read_text(encoding="utf-8").splitlines()
    return " ".join(line.removeprefix("#").strip() for line in lines if line.startswith("#"))


def read(name: str) -> dict[str, Any]:
    """Return the settings of a recipe; raises UserError if there is none of that name."""
    return yaml.safe_load(_file(name).read_text(encoding="utf-8"))


def _file(name: str) -> Path:
    if name not in names():
        raise UserError(
            f"the recipe '{name}' does not exist{nearest(name, names())} (known: {', '.join(names())}, "
            f"{NONE})"
        )
    return _FOLDER / f"{name}.yaml"


def choose(parameters: float, gpus: list[float]) -> str | None:
    """Return the name of the recipe for a model on a machine; None: areal's own defaults are right.

    Args:
        gpus: GiB of each GPU; none: a CPU, where memory is no question of the recipe.

    Raises:
        UserError: the model is larger than any recipe is for.
    """
    if parameters < _SMALL:
        return None
    size = next((name for name, limit in _SIZES.items() if parameters <= limit), None)
    if size is None:
        raise UserError(
            f"there is no recipe for a model of {parameters / 1000000000.0:.0f}B parameters; set "
            "recipe=none, and choose the settings yourself (`areal config` lists them)"
        )
    large = not gpus or min(gpus) >= 70
    if large and (len(gpus) >= 8 or (size == "7b" and not gpus)):
        return f"{size}-8x80gb"
    if size == "7b":
        return f"{size}-{'48gb' if min(gpus) >= 44 else '24gb'}"
    return f"{size}-{'80gb' if large else '24gb'}"


def parameters(config: dict[str, Any]) -> float:
    """Estimate the parameters of a language model from what its config.json says; 0 if that says too little.

    To within a tenth for the dense families: embeddings, attention, and a gated perceptron.
    """
    text = config.get("text_config") or config
    hidden = text.get("hidden_size") or text.get("n_embd") or 0
    layers = text.get("num_hidden_layers") or text.get("n_layer") or 0
    heads = text.get("num_attention_heads") or text.get("n_head") or 1
    width = text.get("head_dim") or hidden / heads
    keys = (text.get("num_key_value_heads") or heads) * width
    inner = text.get("intermediate_size") or text.get("n_inner") or 4 * hidden
    experts = text.get("num_local_experts") or text.get("num_experts") or text.get("n_routed_experts")
    if experts:
        inner = experts * (text.get("moe_intermediate_size") or inner)
    embeddings = (text.get("vocab_size") or 0) * hidden * (1 if text.get("tie_word_embeddings", True) else 2)
    return embeddings + layers * (2 * hidden * (heads * width + keys) + 3 * hidden * inner)
