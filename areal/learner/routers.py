"""The routers of a mixture of experts: how they distribute tokens, and how they replay an engine's choices.

Engine and learner compute a router's scores with different kernels. If two experts have almost the same
score, a rounding error decides, and all later layers then belong to a different network. With replay (R3,
arXiv 2510.11370), the learner uses, for each token and in each layer, the experts that the engine chose. It
computes their weights from its own scores, so that gradients reach the router.

A router of transformers chooses with ``torch.topk`` over the scores of all experts, regardless of what it
does before and after. This module replaces the result of that call, and of an earlier call over groups of
experts.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from areal.errors import UserError
from areal.learner.ranks import all_gather_objects

_LAYER = re.compile(r"\.(\d+)\.")
_NAMES = ("gate", "router")
"""Names of a layer's router, which stands beside its ``experts``."""


class Routers:
    """The routers of a model, each with its number of experts.

    Args:
        model: a Hugging Face model, before it is sharded; the ``forward`` of its routers is replaced.

    Attributes:
        counting: whether the following passes count for the metrics of the load.
        comparing: whether they also count for the difference between the engine's and the learner's choices.
    """

    def __init__(self, model: Any) -> None:
        self.counting = self.comparing = False
        self._layers: list[int] = []
        self._totals: list[torch.Tensor | None] = []
        self._changed: list[torch.Tensor] = []
        self._replayed: torch.Tensor | None = None
        self._chosen = 0
        self._depth: int = getattr(model.config.get_text_config(), "num_hidden_layers", 0)
        for path, router, experts in _found(model):
            self._layers.append(int(_LAYER.findall(f"{path}.")[0]))
            self._totals.append(None)
            self._wrap(len(self._layers) - 1, router, experts)

    def replay(self, experts: torch.Tensor | None) -> None:
        """Replay the given choices in the following passes, including recomputation for a backward pass.

        Args:
            experts: ``[N, layers, k]``, the experts of each token of a row, -1 where the router itself
                chooses; layers are all layers of the model, or those with experts. None: the routers choose.

        Raises:
            UserError: the choices do not match the model.
        """
        if experts is not None and experts.shape[1] not in (self._depth, len(self._layers)):
            raise UserError(
                f"the engine returns the experts of {experts.shape[1]} layers, but the model has "
                f"{self._depth} layers, {len(self._layers)} of them with experts; set "
                "learner.router_replay=false"
            )
        self._replayed = experts

    @property
    def chosen(self) -> int:
        """Number of experts per token in the last pass that counted; 0: there are none, or it is unknown."""
        return self._chosen

    def __len__(self) -> int:
        return len(self._layers)

    def clear(self) -> None:
        """Reset the counts."""
        self._totals = [None] * len(self._totals)
        self._changed = []

    def metrics(self) -> dict[str, float]:
        """Return how evenly tokens were distributed since the last :meth:`clear`; every rank must call this.

        The result is empty if there are no routers, or if no router reports its choices.
        """
        if not self._layers:
            return {}
        own = [None if total is None else total.tolist() for total in self._totals]
        changed = torch.stack(self._changed).sum(0).tolist() if self._changed else [0.0, 0.0]
        ranks = all_gather_objects((own, changed))
        loads = []
        for layer in zip(*(totals for totals, _ in ranks), strict=True):
            counts = [count for count in layer if count is not None]
            if counts:
                loads.append([sum(of_expert) for of_expert in zip(*counts, strict=True)])
        if not loads:
            return {}
        metrics = {
            "router/load_max": max(max(load) * len(load) / sum(load) for load in loads),
            "router/idle": sum(load.count(0.0) for load in loads) / sum(map(len, loads)),
        }
        changes, choices = map(sum, zip(*(changed for _, changed in ranks), strict=True))
        return {**metrics, "router/changed": changes / choices} if choices else metrics

    def _wrap(self, number: int, router: torch.nn.Module, experts: int) -> None:
        forward = router.forward

        # Not compiled, even within a compiled layer, because it uses a mode and stores a sum.
        @torch.compiler.disable
        def forward_and_count(*inputs: Any, **keywords: Any) -> Any:
            chosen = self._choices(number)
            if chosen is None:
                outputs = forward(*inputs, **keywords)
            else:
                with _Answering(chosen, experts) as answering:
                    outputs = forward(*inputs, **keywords)
                if answering.answered != 1:
                    raise UserError(
                        f"learner.router_replay does not know how {type(router).__name__} chooses experts; "
                        "set it to false"
                    )
                if self.comparing:
                    self._changed.append(answering.changed())
            if self.counting:
                self._count(number, outputs, experts)
            return outputs

        router.forward = forward_and_count

    def _choices(self, number: int) -> torch.Tensor | None:
        if self._replayed is None:
            return None
        every_layer = self._replayed.shape[1] == self._depth
        return self._replayed[:, self._layers[number] if every_layer else number].long()

    @torch.no_grad()
    def _count(self, number: int, outputs: Any, experts: int) -> None:
        """Count the experts of the tokens, which are the only integers that a router returns."""
        found = outputs if isinstance(outputs, tuple) else (outputs,)
        chosen = next((o for o in found if isinstance(o, torch.Tensor) and not o.is_floating_point()), None)
        if chosen is None:
            return
        self._chosen = chosen.shape[-1]
        if (total := self._totals[number]) is None:
            total = self._totals[number] = torch.zeros(experts, device=chosen.device, dtype=torch.float64)
        total.index_add_(0, chosen.flatten(), torch.ones_like(chosen.flatten(), dtype=torch.float64))


class _Answering(TorchFunctionMode):
    """Replaces the result of the ``topk`` call that chooses experts; see :class:`Routers`."""

    def __init__(self, chosen: torch.Tensor, experts: int) -> None:
        super().__init__()
        self.answered = 0
        self._chosen, self._experts = chosen, experts
        self._own: torch.Tensor | None = None

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Make the call, and replace its result if it chooses experts."""
        found = func(*args, **(kwargs or {}))
        if func not in (torch.topk, torch.Tensor.topk):
            return found
        scores = args[0] if args else (kwargs or {})["input"]
        if scores.ndim == 2 and scores.shape[1] == self._experts and found[0].shape == self._chosen.shape:
            self.answered += 1
            self._own = found[1]
            indices = torch.where(self._chosen < 0, self._own, self._chosen)
        elif scores.ndim == 2 and 1 < scores.shape[1] < self._experts:  # a call over groups of experts
            indices = self._groups(scores, found[1].shape[1])
        else:
            return found
        return torch.return_types.topk((scores.gather(1, indices), indices))

    def _groups(self, scores: torch.Tensor, count: int) -> torch.Tensor:
        """Choose the groups of the given experts, and the best of the others up to ``count``."""
        group = self._chosen.clamp(min=0) // (self._experts // scores.shape[1])
        wanted = torch.zeros_like(scores, dtype=torch.bool).scatter(1, group, self._chosen >= 0)
        return scores.detach().masked_fill(wanted, torch.inf).topk(count, dim=1).indices

    @torch.no_grad()
    def changed(self) -> torch.Tensor:
        """Return how many choices differ from the router's own, and the number of choices, ``[2]``."""
        assert self._own is not None
        same = (self._chosen[:, :, None] == self._own[:, None]).any(-1)
        given = self._chosen >= 0
        return torch.stack([(given & ~same).sum(), given.sum()]).double()


def _found(model: Any) -> Iterator[tuple[str, torch.nn.Module, int]]:
    """Yield the path, the router and the number of experts of each layer with experts."""
    for path, module in model.named_modules():
        parts = dict(module.named_children())
        router = next((parts[name] for name in _NAMES if name in parts), None)
        if router is not None and "experts" in parts:
            counts = {p.shape[0] for p in parts["experts"].parameters() if p.ndim == 3}
            yield from ((path, router, count) for count in counts)
