"""Weights to an engine on the same card, by CUDA IPC: they never leave the card's memory.

The learner keeps a whole snapshot of its parameters on the card, in the engine's type: 2 bytes for each
parameter in bfloat16. That is the price for neither side waiting for the other: to publish a version is one
copy from memory to memory on the card, and while the engine loads from the snapshot, the learner's own
parameters may change. One small buffer used over and over would save the memory, but hold the learner still
during each load, and the engine paused for as long as the learner takes to fill it.

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
from areal.weights.layout import BUCKET, Layout, Named

WAY: Way = "CUDA IPC"


class CudaIpcChannel:
    """The learner's end: holds the snapshot and writes each new version into it."""

    def __init__(self, parameters: Named, dtype: torch.dtype) -> None:
        """Allocate a snapshot of ``(name, tensor)`` pairs, all of them in ``dtype``, on the current card.

        Raises:
            UserError: torch is set to allocate memory in a way that cannot be shared.
        """
        _refuse_expandable_segments()
        torch.cuda.ipc_collect()  # frees what an earlier channel held, if its engine has let go of it
        self._layout = Layout.of(parameters, BUCKET, dtype)
        self._buckets = [torch.empty(size, dtype=torch.uint8, device="cuda") for size in self._layout.sizes]
        self.nbytes = sum(self._layout.sizes)

    def init_info(self) -> dict[str, Any]:
        """What an engine needs once, to map the snapshot; each call is for exactly one connection."""
        return {
            "way": WAY,
            "layout": self._layout.describe(),
            "place": {
                "card": card(torch.device("cuda", torch.cuda.current_device())),
                # A pickle, as torch sends tensors between processes; in hexadecimal, for vLLM's messages.
                "handles": [bytes(ForkingPickler.dumps(bucket)).hex() for bucket in self._buckets],
            },
        }

    def write(self, parameters: Named) -> None:
        """Copy the current values in, and return when they are there; no engine may be loading meanwhile.

        Raises:
            ValueError: the parameters are not the ones that the channel was laid out for.
        """
        self._layout.write(parameters, self._buckets)
        torch.cuda.synchronize()  # the engine's stream knows nothing of ours

    def send(self) -> None:
        """Nothing: the engine reads the snapshot."""

    def close(self) -> None:
        """Let go of the snapshot; its memory is free when the engine has let go of it, too."""
        self._buckets = []
        torch.cuda.ipc_collect()


class CudaIpcSource:
    """The engine's end: maps the allocations of the learner's process on the same card.

    Raises:
        ValueError: they lie on another card.
    """

    def __init__(self, place: dict[str, Any], layout: Layout, device: torch.device) -> None:
        if card(device) != place["card"]:
            raise ValueError(f"the weights are on {place['card']}, not on this engine's {card(device)}")
        # Pickled by the process that started this one.
        self.tensors = layout.views([pickle.loads(bytes.fromhex(handle)) for handle in place["handles"]])

    def receive(self) -> None:
        """Nothing: what the learner wrote is there."""


def card(device: torch.device) -> str:
    """Return the name that a card has in every process."""
    return str(torch.cuda.get_device_properties(device).uuid)


def _refuse_expandable_segments() -> None:
    for variable in ("PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF"):
        if "expandable_segments:true" in os.environ.get(variable, "").lower().replace(" ", ""):
            raise UserError(
                f"{variable} asks for expandable_segments, whose memory the engine cannot map; leave it out"
            )
