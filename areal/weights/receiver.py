"""The vLLM worker's end of the channels: ``WeightTransferEngine``s of vLLM's own interface."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

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

from areal.weights.cuda_ipc import card
from areal.weights.layout import Layout

Init = TypeVar("Init", bound=WeightTransferInitInfo)


@dataclass
class Update(WeightTransferUpdateInfo):
    """Nothing: the memory holds the new weights when the update is asked for."""


class Receiver(WeightTransferEngine[Init, Update]):
    """Loads what the learner wrote, in checkpoint format, from memory that was mapped once."""

    update_info_cls = Update
    _tensors: list[tuple[str, torch.Tensor]]

    def start_weight_update(self) -> None:
        """Make the layers take checkpoint tensors again, where their own were made into something else."""
        self._in_place = loads_in_place(self.model, self.device)
        if not self._in_place:
            initialize_layerwise_reload(self.model)

    def receive_weights(self, update_info: Update) -> None:
        """Load every tensor from the mapped memory; vLLM waits for the device when this returns."""
        model: Any = self.model
        model.load_weights(iter(self._tensors))

    def finish_weight_update(self) -> None:
        """Make of the checkpoint tensors what the kernels want, the tied output layer included."""
        if self._in_place:
            return
        finalize_layerwise_reload(self.model, self.model_config)
        self._repack_tied_head()
        torch.accelerator.synchronize()  # some of it is read from the mapped memory only now

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


@dataclass
class SharedMemoryInit(WeightTransferInitInfo):
    """Where the memory is and how it is laid out (see ``SharedMemoryChannel.init_info``)."""

    path: str
    nbytes: int
    layout: dict[str, Any]


class SharedMemoryReceiver(Receiver[SharedMemoryInit]):
    """Maps a file of the host's memory."""

    init_info_cls = SharedMemoryInit

    def init_transfer_engine(self, init_info: SharedMemoryInit) -> None:
        """Map the memory."""
        memory = torch.from_file(init_info.path, shared=True, size=init_info.nbytes, dtype=torch.uint8)
        self._tensors = Layout.described(init_info.layout).views([memory])


@dataclass
class CudaIpcInit(WeightTransferInitInfo):
    """The card, its memory, and how it is laid out (see ``CudaIpcChannel.init_info``)."""

    card: str
    handles: list[str]
    layout: dict[str, Any]


class CudaIpcReceiver(Receiver[CudaIpcInit]):
    """Maps allocations that another process made on the same card."""

    init_info_cls = CudaIpcInit

    def init_transfer_engine(self, init_info: CudaIpcInit) -> None:
        """Let go of what an earlier channel shared, and map the snapshot.

        Raises:
            ValueError: it lies on another card.
        """
        self._tensors = []
        if card(self.device) != init_info.card:
            raise ValueError(f"the weights are on {init_info.card}, not on this engine's {card(self.device)}")
        # Pickled by the process that started this one (areal.weights.cuda_ipc).
        buckets = [pickle.loads(bytes.fromhex(handle)) for handle in init_info.handles]
        self._tensors = Layout.described(init_info.layout).views(buckets)
