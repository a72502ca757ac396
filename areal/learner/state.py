"""The state of a module and its optimizer by name, in the form of a checkpoint.

Tensors have names instead of positions, and are DTensors if the module is sharded. The same code therefore
serves one process and several, and m processes can load what n processes saved.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)

Tensors = dict[str, torch.Tensor]


def tensors_of(module: torch.nn.Module, optimizer: torch.optim.Optimizer, whole: bool = False) -> Tensors:
    """Return the trained weights, tied ones once, and the optimizer's state of each.

    They are the tensors themselves, not copies: ``weights.NAME`` and, after the first step,
    ``optimizer.NAME.KEY``.

    Args:
        whole: before the first step, create the optimizer's state, filled with zeros, so that a state can be
            loaded into it.
    """
    weights: dict[str, Any] = get_model_state_dict(
        module, options=StateDictOptions(ignore_frozen_params=True)
    )
    tied = {name for name, _ in module.named_parameters(remove_duplicate=False)}
    tied -= {name for name, _ in module.named_parameters()}
    found = {f"weights.{name}": tensor for name, tensor in weights.items() if name not in tied}
    if whole or optimizer.state:  # if there is no state, torch creates one and counts that as a step
        states: Any = get_optimizer_state_dict(module, optimizer)["state"]
        for name, state in states.items():
            found |= {f"optimizer.{name}.{key}": value for key, value in state.items()}
    return found


def load_tensors(module: torch.nn.Module, optimizer: torch.optim.Optimizer, found: Tensors) -> None:
    """Restore the result of :func:`tensors_of`: weights are copied, the optimizer adopts the given state.

    The optimizer keeps its own settings (decay, betas), which may have changed since.
    """
    state: dict[str, Any] = {}
    for path, tensor in below("optimizer.", found).items():
        name, _, key = path.rpartition(".")
        state.setdefault(name, {})[key] = tensor
    some = StateDictOptions(
        strict=False
    )  # a tied weight has one name here, and a weight without a gradient has no state
    if state:
        own = get_optimizer_state_dict(module, optimizer)
        own["state"] = state
        set_optimizer_state_dict(module, optimizer, own, options=some)
    else:
        optimizer.state.clear()
    weights: dict[str, Any] = dict(below("weights.", found))
    set_model_state_dict(module, weights, options=some)


def below(prefix: str, found: Tensors) -> Tensors:
    """Return the tensors whose names start with the prefix, without the prefix."""
    return {name.removeprefix(prefix): value for name, value in found.items() if name.startswith(prefix)}
