"""Weights to an engine on the same card, by CUDA IPC: they never leave the card's memory.

The engine loads from the learner's snapshot (areal.weights.snapshot). One small buffer used over and over
would save the memory of a whole one, but hold the learner still during each load, and the engine paused for
as long as the learner takes to fill it.

The snapshot lies in a few large allocations, which the engine's process maps once, when it is connected.
Torch counts who maps an allocation, to know when its memory may be freed: one export
(:meth:`CudaIpcChannel.init_info`) must meet one mapping. vLLM's own ``ipc`` engine maps its handles at each
update; with handles that are made once, as here, the count in vLLM 0.26 would run below zero.
"""

from __future__ import annotations

import os
import pickle
from multiprocessing.reduction import ForkingPickler
from typing import Any

import torch
import torch.multiprocessing  # teaches ForkingPickler to send a tensor of a GPU as a handle

from areal.errors import UserError
from areal.weights.channel import Way
from areal.weights.layout import Layout
from areal.weights.snapshot import Snapshot

WAY: Way = "CUDA IPC"


class CudaIpcChannel:
    """The learner's end: lets an engine map the snapshot.

    Raises:
        UserError: torch is set to allocate memory in a way that cannot be shared.
    """

    def __init__(self, snapshot: Snapshot) -> None:
        _refuse_expandable_segments()
        self._snapshot = snapshot

    def init_info(self) -> dict[str, Any]:
        """What an engine needs once, to map the snapshot; each call is for exactly one connection."""
        return {
            "way": WAY,
            "layout": self._snapshot.layout.describe(),
            "place": {
                "card": card(self._snapshot.device),
                # A pickle, as torch sends tensors between processes; in hexadecimal, for vLLM's messages.
                "handles": [bytes(ForkingPickler.dumps(bucket)).hex() for bucket in self._snapshot.buckets],
            },
        }

    def send(self) -> None:
        """Nothing: the engine reads the snapshot."""

    def close(self) -> None:
        """Nothing: the snapshot's memory is free when the learner and the engine have let go of it."""


class CudaIpcSource:
    """The engine's end: maps the allocations of the learner's process on the same card.

    Raises:
        ValueError: they lie on another card.
    """

    def __init__(self, place: dict[str, Any], layout: Layout, device: torch.device) -> None:
        if card(device) != place["card"]:
            raise ValueError(f"the weights are on {place['card']}, not on this engine's {card(device)}")
        # Pickled by the learner of this run.
        self.tensors = layout.views([pickle.loads(bytes.fromhex(handle)) for handle in place["handles"]])

    def receive(self) -> None:
        """Nothing: what the learner wrote is there."""

    def close(self) -> None:
        """Nothing: the mapping goes with this object."""


def card(device: torch.device) -> str:
    """Return the name that a card has in every process."""
    return str(torch.cuda.get_device_properties(device).uuid)


def _refuse_expandable_segments() -> None:
    for variable in ("PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF"):
        if "expandable_segments:true" in os.environ.get(variable, "").lower().replace(" ", ""):
            raise UserError(
                f"{variable} asks for expandable_segments, whose memory the engine cannot map; leave it out"
            )
