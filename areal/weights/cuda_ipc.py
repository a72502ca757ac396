"""Weights to an engine on the learner's GPU, by CUDA IPC: they never leave the GPU's memory.

The engine loads from the learner's snapshot (areal.weights.snapshot). One small buffer used over and over
would save the memory of a whole one, but hold the learner still during each load, and the engine paused for
as long as the learner takes to fill it.

The snapshot lies in a few large allocations, which the engine's process maps once, when it is connected.
Torch counts who maps an allocation, to know when its memory may be freed: one export
(:meth:`CudaIpcSender.init_info`) must meet one mapping. vLLM's own ``ipc`` engine maps its handles at each
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
from areal.weights.interface import Receiver, Sender, TransferBackend
from areal.weights.layout import WeightLayout
from areal.weights.snapshot import Snapshot

BACKEND: TransferBackend = "CUDA IPC"


class CudaIpcSender(Sender):
    """The learner's end: lets an engine map the snapshot.

    Raises:
        UserError: torch is set to allocate memory in a way that cannot be shared.
    """

    def __init__(self, snapshot: Snapshot) -> None:
        _refuse_expandable_segments()
        self._snapshot = snapshot

    def init_info(self) -> dict[str, Any]:
        """Return what an engine needs once, to map the snapshot; each call is for exactly one connection."""
        return {
            "backend": BACKEND,
            "layout": self._snapshot.layout.to_dict(),
            "address": {
                "gpu": _uuid(self._snapshot.device),
                # A pickle, as torch sends tensors between processes; in hexadecimal, for vLLM's messages.
                "handles": [bytes(ForkingPickler.dumps(bucket)).hex() for bucket in self._snapshot.buckets],
            },
        }


class CudaIpcReceiver(Receiver):
    """The engine's end: maps the allocations of the learner's process on the same GPU.

    Raises:
        ValueError: they lie on another GPU.
    """

    def __init__(self, address: dict[str, Any], layout: WeightLayout, device: torch.device) -> None:
        if (ours := _uuid(device)) != address["gpu"]:
            raise ValueError(f"the weights are on the GPU {address['gpu']}, not on this engine's {ours}")
        # Pickled by the learner of this run.
        self.tensors = layout.views([pickle.loads(bytes.fromhex(handle)) for handle in address["handles"]])


def _uuid(device: torch.device) -> str:
    """Return the name that a GPU has in every process."""
    return str(torch.cuda.get_device_properties(device).uuid)


def _refuse_expandable_segments() -> None:
    for variable in ("PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF"):
        if "expandable_segments:true" in os.environ.get(variable, "").lower().replace(" ", ""):
            raise UserError(
                f"{variable} asks for expandable_segments, whose memory the engine cannot map; leave it out"
            )
