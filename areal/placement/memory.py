"""How the memory of a GPU is divided between the learner, an engine and its KV cache.

Each part is estimated from the shape of the model and the settings; the KV cache gets what it can use of what
is left. In bytes:

- learner: per parameter 4 (master weight) + 4 (gradient) + 8 (AdamW's moments) + 2 + 2 (weight and gradient
  in bfloat16, on one rank of the whole model: areal.learner.trainable) + the snapshot from which the engine
  loads (areal.weights.cuda_ipc); for a critic the same without a snapshot; for the frozen reference of
  ``learner.kl`` 4 + 2. Several ranks divide what is in float32 by how many they are in each replica. Of what
  they gather in bfloat16, layer by layer, there are at once the embeddings and three layers (one is computed
  with, the next is on its way, the gradients of the last are): 2 + 2 + 4 bytes (weight, gradient, its float32
  sum). Then what one micro-batch keeps for its backward pass, a chunk of logits, and the gradient of the
  output layer. Below an adapter a parameter is frozen: 2 bytes, or 0.516 in 4 bits (areal.nf4), which on one
  rank are the snapshot, too; the adapter's own parameters take 4 + 4 + 8, and one merged weight is made at a
  time (areal.learner.merged_linear);
- engine: its weights (in FP8 one byte for each parameter but those of the embeddings), the tensors of its
  largest forward pass, the sampler's, and CUDA graphs;
- what CUDA itself takes in each of the two processes.

An engine that is not on the first rank's GPU also has a snapshot (areal.weights.broadcast). A tensor-parallel
engine has a part of its weights and of its cache on each of its GPUs, but a whole snapshot, and merges an
adapter into whole weights, one after the other. Engines that share a GPU have each all of this, and what is
left is divided among their caches. A process that maps memory of the first rank's GPU has a context there. A
tenth of a GPU is left alone: these are estimates, and allocators leave gaps.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from areal.errors import UserError
from areal.models.sight import auto_class
from areal.nf4 import BYTES as NF4
from areal.placement.inventory import Device
from areal.step_sizes import BATCHED_TOKENS, LOGITS_AT_ONCE

GIB = 2**30
_RESERVE = 0.1
_CONTEXT = 0.6 * GIB
_GRAPHS = 1.5 * GIB
_STATE = 4 + 4 + 8
_COMPUTED = 2 + 2
_SUMMED = 4
"""A gradient on its way to the other ranks."""
_LAYERS_GATHERED = 3
_SUM = 4
"""A weight with an adapter's change, in float32 (areal.factors)."""
_LOGITS = 2 * 4
"""Two float32 tensors of as many logits as the learner makes at once."""
_HEAD = 4 + 2
"""The output layer's gradient, in float32 and in bfloat16."""
_SAMPLER = 5 * 4
"""Five float32 tensors: logits, with temperature, their softmax, its logarithm, and noise."""
_BLOCK = 16
"""Tokens of one block of the KV cache."""
_FEWEST = 8
"""Longest sequences that must fit into the KV cache at once for a run to make sense."""


@dataclass(frozen=True, slots=True)
class Shape:
    """The sizes of a causal language model that memory depends on.

    Attributes:
        query, key: of all heads.
        whole: whether engines are sent whole weights though an adapter is trained, as transformers has them
            in another form than checkpoints.
    """

    parameters: int
    layers: int
    hidden: int
    intermediate: int
    query: int
    key: int
    vocab: int
    whole: bool = False

    @classmethod
    def of(cls, config: Any) -> Shape:
        """Read them off a transformers configuration, parameters by building the model without memory."""
        import torch

        with torch.device("meta"):
            model = auto_class(config).from_config(config)
        text = config.get_text_config()
        heads = text.num_attention_heads
        width = getattr(text, "head_dim", None) or text.hidden_size // heads
        return cls(
            parameters=sum(p.numel() for p in model.parameters()),
            layers=text.num_hidden_layers,
            hidden=text.hidden_size,
            intermediate=getattr(text, "intermediate_size", None) or 4 * text.hidden_size,
            query=heads * width,
            key=(getattr(text, "num_key_value_heads", None) or heads) * width,
            vocab=text.vocab_size,
            whole=hasattr(config, "vision_config") or any(p.ndim == 3 for p in model.parameters()),
        )

    @property
    def linear(self) -> int:
        """Parameters of the linear layers, those that adapters change, about."""
        return min(self.parameters, self.layers * self.of_layer)

    @property
    def of_layer(self) -> int:
        """Parameters of a layer."""
        return 2 * self.hidden * (self.query + self.key) + 3 * self.hidden * self.intermediate

    def adapter(self, rank: int) -> int:
        """Return the parameters of an adapter of all linear layers."""
        attention = 2 * (self.hidden + self.query) + 2 * (self.hidden + self.key)
        return rank * self.layers * (attention + 3 * (self.hidden + self.intermediate))


@dataclass(frozen=True, slots=True)
class Workload:
    """What a run asks of its GPUs.

    Attributes:
        sequences: in flight at once in one engine.
        longest: tokens of the longest sequence.
        engine_bytes: of one number in the engine.
        quantised: whether its weights are in FP8.
        graphs: whether the engine captures CUDA graphs.
        micro_batch_tokens: of the learner; None: there is no learner.
        critic: whether the objective has one.
        reference: whether a frozen reference is held.
        learner_bytes: of one number that the learner computes with.
        activation_checkpointing: whether the learner keeps only each layer's input for its backward pass.
        compiled: whether its layers are.
        adapter: rank of the adapter that it trains; 0: it trains all weights.
        nf4: whether the weights below the adapter are held in 4 bits.
        shared: whether engines' weights have the type that those are held in, or are made of the same parts.
        ranks: processes of the learner.
        replicas: copies of its state, each sharded over ``ranks / replicas`` of them.
        tensor_parallel: GPUs of one engine.
    """

    sequences: int
    longest: int
    engine_bytes: int = 2
    quantised: bool = False
    graphs: bool = True
    micro_batch_tokens: int | None = None
    critic: bool = False
    reference: bool = False
    learner_bytes: int = 2
    activation_checkpointing: bool = False
    compiled: bool = True
    adapter: int = 0
    nf4: bool = False
    shared: bool = True
    ranks: int = 1
    replicas: int = 1
    tensor_parallel: int = 1


@dataclass(frozen=True, slots=True)
class DeviceMemory:
    """How the bytes of a GPU are divided.

    Attributes:
        learner: bytes of the learner's rank on it; 0: there is none.
        engine: bytes of an engine on it, without its KV cache; 0: there is none.
        cache: bytes of the KV cache of an engine.
        cache_tokens: tokens that this KV cache holds.
        engines: that share the GPU.
        whole: whether their caches hold all sequences at their longest.
    """

    device: Device
    learner: int = 0
    engine: int = 0
    cache: int = 0
    cache_tokens: int = 0
    engines: int = 1
    whole: bool = True

    @property
    def free(self) -> int:
        """Bytes that are left, the reserve included."""
        return self.device.nbytes - self.learner - self.engines * (self.engine + self.cache)

    @property
    def learner_share(self) -> float:
        """Share of the GPU that PyTorch may take in the learner's process: all of it where no engine is.

        It keeps more than it needs as long as it finds some. Engines get half of what is free.
        """
        if not self.engine:
            return 1.0
        return (self.learner - _CONTEXT + self.free / 2) / self.device.nbytes

    def __str__(self) -> str:
        """The parts, for the terminal, in GiB."""
        learner = f"learner {self.learner / GIB:.1f}, " if self.learner else ""
        times = f"{self.engines} × " if self.engines > 1 else ""
        cache = f"KV cache {times}{self.cache / GIB:.1f} ({self.cache_tokens:,} tokens)"
        engine = f"engine {times}{self.engine / GIB:.1f}, {cache}, " if self.engine else ""
        return f"{self.device.nbytes / GIB:.1f} GiB: {learner}{engine}free {self.free / GIB:.1f}"


def divide(
    device: Device,
    shape: Shape,
    work: Workload,
    learner: bool,
    engines: int,
    snapshot: bool = False,
    mapping: int = 0,
) -> DeviceMemory:
    """Divide a GPU: KV caches get what is left, up to what all sequences at their longest fill.

    Args:
        learner: whether a rank of the learner is on it.
        engines: how many are.
        snapshot: whether an engine keeps a snapshot of the weights.
        mapping: processes of engines that map the learner's memory on it, beside those that have the GPU.

    Raises:
        UserError: not even a few sequences fit.
    """
    ours = (learner_bytes(shape, work) if learner else 0) + int(mapping * _CONTEXT)
    usable = int(device.nbytes * (1 - _RESERVE))
    if not engines:
        if ours > usable:
            raise UserError(
                f"the learner needs {ours / GIB:.1f} of the {device.nbytes / GIB:.1f} GiB of its GPU, a "
                f"tenth of which is reserved; {_remedies(work)}"
            )
        return DeviceMemory(device, ours)
    theirs = engine_bytes(shape, work, snapshot)
    token = 2 * shape.layers * shape.key * work.engine_bytes // work.tensor_parallel
    sequence = -(-work.longest // _BLOCK) * _BLOCK * token
    left = (usable - ours) // engines - theirs
    # One block more than all sequences fill: vLLM keeps one for itself.
    useful = work.sequences * sequence + _BLOCK * token
    least = min(work.sequences, _FEWEST) * sequence + _BLOCK * token
    if left < least:
        missing = engines * (least - left)
        raise UserError(_too_small(device, ours, engines * theirs, engines * least, missing, work))
    cache = min(left, useful)
    tokens = cache // (_BLOCK * token) * _BLOCK
    return DeviceMemory(device, ours, theirs, cache, tokens, engines, whole=left >= useful)


def learner_bytes(shape: Shape, work: Workload) -> int:
    """Bytes that the learner takes at its most, the snapshot for the engine included."""
    if work.micro_batch_tokens is None:
        return 0
    weights = _below_adapter(shape, work) if work.adapter else _trained(shape, work)
    weights += (_STATE + _COMPUTED) * shape.parameters * work.critic
    # A sequence that is longer than a micro-batch makes one by itself.
    tokens = max(work.micro_batch_tokens, work.longest)
    kept = tokens * _kept_for_backward(shape, work)
    logits = _LOGITS * min(LOGITS_AT_ONCE, tokens * shape.vocab)
    trains_head = not work.adapter or work.critic
    return int(weights + kept + logits + _HEAD * shape.vocab * shape.hidden * trains_head + _CONTEXT)


def _trained(shape: Shape, work: Workload) -> float:
    """Bytes of weights that are all trained, and of a reference beside them."""
    held, computed = _STATE + 4 * work.reference, _COMPUTED + 2 * work.reference
    weights = shape.parameters * held * work.replicas / work.ranks + _sent(shape, work)
    if work.ranks == 1:
        return weights + shape.parameters * computed
    return weights + _gathered(shape) * (computed + _SUMMED)


def _below_adapter(shape: Shape, work: Workload) -> float:
    """Bytes of frozen weights and of an adapter; these are their own reference."""
    share, each = work.replicas / work.ranks, work.learner_bytes
    rest = shape.parameters - shape.linear
    base = shape.linear * NF4 if work.nf4 else shape.linear * each * share  # its parts are not sharded
    weights = base + rest * each * share + _STATE * shape.adapter(work.adapter) * share
    if work.ranks > 1:
        weights += each * (rest if work.nf4 else _gathered(shape))
    once = work.shared and work.ranks == 1 and not shape.whole
    sent = 4 * shape.adapter(work.adapter) if once else _sent(shape, work)
    return weights + sent + _merged(shape, each)


def _sent(shape: Shape, work: Workload) -> float:
    """Bytes of what lies ready for engines to load."""
    packed = shape.linear if work.nf4 and work.shared and not shape.whole else 0
    changing = 0 if shape.whole else 4 * shape.adapter(work.adapter)
    return packed * NF4 + (shape.parameters - packed) * work.engine_bytes + changing


def _gathered(shape: Shape) -> int:
    """Parameters that a rank of several has whole at once: the embeddings, and some layers."""
    outside = max(0, shape.parameters - shape.layers * shape.of_layer)
    return outside + min(_LAYERS_GATHERED, shape.layers) * shape.of_layer


def _kept_for_backward(shape: Shape, work: Workload) -> int:
    """Bytes for each token.

    In one layer: two norms (input and output; not compiled, also the input in float32 and normalised),
    attention (query and output, key and value), and the gated perceptron (gate, up, their product; not
    compiled, also the gate's activation).
    """
    norms, perceptron = (4, 3) if work.compiled else (8, 4)
    layer = norms * shape.hidden + 2 * shape.query + 2 * shape.key + perceptron * shape.intermediate
    numbers = shape.hidden * shape.layers + layer if work.activation_checkpointing else layer * shape.layers
    return numbers * work.learner_bytes


def engine_bytes(shape: Shape, work: Workload, snapshot: bool) -> int:
    """Bytes that the engine takes on a GPU besides its KV cache."""
    forward = BATCHED_TOKENS * (4 * shape.hidden + 3 * shape.intermediate) * work.engine_bytes
    sampler = work.sequences * shape.vocab * _SAMPLER
    weights = _engine_weights(shape, work) / work.tensor_parallel
    weights += snapshot * _sent(shape, work)
    merged = bool(work.adapter) * _merged(shape, work.engine_bytes)
    return int(weights + merged + forward + sampler + (_GRAPHS if work.graphs else 0) + _CONTEXT)


def _merged(shape: Shape, each: int) -> int:
    """Bytes of an adapted weight: of the sum, the same rounded to ``each``, and the one before."""
    return shape.hidden * max(shape.query, shape.intermediate) * (_SUM + 2 * each)


def _engine_weights(shape: Shape, work: Workload) -> int:
    """Bytes of an engine's weights; of tied embeddings too many in FP8: whether they are does not show."""
    if not work.quantised:
        return shape.parameters * work.engine_bytes
    kept = min(shape.parameters, 2 * shape.vocab * shape.hidden)
    return kept * work.engine_bytes + (shape.parameters - kept)


def _too_small(device: Device, learner: int, engine: int, least: int, missing: int, work: Workload) -> str:
    parts = f"learner {learner / GIB:.1f}, " if learner else ""
    return (
        f"{missing / GIB:.1f} GiB of GPU memory are missing: the GPU has {device.nbytes / GIB:.1f} GiB, and "
        f"the run needs {parts}engine {engine / GIB:.1f}, smallest KV cache {least / GIB:.1f}, reserve "
        f"{device.nbytes * _RESERVE / GIB:.1f}; {_remedies(work)}; to skip this estimate, set the share of "
        "the KV cache yourself (engine.memory=0.1)"
    )


def _remedies(work: Workload) -> str:
    remedies = "use a smaller model, decrease rollout.max_model_len"
    if work.micro_batch_tokens is not None:
        remedies += f" or learner.micro_batch_tokens={work.micro_batch_tokens}"
        remedies += "" if work.activation_checkpointing else ", set learner.activation_checkpointing=true"
    return remedies
