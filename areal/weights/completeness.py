"""Checks that a load reaches all parameters of an engine and uses all tensors that were sent.

A loader ignores a name that it does not know, and a parameter without a tensor keeps its old value. In both
cases the engine would sample from a different policy than the learner's, without an error.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_SHOWN = 4
"""Maximum number of names in a message."""


class Reads(TorchDispatchMode):
    """Records which of the given tensors are read in the context, fully or partly, directly or through views.

    Attributes:
        unread: names of the tensors that were not read.
    """

    def __init__(self, tensors: Sequence[tuple[str, torch.Tensor]]) -> None:
        super().__init__()
        places = sorted((tensor.data_ptr(), name, tensor.nbytes) for name, tensor in tensors)
        self._starts = [start for start, _, _ in places]
        self._places = places
        self.unread = {name for name, tensor in tensors if tensor.numel()}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Make the call and record the tensors that it reads; creating a view reads nothing."""
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
    """Describe in one line what a load lacked; empty if it was complete.

    Args:
        unread: names of sent tensors that the engine did not use.
        unreceived: names of the engine's parameters for which nothing was sent.
        partial: names of its parameters or layers for which only a part was sent.
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
