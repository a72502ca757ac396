"""Which recipe a run gets: the one that was named, or the one for its model and the machine."""

from __future__ import annotations

from typing import Any

from areal import recipes
from areal.config import STARTER
from areal.models import resolve_model
from areal.models.loading import model_config
from areal.placement.inventory import Inventory, probe

_LENGTHS = ("max_new_tokens", "max_model_len")
_MACHINE = {
    "rollout": ("max_concurrent",),
    "learner": ("processes", "activation_checkpointing", "micro_batch_tokens"),
}
"""What recipes say for the sake of GPUs, by groups; and all of the group engine."""


def recipe_for(
    data: dict[str, Any], training: bool = True, inventory: Inventory | None = None
) -> dict[str, Any]:
    """Return the settings of the recipe for a run, its name among them; none for a model like areal's own.

    Args:
        data: what was given, nested.
        training: whether there is a learner; of an evaluation only the lengths are the recipe's.
        inventory: the hosts and devices there are; None: this machine's.

    Raises:
        UserError: there is no such recipe, or none for this model on this machine.
    """
    name, model = data.get("recipe"), str(data.get("model", STARTER))
    if name == recipes.NONE or (name is None and (model == STARTER or "://" in model)):
        return {}
    described = {} if "://" in model else model_config(resolve_model(model, weights=False))
    if name is not None:
        found = recipes.read(str(name))
        return _fitting(found if training else _only_lengths(found), described)
    parameters = recipes.parameters(described)
    if not training:
        # Of any machine: the lengths are the same.
        name = recipes.choose(min(parameters, 7e9), [])
        return _fitting(_only_lengths(recipes.read(name)), described) if name else {}
    inventory = inventory or probe(str(data.get("device", "auto")))
    gpus = [device.nbytes / 2**30 for device in inventory.devices]
    if (name := recipes.choose(parameters, gpus)) is None:
        return {}
    found = recipes.read(name)
    return {"recipe": name, **_fitting(found if gpus else _without_machine(found), described)}


def _only_lengths(recipe: dict[str, Any]) -> dict[str, Any]:
    return {"rollout": {key: value for key, value in recipe.get("rollout", {}).items() if key in _LENGTHS}}


def _without_machine(recipe: dict[str, Any]) -> dict[str, Any]:
    return {
        group: {key: value for key, value in settings.items() if key not in _MACHINE.get(group, ())}
        if isinstance(settings, dict)
        else settings
        for group, settings in recipe.items()
        if group != "engine"
    }


def _fitting(recipe: dict[str, Any], described: dict[str, Any]) -> dict[str, Any]:
    """Shorten what is longer than the model is made for."""
    text = described.get("text_config") or described
    limit, rollout = text.get("max_position_embeddings"), dict(recipe["rollout"])
    if limit and limit < rollout["max_model_len"]:
        rollout["max_model_len"] = limit
        rollout["max_new_tokens"] = min(rollout["max_new_tokens"], max(1, limit // 2))
    return {**recipe, "rollout": rollout}
