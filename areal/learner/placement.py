"""Where the learner's modules are, in which precision, and how their layers run.

In float32 on a CPU a module stays as it is. In bfloat16, which is the default on a GPU, it is sharded by
FSDP2 over all ranks, of which there may be one: each rank keeps its part of the float32 weights, which the
optimizer moves, and of the optimizer's float32 state; layer by layer the weights are gathered in bfloat16,
computed with, and dropped. Gradients are summed over the ranks in float32.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.utils.checkpoint import checkpoint

from areal.config import LearnerConfig
from areal.learner.ranks import join, ranks

_GPU_MICRO_BATCH, _CPU_MICRO_BATCH = 16384, 4096


def compute_dtype(settings: LearnerConfig, device: torch.device) -> torch.dtype:
    """Return the type that the model computes in; its weights are kept in float32 in any case."""
    if settings.dtype == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    return torch.bfloat16 if settings.dtype == "bfloat16" else torch.float32


def uses_varlen(settings: LearnerConfig, device: torch.device) -> bool:
    """Whether attention has kernels of variable length: those know 16 bits on a GPU only."""
    return device.type == "cuda" and compute_dtype(settings, device) == torch.bfloat16


def micro_batch_tokens(settings: LearnerConfig, device: torch.device) -> int:
    """Return the token budget of a micro-batch: enough to keep the device busy."""
    if settings.micro_batch_tokens is not None:
        return settings.micro_batch_tokens
    return _GPU_MICRO_BATCH if device.type == "cuda" else _CPU_MICRO_BATCH


def place(module: torch.nn.Module, model: Any, settings: LearnerConfig, device: torch.device) -> None:
    """Bring a module to its device and precision, and set how its layers run.

    Args:
        module: what is called: the whole of which ``model`` is the part with the layers.
        model: a Hugging Face model.
        settings: dtype, recompute and compile count.
        device: where to.
    """
    module.to(device)
    layers = decoder_layers(model)
    if settings.compile if settings.compile is not None else device.type == "cuda":
        for layer in layers:
            layer.forward = torch.compile(layer.forward, dynamic=True)
    if settings.recompute:
        for layer in layers:
            layer.forward = functools.partial(checkpoint, layer.forward, use_reentrant=False)
    dtype = compute_dtype(settings, device)
    if dtype == torch.float32 and ranks() == 1:
        return
    mesh = learner_mesh(device)
    policy = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32)
    # One rank has nothing to gather: cast all at once, since hooks at each layer cost more than they save.
    for layer in layers if mesh.size() > 1 else ():
        fully_shard(layer, mesh=mesh, mp_policy=policy)
    root: FSDPModule = fully_shard(module, mesh=mesh, mp_policy=policy)
    if mesh.size() > 1:
        # Shares of the loss are of the whole minibatch: gradients are summed, not averaged.
        for part in root.modules():  # type: ignore[attr-defined]
            if isinstance(part, FSDPModule):
                part.set_gradient_divide_factor(1.0)
                part.set_force_sum_reduction_for_comms(True)  # gloo has no other


def expect_more(module: torch.nn.Module, more: bool) -> None:
    """Say whether another backward pass follows the next one before the optimizer moves the weights.

    On one rank the weights then stay in bfloat16 and the gradients stay, in float32, where they are; on
    several that would take the memory that sharding saves.
    """
    if isinstance(module, FSDPModule) and ranks() == 1:
        module.set_requires_gradient_sync(not more)
        module.set_reshard_after_backward(not more)


def let_go(module: torch.nn.Module) -> None:
    """Drop the bfloat16 weights that a pass without a backward pass leaves in place of the others."""
    for part in module.modules():
        if isinstance(part, FSDPModule):
            part.reshard()


def decoder_layers(model: Any) -> list[torch.nn.Module]:
    """Return the repeated layers of a Hugging Face model, as it names them itself."""
    names = set(model._no_split_modules or ())
    # A class that FSDP has made of it has another name, but not other ancestors.
    return [m for m in model.modules() if names & {ancestor.__name__ for ancestor in type(m).__mro__}]


def learner_mesh(device: torch.device) -> DeviceMesh:
    """Return the mesh of all ranks; a lone process becomes the only rank."""
    if not dist.is_initialized():
        join(device.type, dist.HashStore(), 0, 1)
    return init_device_mesh(device.type, (dist.get_world_size(),))


def full(tensor: torch.Tensor) -> torch.Tensor:
    """Return all of a tensor that may be sharded; every rank has to ask for it."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
