"""The weight receiver in a vLLM worker: a ``WeightTransferEngine`` of vLLM's own interface.

A transfer fails if another member is lost. The engine survives, and loads the same version or a later one
over a new connection. The receiver therefore raises nothing in this case. If one of several workers raised,
vLLM would leave the answers of the others unread and take them for those of the next call. A worker with an
unfinished update would also refuse to begin another. Instead, each worker finishes the update with its
previous weights, and reports the failure on request (areal.rollout.vllm_worker).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.parameter import UninitializedParameter
from vllm.distributed.parallel_state import get_tensor_model_parallel_rank
from vllm.distributed.weight_transfer.base import (
    WeightTransferEngine,
    WeightTransferInitInfo,
    WeightTransferUpdateInfo,
)
from vllm.model_executor.layers.attention import Attention, MLAAttention
from vllm.model_executor.layers.linear import UnquantizedLinearMethod
from vllm.model_executor.layers.utils import dispatch_cpu_unquantized_gemm
from vllm.model_executor.layers.vocab_parallel_embedding import (
    UnquantizedEmbeddingMethod,
    VocabParallelEmbedding,
)
from vllm.model_executor.model_loader.reload import finalize_layerwise_reload, initialize_layerwise_reload
from vllm.model_executor.model_loader.reload.layerwise import (
    _get_original_loader,
    _place_kernel_tensors,
    get_layerwise_info,
)
from vllm.model_executor.model_loader.reload.meta import SKIP_TENSORS

from areal.factors import merged
from areal.weights.broadcast import BroadcastReceiver
from areal.weights.completeness import Reads, complaint
from areal.weights.cuda_ipc import CudaIpcReceiver
from areal.weights.digest import digest
from areal.weights.expert_kernels import Made, forget_expert_kernels, put_back, quantized_expert_kernels
from areal.weights.gpt_oss import one_by_one, takes_experts_one_by_one
from areal.weights.interface import Receiver, TransferBackend
from areal.weights.layout import WeightLayout
from areal.weights.shared_memory import SharedMemoryReceiver

log = logging.getLogger(__name__)

Own = tuple[list[str], torch.nn.Parameter]
"""A parameter of the engine and its names; a tied parameter has several."""

_RECEIVERS: dict[TransferBackend, Callable[[dict[str, Any], WeightLayout, torch.device, int], Receiver]] = {
    "shared memory": SharedMemoryReceiver,
    "CUDA IPC": CudaIpcReceiver,
    "broadcast": BroadcastReceiver,
}


@dataclass
class Init(WeightTransferInitInfo):
    """The backend of the weights, their layout, and their address (see ``Sender.init_info``)."""

    backend: TransferBackend
    layout: dict[str, Any]
    address: dict[str, Any]


_OF_THIS_GPU = torch.OutOfMemoryError, torch.AcceleratorError
"""Errors of this engine itself."""


@dataclass
class Update(WeightTransferUpdateInfo):
    """Empty, because an update loads what the learner wrote last."""


class WeightReceiver(WeightTransferEngine[Init, Update]):
    """Loads the learner's weights, in checkpoint format."""

    init_info_cls = Init
    update_info_cls = Update
    failure = ""
    """Why the last connection or transfer failed; empty if it succeeded."""
    digest = ""
    """Digest of the latest weights (areal.weights.digest)."""
    _receiver: Receiver | None = None
    _checked = False
    _own: list[Own]
    _kernels: Made

    def init_transfer_engine(self, init_info: Init) -> None:
        """Release the memory of an earlier sender, and open this end of the new one."""
        self.shutdown()
        self._checked = False  # the new sender may send other weights
        layout = WeightLayout.from_dict(init_info.layout)
        worker = get_tensor_model_parallel_rank()
        with self._noting_failure():
            self._receiver = _RECEIVERS[init_info.backend](init_info.address, layout, self.device, worker)

    def start_weight_update(self) -> None:
        """Let the layers accept checkpoint tensors again, if their own tensors have been converted."""
        self._in_place = loads_in_place(self.model, self.device)
        if not self._checked:
            self._own = own_parameters(self.model.named_modules())
        if not self._in_place:
            give_up(self.model.modules())  # the rest of a failed load
            if self.device.type == "cpu":
                forget_expert_kernels(self.model)
            self._kernels = quantized_expert_kernels(self.model)
            initialize_layerwise_reload(self.model)
            load_in_place(filter(is_plain, self.model.modules()))

    def receive_weights(self, update_info: Update) -> None:
        """Load every tensor; vLLM waits for the device when this returns.

        Raises:
            ValueError: on the first load, if tensors are missing or unknown to the engine.
        """
        assert self._receiver is not None, "init_transfer_engine first"
        with self._noting_failure():
            self._receiver.receive()
        if self.failure:
            self.shutdown()  # vLLM next waits for the GPU, where the broadcast would otherwise continue
            return
        self.digest = digest(self._receiver.tensors)
        model: Any = self.model
        weights = merged(self._receiver.tensors)
        if takes_experts_one_by_one(model):
            weights = one_by_one(weights)
        if self._checked:
            model.load_weights(weights)
            return
        in_place = own_parameters(m for m in model.named_modules() if not get_layerwise_info(m[1]).can_load())
        poison(in_place)
        with Reads(self._receiver.tensors) as reads:
            loaded = model.load_weights(weights)
        unreceived = set[str]()
        if loaded is not None:  # a few models of vLLM do not return the names
            unreceived = {names[0] for names, _ in self._own if loaded.isdisjoint(reported_names(names))}
        # The check looks for NaN, so after weights that contain NaN, the next load is checked again.
        unclear = any(tensor.isnan().any() for _, tensor in self._receiver.tensors)
        partial = partly_loaded(model) | (set() if unclear else poisoned(in_place))
        partial -= {name.rpartition(".")[0] for name in unreceived} | unreceived
        if lacks := complaint(reads.unread, unreceived, partial):
            raise ValueError(lacks)
        self._checked = not unclear

    def finish_weight_update(self) -> None:
        """Convert the checkpoint tensors to the form of the kernels, including the tied output layer."""
        if self._in_place:
            return
        if self.failure:
            give_up(self.model.modules())
            return
        finalize_layerwise_reload(self.model, self.model_config)
        put_back(self._kernels)
        if self.device.type == "cpu":
            repack_tied(self.model)
        torch.accelerator.synchronize()  # some tensors are read from the learner's memory only now

    @contextmanager
    def _noting_failure(self) -> Iterator[None]:
        """Record a failure in the context if its cause lies outside this engine."""
        self.failure = ""
        try:
            yield
        except _OF_THIS_GPU:
            raise
        except (RuntimeError, TimeoutError) as error:  # the types of torch's errors of groups and stores
            log.warning("a weight transfer failed", exc_info=True)
            self.failure = str(error) or type(error).__name__

    def shutdown(self) -> None:
        """Close the receiver."""
        receiver, self._receiver = self._receiver, None
        if receiver is not None:
            receiver.close()

    @staticmethod
    def trainer_send_weights(iterator: Iterator[Any], trainer_args: Any) -> None:
        """Raise an error: the learner has its own sender (vLLM 0.26 requires this method)."""
        raise TypeError("areal.weights.sender sends the weights")


def loads_in_place(model: torch.nn.Module, device: torch.device) -> bool:
    """Return whether a checkpoint's tensors can be loaded into a running model without conversion.

    On a GPU, linear layers, embeddings and norms that are not quantized compute with exactly the tensors of
    the checkpoint, a tied head with the embedding's. Attention derives nothing from weights. The tensors are
    therefore copied in place, and CUDA graphs, which store addresses, see the new values. This takes one copy
    of each tensor. All other modules (weights packed for a CPU, quantized layers, mixtures of experts, MLA)
    are loaded layer by layer and converted again, which is slower.
    """
    if device.type != "cuda":
        return False
    return all(_keeps_checkpoint_tensors(module) for module in model.modules())


def _keeps_checkpoint_tensors(module: torch.nn.Module) -> bool:
    # The exact type, because a method that inherits from these may pack weights.
    plain = (type(None), UnquantizedLinearMethod, UnquantizedEmbeddingMethod)
    if type(getattr(module, "quant_method", None)) not in plain:
        return False
    return type(module) is Attention or not hasattr(module, "process_weights_after_loading")


def load_in_place(layers: Iterable[torch.nn.Module]) -> None:
    """Exclude layers from a layerwise reload; a model may write into them without the parameters' loaders."""
    parameter: Any
    for layer in layers:
        give_up([layer])
        for parameter in layer.parameters(recurse=False):  # a bias is wrapped in place
            parameter.weight_loader = _get_original_loader(parameter)


def is_plain(module: torch.nn.Module) -> bool:
    """Return whether a module computes with exactly the tensors of a checkpoint, as norms do."""
    return getattr(module, "quant_method", None) is None and not hasattr(
        module, "process_weights_after_loading"
    )


def own_parameters(modules: Iterable[tuple[str, torch.nn.Module]]) -> list[Own]:
    """Return the parameters of modules that a checkpoint fills, with all names of each.

    The parameters of attention are excluded: scales of a KV cache, and values that latent attention derives
    from other weights. So are scales that vLLM created when it quantized a layer, because the layer was built
    without them.
    """
    found: dict[int, Own] = {}
    for path, module in modules:
        if isinstance(module, (Attention, MLAAttention)):
            continue
        built = SKIP_TENSORS.union(*get_layerwise_info(module).restore_metadata)
        for name, parameter in module.named_parameters(prefix=path, recurse=False):
            if name.rpartition(".")[2] not in built:
                continue
            found.setdefault(id(parameter), ([], parameter))[0].append(name)
    return list(found.values())


def reported_names(names: list[str]) -> set[str]:
    """Return the possible names of a parameter in a load's result; vLLM 0.26 omits a part for experts."""
    return {*names, *(name.replace(".routed_experts.", ".") for name in names)}


def partly_loaded(model: torch.nn.Module) -> set[str]:
    """Return the layers of a layerwise reload that have not received all elements before its end.

    A layer has received none if the model writes into its parameters itself, without their loaders, and so
    into tensors that do not exist.

    Embeddings are excluded: the missing elements may be padding rows, which their loader fills itself.
    """
    found = set()
    for path, layer in model.named_modules():
        info = get_layerwise_info(layer)
        if not info.can_load() or isinstance(layer, (Attention, MLAAttention, VocabParallelEmbedding)):
            continue
        own = [p for p in layer.parameters(recurse=False) if not isinstance(p, UninitializedParameter)]
        # No checkpoint contains the padding that vLLM adds; since 0.32 vLLM reports its size.
        if info.load_numel < sum(getattr(p, "weight_loader_numel", p.numel()) for p in own):
            found.add(path)
    return found


def give_up(layers: Iterable[torch.nn.Module]) -> None:
    """End a layerwise reload in its current state; layers that are incomplete keep their old weights."""
    for layer in layers:
        info = get_layerwise_info(layer)
        if info.can_load() and info.kernel_tensors is not None:
            _place_kernel_tensors(layer, info)
        info.reset()


@torch.no_grad()
def poison(own: list[Own]) -> None:
    """Make all parameters NaN."""
    for _, parameter in own:
        parameter.data.fill_(torch.nan)


@torch.no_grad()
def poisoned(own: list[Own]) -> set[str]:
    """Return the names of parameters that still contain a NaN."""
    return {names[0] for names, parameter in own if parameter.data.isnan().any()}


def repack_tied(model: torch.nn.Module) -> None:
    """Rebuild the packed weights of CPU kernels for embeddings and heads that share one weight.

    The layerwise reload loads the weight for only one of them, so the packed copy of the other would silently
    keep the old weights.
    """
    sharing: dict[int, list[Any]] = {}
    modules: list[Any] = [m for m in model.modules() if isinstance(m, VocabParallelEmbedding)]
    for module in modules:
        if hasattr(module, "cpu_linear"):
            sharing.setdefault(module.weight.data_ptr(), []).append(module)
    for alike in sharing.values():
        for module in alike if len(alike) > 1 else ():
            dispatch_cpu_unquantized_gemm(module, remove_weight=False)
