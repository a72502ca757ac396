"""The kernels of experts, which vLLM makes anew with each load, and with them some tensors of their own."""

from __future__ import annotations

from typing import Any

import torch

Made = list[tuple[Any, dict[str, Any]]]
"""Methods of layers, and what each has made of its layer's weights."""

_MADE = "moe_kernel", "moe_quant_config"


def forget_expert_kernels(model: torch.nn.Module) -> None:
    """Let the experts' kernels be made anew.

    On a CPU a kernel that is made packs the weights; one that is there already, vLLM hands weights that are
    not packed, and it would take them for packed ones.
    """
    for module in model.modules():
        method: Any = getattr(module, "quant_method", None)
        if hasattr(method, "moe_kernel"):
            method.moe_kernel = None


def quantised_expert_kernels(model: torch.nn.Module) -> Made:
    """Return the kernels of experts that vLLM quantises, to be put back after a load.

    A load copies new weights and scales to where the old ones were, which these kernels know. CUDA graphs
    know the addresses of other tensors of theirs, too, which would go with them.
    """
    methods = [getattr(module, "quant_method", None) for module in model.modules()]
    return [
        (method, {name: getattr(method, name) for name in _MADE})
        for method in methods
        if getattr(method, "uses_meta_device", False) and hasattr(method, "moe_kernel")
    ]


def put_back(kernels: Made) -> None:
    """Let methods have the kernels that they had."""
    for method, made in kernels:
        for name, value in made.items():
            setattr(method, name, value)
