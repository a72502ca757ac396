"""The vLLM worker's end of the shared-memory channel: a ``WeightTransferEngine`` of vLLM's own interface."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from vllm.distributed.weight_transfer.base import (
    WeightTransferEngine,
    WeightTransferInitInfo,
    WeightTransferUpdateInfo,
)
from vllm.model_executor.model_loader.reload import finalize_layerwise_reload, initialize_layerwise_reload

from areal.weights.shared_memory import view


@dataclass
class SharedMemoryInit(WeightTransferInitInfo):
    """Where the memory is and how it is laid out (see ``SharedMemoryChannel.init_info``)."""

    path: str
    nbytes: int
    names: list[str]
    offsets: list[int]
    dtypes: list[str]
    shapes: list[list[int]]


@dataclass
class SharedMemoryUpdate(WeightTransferUpdateInfo):
    """Nothing: the memory holds the new weights when the update is asked for."""


class SharedMemoryReceiver(WeightTransferEngine[SharedMemoryInit, SharedMemoryUpdate]):
    """Loads what the learner wrote, in checkpoint format, by vLLM's layerwise reload."""

    init_info_cls = SharedMemoryInit
    update_info_cls = SharedMemoryUpdate

    def init_transfer_engine(self, init_info: SharedMemoryInit) -> None:
        """Map the memory."""
        memory = torch.from_file(init_info.path, shared=True, size=init_info.nbytes, dtype=torch.uint8)
        self._tensors = [
            (name, view(memory, offset, getattr(torch, dtype), shape))
            for name, offset, dtype, shape in zip(
                init_info.names, init_info.offsets, init_info.dtypes, init_info.shapes, strict=True
            )
        ]

    def start_weight_update(self) -> None:
        """Make the layers take checkpoint tensors again: their own may have been repacked for the CPU."""
        initialize_layerwise_reload(self.model)

    def receive_weights(self, update_info: SharedMemoryUpdate) -> None:
        """Load every tensor from the mapped memory."""
        model: Any = self.model
        model.load_weights(iter(self._tensors))

    def finish_weight_update(self) -> None:
        """Repack the layers for their kernels, the tied output layer included."""
        finalize_layerwise_reload(self.model, self.model_config)
        self._repack_tied_head()

    def _repack_tied_head(self) -> None:
        """Rebuild the packed copy of a tied ``lm_head``.

        A tied head shares its weight with the embedding, so the layerwise reload never sees it as loaded;
        on a CPU its kernel holds a packed copy, which would silently keep the old weights.
        """
        if self.device.type != "cpu" or not getattr(
            self.model_config.hf_config, "tie_word_embeddings", False
        ):
            return
        from vllm.model_executor.layers.utils import dispatch_cpu_unquantized_gemm

        model: Any = self.model
        dispatch_cpu_unquantized_gemm(model.lm_head, remove_weight=False)

    def shutdown(self) -> None:
        """Unmap the memory."""
        self._tensors = []

    @staticmethod
    def trainer_send_weights(iterator: Iterator[Any], trainer_args: Any) -> None:
        """Refuse: the learner writes by ``SharedMemoryChannel`` (vLLM 0.26 demands this method)."""
        raise TypeError("weights in shared memory are written by areal.weights.shared_memory")
