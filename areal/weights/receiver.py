"""The weight receiver in a vLLM worker: a ``WeightTransferEngine`` of vLLM's own interface.

A transfer fails when something else that takes part in it is lost. The engine lives then, and loads the same
version, or a later one, over a new connection. So nothing is raised for that. Where one of several workers
raises, vLLM leaves the answers of the others unread, and takes them for those of the next call; and a worker
that has begun an update, and not finished it, refuses to begin another. Each worker therefore finishes the
update with the weights that it had, and says what went wrong when it is asked (areal.rollout.vllm_worker).
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
from areal.weights.expert_kernels import Made, forget_expert_kernels, put_back, quantised_expert_kernels
from areal.weights.gpt_oss import one_by_one, takes_experts_one_by_one
from areal.weights.interface import Receiver, TransferBackend
from areal.weights.layout import WeightLayout
from areal.weights.shared_memory import SharedMemoryReceiver

log = logging.getLogger(__name__)

Own = tuple[list[str], torch.nn.Parameter]
"""A parameter of the engine's and its names, of which a tied one has several."""

_RECEIVERS: dict[TransferBackend, Callable[[dict[str, Any], WeightLayout, torch.device, int], Receiver]] = {
    "shared memory": SharedMemoryReceiver,
    "CUDA IPC": CudaIpcReceiver,
    "broadcast": BroadcastReceiver,
}


@dataclass
class Init(WeightTransferInitInfo):
    """How the weights travel, how they are laid out, and where they are (see ``Sender.init_info``)."""

    backend: TransferBackend
    layout: dict[str, Any]
    address: dict[str, Any]


_OF_THIS_GPU = torch.OutOfMemoryError, torch.AcceleratorError
"""Errors that are this engine's own."""


@dataclass
class Update(WeightTransferUpdateInfo):
    """Nothing: what is loaded is what the learner wrote last."""


class WeightReceiver(WeightTransferEngine[Init, Update]):
    """Loads what the learner wrote, in checkpoint format."""

    init_info_cls = Init
    update_info_cls = Update
    failure = ""
    """Why the last connection or transfer failed; empty: it did not."""
    digest = ""
    """Of the weights that came last (areal.weights.digest)."""
    _receiver: Receiver | None = None
    _checked = False
    _own: list[Own]
    _kernels: Made

    def init_transfer_engine(self, init_info: Init) -> None:
        """Release what an earlier sender shared, and open this end of the new one."""
        self.shutdown()
        self._checked = False  # it may bring other weights
        layout = WeightLayout.from_dict(init_info.layout)
        worker = get_tensor_model_parallel_rank()
        with self._noting_failure():
            self._receiver = _RECEIVERS[init_info.backend](init_info.address, layout, self.device, worker)

    def start_weight_update(self) -> None:
        """Make the layers take checkpoint tensors again, where their own were made into something else."""
        self._in_place = loads_in_place(self.model, self.device)
        if not self._checked:
            self._own = own_parameters(self.model.named_modules())
        if not self._in_place:
            give_up(self.model.modules())  # what a load that failed may have left
            if self.device.type == "cpu":
                forget_expert_kernels(self.model)
            self._kernels = quantised_expert_kernels(self.model)
            initialize_layerwise_reload(self.model)
            load_in_place(filter(is_plain, self.model.modules()))

    def receive_weights(self, update_info: Update) -> None:
        """Load every tensor; vLLM waits for the device when this returns.

        Raises:
            ValueError: the first time, if that was not all that the engine has, or more than it knows.
        """
        assert self._receiver is not None, "init_transfer_engine first"
        with self._noting_failure():
            self._receiver.receive()
        if self.failure:
            self.shutdown()  # vLLM waits for the GPU next, on which the broadcast goes on until it is ended
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
        if loaded is not None:  # a few models of vLLM's do not say
            unreceived = {names[0] for names, _ in self._own if loaded.isdisjoint(reported_names(names))}
        # Weights that came as NaN leave what the check looks for: the next load is checked, too.
        unclear = any(tensor.isnan().any() for _, tensor in self._receiver.tensors)
        partial = partly_loaded(model) | (set() if unclear else poisoned(in_place))
        partial -= {name.rpartition(".")[0] for name in unreceived} | unreceived
        if lacks := complaint(reads.unread, unreceived, partial):
            raise ValueError(lacks)
        self._checked = not unclear

    def finish_weight_update(self) -> None:
        """Make of the checkpoint tensors what the kernels want, the tied output layer included."""
        if self._in_place:
            return
        if self.failure:
            give_up(self.model.modules())
            return
        finalize_layerwise_reload(self.model, self.model_config)
        put_back(self._kernels)
        if self.device.type == "cpu":
            repack_tied(self.model)
        torch.accelerator.synchronize()  # some of it is read from the learner's memory only now

    @contextmanager
    def _noting_failure(self) -> Iterator[None]:
        """Take note of what fails within for a reason that lies elsewhere."""
        self.failure = ""
        try:
            yield
        except _OF_THIS_GPU:
            raise
        except (RuntimeError, TimeoutError) as error:  # torch's errors of a group and of a store are these
            log.warning("a weight transfer failed", exc_info=True)
            self.failure = str(error) or type(error).__name__

    def shutdown(self) -> None:
        """Close the receiver."""
        receiver, self._receiver = self._receiver, None
        if receiver is not None:
            receiver.close()

    @staticmethod
    def trainer_send_weights(iterator: Iterator[Any], trainer_args: Any) -> None:
        """Refuse: the learner has a sender of its own (vLLM 0.26 demands this method)."""
        raise TypeError("areal.weights.sender sends the weights")


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


def load_in_place(layers: Iterable[torch.nn.Module]) -> None:
    """Take layers out of a layerwise reload: into these a model may write past the loaders of parameters."""
    parameter: Any
    for layer in layers:
        give_up([layer])
        for parameter in layer.parameters(recurse=False):  # a bias is wrapped where it is
            parameter.weight_loader = _get_original_loader(parameter)


def is_plain(module: torch.nn.Module) -> bool:
    """Whether a module computes with just what a checkpoint has for it, as norms do."""
    return getattr(module, "quant_method", None) is None and not hasattr(
        module, "process_weights_after_loading"
    )


def own_parameters(modules: Iterable[tuple[str, torch.nn.Module]]) -> list[Own]:
    """Return the parameters of modules that a checkpoint fills, with all names of each.

    Those of attention are none: scales of a KV cache, and what latent attention makes of other weights. Nor
    are scales that vLLM made as it quantised a layer: the layer was built without.
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
    """Return the names by which a load may tell of a parameter: vLLM 0.26 leaves out a part of experts'."""
    return {*names, *(name.replace(".routed_experts.", ".") for name in names)}


def partly_loaded(model: torch.nn.Module) -> set[str]:
    """Return the layers of a layerwise reload, before its end, that not all elements came for.

    None come where a model writes into its parameters itself, past their loaders: into what is not there.

    What is left of an embedding may be rows that make its size even: its loader fills them itself.
    """
    found = set()
    for path, layer in model.named_modules():
        info = get_layerwise_info(layer)
        if not info.can_load() or isinstance(layer, (Attention, MLAAttention, VocabParallelEmbedding)):
            continue
        own = [p for p in layer.parameters(recurse=False) if not isinstance(p, UninitializedParameter)]
        # What vLLM adds to make a size even is in no checkpoint; since 0.32 it says how much is.
        if info.load_numel < sum(getattr(p, "weight_loader_numel", p.numel()) for p in own):
            found.add(path)
    return found


def give_up(layers: Iterable[torch.nn.Module]) -> None:
    """End a layerwise reload where it is: layers that still waited for something have their old weights."""
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
    """Return the names of parameters that have kept a NaN."""
    return {names[0] for names, parameter in own if parameter.data.isnan().any()}


def repack_tied(model: torch.nn.Module) -> None:
    """Rebuild what CPU kernels hold of embeddings and heads that share one weight.

    The layerwise reload sees the weight loaded for one of them only: the packed copy of the other would
    silently keep the old weights.
    """
    sharing: dict[int, list[Any]] = {}
    modules: list[Any] = [m for m in model.modules() if isinstance(m, VocabParallelEmbedding)]
    for module in modules:
        if hasattr(module, "cpu_linear"):
            sharing.setdefault(module.weight.data_ptr(), []).append(module)
    for alike in sharing.values():
        for module in alike if len(alike) > 1 else ():
            dispatch_cpu_unquantized_gemm(module, remove_weight=False)
