"""Whether a load brought an engine all of its parameters, and took from all tensors that were sent.

A loader passes over a name that it does not know, and a parameter that nobody sends keeps its old value:
either way the engine would sample from another policy than the learner's, and nothing would say so.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_SHOWN = 4
"""Names that a message has, at most."""


class Reads(TorchDispatchMode):
    """Notes which of some tensors are read within, whole or in part, as they are or through views.

    Attributes:
        unread: the names of those that were not.
    """

    def __init__(self, tensors: Sequence[tuple[str, torch.Tensor]]) -> None:
        super().__init__()
        places = sorted((tensor.data_ptr(), name, tensor.nbytes) for name, tensor in tensors)
        self._starts = [start for start, _, _ in places]
        self._places = places
        self.unread = {name for name, tensor in tensors if tensor.numel()}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Make the call; one that only views reads nothing."""
        if not func.is_view:
            for value in tree_leaves((args, kwargs)):
                if isinstance(value, torch.Tensor) and not value.is_meta and value.numel():
                    self._record(value.data_ptr())
        return func(*args, **(kwargs or {}))

    def _record(self, address: int) -> None:
        place = bisect_right(self._starts, address) - 1
        if place >= 0:
            start, name, nbytes = self._places[place]
            if address < start + nbytes:
                self.unread.discard(name)


def complaint(unread: Iterable[str], unreceived: Iterable[str], partial: Iterable[str]) -> str:
    """Say in one line what a load lacked; nothing if it was complete.

    Args:
        unread: names of tensors that were sent, and of which the engine took nothing.
        unreceived: names of the engine's parameters that nothing was sent for.
        partial: names of its parameters or layers that only a part was sent for.
    """
    found = [
        f"the engine {what} {_names(names)}"
        for what, names in (
            ("does not recognize the learner's", sorted(unread)),
            ("receives nothing for its", sorted(unreceived)),
            ("does not receive all of its", sorted(partial)),
        )
        if names
    ]
    if not found:
        return ""
    return (
        f"{'; '.join(found)}: it would sample from another policy, so areal cannot train this model with it"
    )


def _names(names: list[str]) -> str:
    shown = ", ".join(names[:_SHOWN])
    return shown if len(names) <= _SHOWN else f"{shown} and {len(names) - _SHOWN} more"
