"""The routers of a mixture of experts: how they spread tokens, and how they take an engine's choices over.

Engine and learner compute a router's scores with other kernels. Where two experts are nearly as good, a
rounding error decides, and all that follows is another network's. With replay (R3, arXiv 2510.11370) the
learner takes, of each token and in each layer, the experts that the engine took. Their weights it computes
from its own scores, so that gradients reach the router.

A router of transformers chooses by ``torch.topk`` over the scores of all experts, whatever it makes of them
before and after. That call is answered here, and so is one over groups of experts that comes before it.
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
"""What a layer calls its router, beside its ``experts``."""


class Routers:
    """The routers of a model, each with its number of experts.

    Args:
        model: a Hugging Face model, before it is sharded. Its routers' ``forward`` is replaced.

    Attributes:
        counting: whether what passes now counts for the metrics of the load.
        comparing: whether it counts, too, for how the engine's choices differ from the learner's.
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
        """Let the passes from now on choose as given: also what is computed again for a backward pass.

        Args:
            experts: ``[N, layers, k]`` of each token of a row, -1 where the router itself chooses; the layers
                are all of the model's, or those with experts. None: routers choose.

        Raises:
            UserError: these are not the choices of such a model.
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
        """How many experts a token was sent to by what counted last; 0: there are none, or it is not said."""
        return self._chosen

    def __len__(self) -> int:
        return len(self._layers)

    def clear(self) -> None:
        """Begin to count anew."""
        self._totals = [None] * len(self._totals)
        self._changed = []

    def metrics(self) -> dict[str, float]:
        """Return how evenly tokens were spread since the last :meth:`clear`; all ranks have to call this.

        Nothing where there are no routers, or none of them says what it chose.
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

        # In a compiled layer, too: a mode and a sum that is kept are none of its business.
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
        """Add the experts that tokens were sent to; a router says it by the only integers that it returns."""
        found = outputs if isinstance(outputs, tuple) else (outputs,)
        chosen = next((o for o in found if isinstance(o, torch.Tensor) and not o.is_floating_point()), None)
        if chosen is None:
            return
        self._chosen = chosen.shape[-1]
        if (total := self._totals[number]) is None:
            total = self._totals[number] = torch.zeros(experts, device=chosen.device, dtype=torch.float64)
        total.index_add_(0, chosen.flatten(), torch.ones_like(chosen.flatten(), dtype=torch.float64))


class _Answering(TorchFunctionMode):
    """Answers the call of ``topk`` that chooses experts; see :class:`Routers`."""

    def __init__(self, chosen: torch.Tensor, experts: int) -> None:
        super().__init__()
        self.answered = 0
        self._chosen, self._experts = chosen, experts
        self._own: torch.Tensor | None = None

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Make the call, and answer it otherwise if it is the one."""
        found = func(*args, **(kwargs or {}))
        if func not in (torch.topk, torch.Tensor.topk):
            return found
        scores = args[0] if args else (kwargs or {})["input"]
        if scores.ndim == 2 and scores.shape[1] == self._experts and found[0].shape == self._chosen.shape:
            self.answered += 1
            self._own = found[1]
            indices = torch.where(self._chosen < 0, self._own, self._chosen)
        elif scores.ndim == 2 and 1 < scores.shape[1] < self._experts:  # of groups of experts
            indices = self._groups(scores, found[1].shape[1])
        else:
            return found
        return torch.return_types.topk((scores.gather(1, indices), indices))

    def _groups(self, scores: torch.Tensor, count: int) -> torch.Tensor:
        """Choose the groups of the given experts, and the best of others to make it ``count``."""
        group = self._chosen.clamp(min=0) // (self._experts // scores.shape[1])
        wanted = torch.zeros_like(scores, dtype=torch.bool).scatter(1, group, self._chosen >= 0)
        return scores.detach().masked_fill(wanted, torch.inf).topk(count, dim=1).indices

    @torch.no_grad()
    def changed(self) -> torch.Tensor:
        """Return how many of the choices the router would not have made, and how many there are, ``[2]``."""
        assert self._own is not None
        same = (self._chosen[:, :, None] == self._own[:, None]).any(-1)
        given = self._chosen >= 0
        return torch.stack([(given & ~same).sum(), given.sum()]).double()


def _found(model: Any) -> Iterator[tuple[str, torch.nn.Module, int]]:
    """Yield path and router of each layer with experts, and how many there are."""
    for path, module in model.named_modules():
        parts = dict(module.named_children())
        router = next((parts[name] for name in _NAMES if name in parts), None)
        if router is not None and "experts" in parts:
            counts = {p.shape[0] for p in parts["experts"].parameters() if p.ndim == 3}
            yield from ((path, router, count) for count in counts)
