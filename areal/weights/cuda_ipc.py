"""Transfers weights to an engine on the learner's GPU by CUDA IPC; they never leave the GPU's memory.

The engine loads from the learner's snapshot (areal.weights.snapshot). A single small buffer would save the
memory of a full snapshot, but would block the learner during each load, and the engine while the learner
fills the buffer.

The snapshot consists of a few large allocations, which each worker of the engine maps once, when it is
connected. This includes a tensor-parallel worker on another GPU, which copies its part from there to its own
GPU. Torch counts the mappings of an allocation, to know when its memory may be freed, so one export
(:meth:`CudaIpcSender.init_info`) must correspond to one mapping. vLLM's own ``ipc`` engine maps its handles
at each update; with handles that are created once, as here, the count would become negative in vLLM 0.26.
"""

from __future__ import annotations

import os
import pickle
from typing import Any

import torch
from torch.multiprocessing.reductions import rebuild_cuda_tensor, reduce_tensor

from areal.errors import UserError
from areal.weights.interface import Receiver, Sender, TransferBackend
from areal.weights.layout import WeightLayout
from areal.weights.snapshot import Snapshot

BACKEND: TransferBackend = "CUDA IPC"
_DEVICE = 6
"""Argument of :func:`rebuild_cuda_tensor` with the number of the GPU, which differs between processes."""


class CudaIpcSender(Sender):
    """The learner's end: lets an engine map the snapshot.

    Raises:
        UserError: torch is configured to allocate memory in a way that cannot be shared.
    """

    def __init__(self, snapshot: Snapshot) -> None:
        _refuse_expandable_segments()
        self._snapshot = snapshot

    def init_info(self, workers: int = 1) -> dict[str, Any]:
        """Return the data with which an engine maps the snapshot once in each of its workers."""
        return {
            "backend": BACKEND,
            "layout": self._snapshot.layout.to_dict(),
            "address": {
                "gpu": _uuid(self._snapshot.device),
                # Pickles, as torch sends tensors between processes, in hexadecimal for vLLM's messages.
                "handles": [
                    [pickle.dumps(reduce_tensor(bucket)[1]).hex() for bucket in self._snapshot.buckets]
                    for _ in range(workers)
                ],
            },
        }


class CudaIpcReceiver(Receiver):
    """A worker's end: maps the allocations of the learner's process, on their own GPU.

    Raises:
        ValueError: this process does not see that GPU.
    """

    def __init__(
        self, address: dict[str, Any], layout: WeightLayout, device: torch.device, worker: int = 0
    ) -> None:
        seen = [_uuid(index) for index in range(torch.cuda.device_count())]
        if address["gpu"] not in seen:
            raise ValueError(f"the weights are on the GPU {address['gpu']}, the engine has {', '.join(seen)}")
        gpu, buckets = seen.index(address["gpu"]), []
        for handle in address["handles"][worker]:
            arguments = list(pickle.loads(bytes.fromhex(handle)))  # pickled by the learner of this run
            arguments[_DEVICE] = gpu
            buckets.append(rebuild_cuda_tensor(*arguments))
        self.tensors = layout.views(buckets)


def _uuid(device: torch.device | int) -> str:
    """Return the name of a GPU that is the same in every process."""
    return str(torch.cuda.get_device_properties(device).uuid)


def _refuse_expandable_segments() -> None:
    for variable in ("PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF"):
        if "expandable_segments:true" in os.environ.get(variable, "").lower().replace(" ", ""):
            raise UserError(
                f"{variable} sets expandable_segments, whose memory the engine cannot map; remove it"
            )
