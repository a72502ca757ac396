"""The vLLM worker's end of the channels: a ``WeightTransferEngine`` of vLLM's own interface."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from vllm.distributed.weight_transfer.base import (
    WeightTransferEngine,
    WeightTransferInitInfo,
    WeightTransferUpdateInfo,
)
from vllm.model_executor.layers.attention import Attention
from vllm.model_executor.layers.linear import UnquantizedLinearMethod
from vllm.model_executor.layers.vocab_parallel_embedding import UnquantizedEmbeddingMethod
from vllm.model_executor.model_loader.reload import finalize_layerwise_reload, initialize_layerwise_reload

from areal.weights.broadcast import BroadcastSource
from areal.weights.channel import Way
from areal.weights.cuda_ipc import CudaIpcSource
from areal.weights.layout import Layout
from areal.weights.shared_memory import SharedMemorySource


class Source(Protocol):
    """Where the weights come from: the worker's end of one channel."""

    tensors: list[tuple[str, torch.Tensor]]

    def receive(self) -> None:
        """Make the tensors hold what the learner wrote."""
        ...

    def close(self) -> None:
        """Let go of all resources but the tensors' memory."""
        ...


_SOURCES: dict[Way, Callable[[dict[str, Any], Layout, torch.device], Source]] = {
    "shared memory": SharedMemorySource,
    "CUDA IPC": CudaIpcSource,
    "broadcast": BroadcastSource,
}


@dataclass
class Init(WeightTransferInitInfo):
    """How the weights travel, how they are laid out, and where they are (see the channel's ``init_info``)."""

    way: Way
    layout: dict[str, Any]
    place: dict[str, Any]


@dataclass
class Update(WeightTransferUpdateInfo):
    """Nothing: what is loaded is what the channel holds."""


class Receiver(WeightTransferEngine[Init, Update]):
    """Loads what the learner wrote, in checkpoint format."""

    init_info_cls = Init
    update_info_cls = Update
    _source: Source | None = None

    def init_transfer_engine(self, init_info: Init) -> None:
        """Let go of what an earlier channel shared, and open this end of the new one."""
        self.shutdown()
        layout = Layout.described(init_info.layout)
        self._source = _SOURCES[init_info.way](init_info.place, layout, self.device)

    def start_weight_update(self) -> None:
        """Make the layers take checkpoint tensors again, where their own were made into something else."""
        self._in_place = loads_in_place(self.model, self.device)
        if not self._in_place:
            initialize_layerwise_reload(self.model)

    def receive_weights(self, update_info: Update) -> None:
        """Load every tensor; vLLM waits for the device when this returns."""
        assert self._source is not None, "init_transfer_engine first"
        self._source.receive()
        model: Any = self.model
        model.load_weights(iter(self._source.tensors))

    def finish_weight_update(self) -> None:
        """Make of the checkpoint tensors what the kernels want, the tied output layer included."""
        if self._in_place:
            return
        finalize_layerwise_reload(self.model, self.model_config)
        self._repack_tied_head()
        torch.accelerator.synchronize()  # some of it is read from the channel's memory only now

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
        """Let go of the channel."""
        source, self._source = self._source, None
        if source is not None:
            source.close()

    @staticmethod
    def trainer_send_weights(iterator: Iterator[Any], trainer_args: Any) -> None:
        """Refuse: the learner writes by a channel of its own (vLLM 0.26 demands this method)."""
        raise TypeError("weights are written by areal.weights.channel")


def loads_in_place(model: torch.nn.Module, device: torch.device) -> bool:
    """Whether a checkpoint's tensors can be loaded into a running model as it stands.

    On a GPU, linear layers, embeddings and norms that are not quantised compute with just the tensors that
    the checkpoint's were copied to, a tied head with the embedding's, and attention derives nothing from
    weights: so they are copied there again, and CUDA graphs, which know addresses, see the new values. This
    takes one copy of each tensor. Whatever else there is (weights packed for a CPU, quantised layers,
    mixtures of experts, MLA) is loaded layer by layer and made anew, which is slower.
    """
    if device.type != "cuda":
        return False
    return all(_keeps_checkpoint_tensors(module) for module in model.modules())


def _keeps_checkpoint_tensors(module: torch.nn.Module) -> bool:
    # By exact type: a method that builds on these may pack weights after all.
    plain = (type(None), UnquantizedLinearMethod, UnquantizedEmbeddingMethod)
    if type(getattr(module, "quant_method", None)) not in plain:
        return False
    return type(module) is Attention or not hasattr(module, "process_weights_after_loading")
