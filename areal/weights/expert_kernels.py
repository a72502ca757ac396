"""The kernels of experts, which vLLM recreates with each load, together with some of their tensors."""

from __future__ import annotations

from typing import Any

import torch

Made = list[tuple[Any, dict[str, Any]]]
"""Methods of layers, with the attributes that each has created from its layer's weights."""

_MADE = "moe_kernel", "moe_quant_config"


def forget_expert_kernels(model: torch.nn.Module) -> None:
    """Discard the experts' kernels, so that vLLM creates them again.

    On a CPU, a new kernel packs the weights. To an existing kernel, vLLM passes weights that are not packed,
    and the kernel would treat them as packed.
    """
    for module in model.modules():
        method: Any = getattr(module, "quant_method", None)
        if hasattr(method, "moe_kernel"):
            method.moe_kernel = None


def quantized_expert_kernels(model: torch.nn.Module) -> Made:
    """Return the kernels of experts that vLLM quantizes, so that they can be restored after a load.

    A load copies new weights and scales to the places of the old ones, which these kernels use. CUDA graphs
    also use the addresses of their other tensors, which would be lost with the kernels.
    """
    methods = [getattr(module, "quant_method", None) for module in model.modules()]
    return [
        (method, {name: getattr(method, name) for name in _MADE})
        for method in methods
        if getattr(method, "uses_meta_device", False) and hasattr(method, "moe_kernel")
    ]


def put_back(kernels: Made) -> None:
    """Restore the kernels of the methods."""
    for method, made in kernels:
        for name, value in made.items():
            setattr(method, name, value)
