"""A module with its float32 master weights, its gradients and its optimizer: everything that updates change.

Guarantee: between passes, all trained weights and every gradient are float32, on one rank and on several. A
pass computes with bfloat16 roundings, or with FSDP2's gathered layers. They are gone when it ends, even with
an error, so no other code can read, save, send or train rounded weights. An adapter's factors are float32 in
passes, too; only the merged weight of base and factors is rounded (areal.learner.merged_linear).

On several ranks this is FSDP2's mixed precision (areal.learner.parallelize). One rank has nothing to gather;
without FSDP's hooks and copies, the host finishes sooner, and a fast GPU waits for the host.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.distributed.fsdp import FSDPModule

from areal.config import LearnerConfig
from areal.learner.parallelize import compute_dtype, full, parallelize
from areal.learner.ranks import world_size
from areal.learner.state import Tensors, load_tensors, tensors_of


class TrainableModule:
    """A module that computes in the learner's type, and an AdamW that updates its float32 weights.

    Args:
        module: a module around a Hugging Face model, in float32; it is moved to the device.
        named: the part of the module whose parameter names :meth:`state` uses; None: the whole module.
        rounded: whether passes compute with rounded weights; if not, the weights already have their types.
    """

    def __init__(
        self,
        module: torch.nn.Module,
        settings: LearnerConfig,
        device: torch.device,
        named: torch.nn.Module | None = None,
        rounded: bool = True,
    ) -> None:
        parallelize(module, settings, device, rounded)
        self._module, self._named = module, named or module
        self._parameters = list(module.parameters())
        self._shards = [part for part in module.modules() if isinstance(part, FSDPModule)]
        exchanges = rounded and world_size() == 1
        self._dtype = compute_dtype(settings, device) if exchanges else torch.float32
        self._rounded: list[torch.Tensor] = []
        self._rounded_at: list[int] = []
        self._optimizer = _adamw(self._parameters, settings)
        self._grad_clip = settings.grad_clip

    def __call__(self, *inputs: Any) -> Any:
        """Return the module's outputs, without gradients."""
        with torch.no_grad(), self._computing():
            return self._module(*inputs)

    def accumulate(self, loss_of: Callable[[Any], torch.Tensor], *inputs: Any) -> Any:
        """Add the gradients of ``loss_of(outputs)`` to those of earlier passes; return the outputs.

        The sums are float32. They include the gradients of all ranks, so every rank must call this.
        """
        with self._computing():
            outputs = self._module(*inputs)
            loss_of(outputs).backward()
        return outputs

    def step(self, learning_rate: float, version: int) -> float:
        """Clip the gradients, make one optimizer step, and drop them; return their norm before clipping.

        Args:
            version: number of finished updates, for an error message.

        Raises:
            FloatingPointError: a gradient is not finite.
        """
        self._rounded = []  # no longer needed, and memory is tightest here
        norm = full(torch.nn.utils.clip_grad_norm_(self._parameters, self._grad_clip))
        if not torch.isfinite(norm):
            raise FloatingPointError(
                f"the gradient is not finite at version {version}; lower learner.learning_rate"
            )
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate
        self._optimizer.step()
        self.zero_grad()
        return float(norm)

    def zero_grad(self) -> None:
        """Drop the gradients, and the rounded weights that are kept from pass to pass."""
        self._rounded = []
        self._optimizer.zero_grad(set_to_none=True)

    def state(self, whole: bool = False) -> Tensors:
        """Return weights and optimizer state by name, as :func:`areal.learner.state.tensors_of` does."""
        return tensors_of(self._named, self._optimizer, whole)

    def load_state(self, state: Tensors) -> None:
        """Restore what :meth:`state` returned."""
        load_tensors(self._named, self._optimizer, state)

    @contextmanager
    def _computing(self) -> Iterator[None]:
        """Let the module compute in its type in the context; afterwards weights and gradients are float32."""
        if self._shards:
            try:
                yield
            finally:
                for shard in self._shards:
                    shard.reshard()
        elif self._dtype == torch.float32:
            yield
        else:
            weights, gradients = self._exchange()
            try:
                yield
            finally:
                self._restore(weights, gradients)

    @torch.no_grad()
    def _exchange(self) -> tuple[list[torch.Tensor], list[torch.Tensor | None]]:
        """Replace the parameters by rounded weights; return the float32 weights and gradients.

        They are rounded once for all passes until a weight changes.
        """
        weights, gradients = [p.data for p in self._parameters], [p.grad for p in self._parameters]
        versions = [p._version for p in self._parameters]
        if not self._rounded or versions != self._rounded_at:
            self._rounded = [torch.empty_like(weight, dtype=self._dtype) for weight in weights]
            torch._foreach_copy_(self._rounded, weights)
            self._rounded_at = versions
        for parameter, rounded in zip(self._parameters, self._rounded, strict=True):
            parameter.grad = None
            parameter.data = rounded
        return weights, gradients

    @torch.no_grad()
    def _restore(self, weights: list[torch.Tensor], gradients: list[torch.Tensor | None]) -> None:
        """Restore the parameters' float32 weights, and their gradients plus those of this pass."""
        totals, added = [], []
        for parameter, weight, total in zip(self._parameters, weights, gradients, strict=True):
            gradient, parameter.grad = parameter.grad, None
            parameter.data = weight
            if total is None:
                parameter.grad = None if gradient is None else gradient.float()
                continue
            parameter.grad = total
            if gradient is not None:
                totals.append(total)
                added.append(gradient)
        if added:
            torch._foreach_add_(totals, added)


def _adamw(parameters: list[torch.nn.Parameter], settings: LearnerConfig) -> torch.optim.Optimizer:
    """AdamW with weight decay on matrices only, because norms and biases need none."""
    trained = [p for p in parameters if p.requires_grad]
    groups: list[dict[str, Any]] = [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": settings.weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    return torch.optim.AdamW(groups, lr=settings.learning_rate, betas=settings.betas, fused=True)
