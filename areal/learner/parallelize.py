"""The learner's compute type, the sharding of a module over several ranks, and how its layers run.

One rank has the whole module. Several ranks shard it with FSDP2: each stores its part of the float32 weights,
which the optimizer updates, and of the optimizer's float32 state. Layer by layer, the weights are gathered in
the compute type (bfloat16 on a GPU), used, and dropped. Gradients are summed in float32.

With R replicas (HSDP) there are R copies of the module, each sharded over consecutive ranks. Weights are
gathered within a replica, and each rank's part of the gradients is summed with those of the other replicas.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.utils.checkpoint import checkpoint

from areal.config import LearnerConfig
from areal.learner.ranks import world_size
from areal.step_sizes import MICRO_BATCH

_CPU_MICRO_BATCH = 4096


def compute_dtype(settings: LearnerConfig, device: torch.device) -> torch.dtype:
    """Return the compute type of the model; its trained weights are float32 in any case."""
    if settings.dtype == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    return torch.bfloat16 if settings.dtype == "bfloat16" else torch.float32


def uses_varlen(settings: LearnerConfig, device: torch.device) -> bool:
    """Return whether attention uses kernels of variable length, which only support 16 bits on a GPU."""
    return device.type == "cuda" and compute_dtype(settings, device) == torch.bfloat16


def compiles(settings: LearnerConfig, device: torch.device) -> bool:
    """Return whether the layers are compiled."""
    return device.type == "cuda" if settings.compile is None else settings.compile


def micro_batch_tokens(settings: LearnerConfig, device: torch.device) -> int:
    """Return the token budget of a micro-batch, which keeps the device busy."""
    if settings.micro_batch_tokens is not None:
        return settings.micro_batch_tokens
    return MICRO_BATCH if device.type == "cuda" else _CPU_MICRO_BATCH


def parallelize(
    module: torch.nn.Module, settings: LearnerConfig, device: torch.device, rounded: bool = True
) -> None:
    """Move a module to its device, shard it if there are several ranks, and configure its layers.

    Args:
        module: a Hugging Face model, or a module that contains one.
        settings: only dtype, replicas, activation_checkpointing and compile are used.
        rounded: whether weights are gathered in the compute type; otherwise they are gathered in their own.
    """
    module.to(device)
    layers = decoder_layers(module)
    if compiles(settings, device):
        for layer in layers:
            layer.forward = torch.compile(layer.forward, dynamic=True)
    if settings.activation_checkpointing:
        for layer in layers:
            layer.forward = functools.partial(checkpoint, layer.forward, use_reentrant=False)
    if world_size() > 1:
        dtype = compute_dtype(settings, device) if rounded else None
        _shard(module, layers, dtype, _mesh(settings.replicas, device))


def _mesh(replicas: int, device: torch.device) -> DeviceMesh:
    """Return the ranks in the form of FSDP2; those of each replica are consecutive."""
    if replicas == 1:
        return init_device_mesh(device.type, (world_size(),), mesh_dim_names=("shard",))
    shape = (replicas, world_size() // replicas)
    return init_device_mesh(device.type, shape, mesh_dim_names=("replicate", "shard"))


def _shard(
    module: torch.nn.Module, layers: list[torch.nn.Module], dtype: torch.dtype | None, mesh: DeviceMesh
) -> None:
    policy = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32)
    for layer in layers:
        fully_shard(layer, mesh=mesh, mp_policy=policy)
    root: FSDPModule = fully_shard(module, mesh=mesh, mp_policy=policy)
    # The loss shares refer to the whole minibatch, so gradients are summed over all ranks, not averaged.
    for part in root.modules():  # type: ignore[attr-defined]
        if isinstance(part, FSDPModule):
            part.set_gradient_divide_factor(1.0)
            part.set_force_sum_reduction_for_comms(True)  # gloo supports no other reduction


def decoder_layers(module: torch.nn.Module) -> list[torch.nn.Module]:
    """Return the repeated layers of a Hugging Face model, or of one within a module, by the model's own list.

    The layers of a vision tower, which is frozen, are not among them.
    """
    model: Any = next(m for m in module.modules() if hasattr(m, "_no_split_modules"))
    names = set(model._no_split_modules or ())
    # FSDP gives a class another name, but the same ancestors.
    return [
        layer
        for path, layer in model.named_modules()
        if names & {ancestor.__name__ for ancestor in type(layer).__mro__} and "visual" not in path.split(".")
    ]


def full(tensor: torch.Tensor) -> torch.Tensor:
    """Return the whole of a tensor that may be sharded; every rank must call this."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
