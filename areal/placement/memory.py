"""Divides the memory of a GPU between the learner, an engine and its KV cache.

Each part is estimated from the shape of the model and the settings. The KV cache gets the part of the rest
that it can use. In bytes:

- learner: per parameter 4 (master weight) + 4 (gradient) + 8 (AdamW's moments) + 2 + 2 (weight and gradient
  in bfloat16, if one rank has the whole model: areal.learner.trainable) + the snapshot from which the engine
  loads (areal.weights.cuda_ipc); for a critic the same without a snapshot; for the frozen reference of
  ``learner.kl`` 4 + 2. Several ranks divide the float32 part by the number of ranks in each replica. They
  gather the bfloat16 part layer by layer; at any time it consists of the embeddings and three layers (one in
  use, the next in transfer, and the gradients of the last): 2 + 2 + 4 bytes (weight, gradient, its float32
  sum). To this add the activations of one micro-batch for its backward pass, a chunk of logits, and the
  gradient of the output layer. Below an adapter a parameter is frozen: 2 bytes, or 0.516 in 4 bits
  (areal.nf4), which on one rank also serve as the snapshot; the adapter's own parameters take 4 + 4 + 8, and
  only one merged weight exists at a time (areal.learner.merged_linear);
- engine: its weights (in FP8 one byte for each parameter except those of the embeddings), the tensors of its
  largest forward pass, those of the sampler, and CUDA graphs;
- the memory of CUDA itself in each of the two processes.

An engine that is not on the first rank's GPU also has a snapshot (areal.weights.broadcast). A tensor-parallel
engine has a part of its weights and of its cache on each of its GPUs, but a whole snapshot, and merges an
adapter into whole weights, one after the other. Each of several engines on a GPU needs all of this, and the
rest is divided among their caches. A process that maps memory of the first rank's GPU has a context there. A
tenth of a GPU is reserved, because these are estimates and allocators leave gaps.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from areal.errors import UserError
from areal.models.sight import auto_class
from areal.placement.inventory import Device
from areal.step_sizes import BATCHED_TOKENS, LOGITS_AT_ONCE

GIB = 2**30
_RESERVE = 0.1
_CONTEXT = 0.6 * GIB
_GRAPHS = 1.5 * GIB
_STATE = 4 + 4 + 8
_COMPUTED = 2 + 2
_SUMMED = 4
"""A gradient during its transfer to the other ranks."""
NF4 = 1 / 2 + 1 / 64 + 4 / (64 * 256)
"""A weight in 4 bits with its scales (areal.nf4)."""
_LAYERS_GATHERED = 3
_SUM = 4
"""A weight plus an adapter's change, in float32 (areal.factors)."""
_LOGITS = 2 * 4
"""Two float32 tensors of the number of logits that the learner computes at once."""
_HEAD = 4 + 2
"""The gradient of the output layer, in float32 and in bfloat16."""
_SAMPLER = 5 * 4
"""Five float32 tensors: the logits, the logits with temperature, their softmax, its logarithm, and noise."""
_BLOCK = 16
"""Number of tokens in a block of the KV cache."""
_FEWEST = 8
"""Number of longest sequences that the KV cache must hold at once for a useful run."""


@dataclass(frozen=True, slots=True)
class Shape:
    """The sizes of a causal language model that determine its memory.

    Attributes:
        query, key: size of all heads together.
        whole: whether engines receive whole weights even if an adapter is trained, because transformers' form
            differs from that of checkpoints.
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
        """Read the sizes from a transformers configuration; count parameters of a model without memory."""
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
        """Approximate number of parameters of the linear layers, which adapters change."""
        return min(self.parameters, self.layers * self.of_layer)

    @property
    def of_layer(self) -> int:
        """Number of parameters of a layer."""
        return 2 * self.hidden * (self.query + self.key) + 3 * self.hidden * self.intermediate

    def adapter(self, rank: int) -> int:
        """Return the number of parameters of an adapter for all linear layers."""
        attention = 2 * (self.hidden + self.query) + 2 * (self.hidden + self.key)
        return rank * self.layers * (attention + 3 * (self.hidden + self.intermediate))


@dataclass(frozen=True, slots=True)
class Workload:
    """The demands of a run on its GPUs.

    Attributes:
        sequences: number of concurrent sequences in one engine.
        longest: number of tokens of the longest sequence.
        engine_bytes: bytes of one value in the engine.
        quantized: whether the engine's weights are in FP8.
        graphs: whether the engine captures CUDA graphs.
        micro_batch_tokens: number of tokens in a micro-batch of the learner; None: there is no learner.
        critic: whether the objective has a critic.
        reference: whether there is a frozen reference.
        learner_bytes: bytes of one value in the learner's computation.
        activation_checkpointing: whether the learner only keeps each layer's input for its backward pass.
        compiled: whether the learner's layers are compiled.
        adapter: rank of the trained adapter; 0: all weights are trained.
        nf4: whether the weights below the adapter are in 4 bits.
        shared: whether the engines' weights have the type of the weights below the adapter, or the same
            parts.
        ranks: number of processes of the learner.
        replicas: number of copies of its state, each sharded over ``ranks / replicas`` processes.
        tensor_parallel: number of GPUs of one engine.
    """

    sequences: int
    longest: int
    engine_bytes: int = 2
    quantized: bool = False
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
    """The division of the bytes of a GPU.

    Attributes:
        learner: bytes of the learner's rank on it; 0: there is none.
        engine: bytes of an engine on it, without its KV cache; 0: there is none.
        cache: bytes of the KV cache of an engine.
        cache_tokens: number of tokens in this KV cache.
        engines: number of engines on the GPU.
        whole: whether their caches hold all sequences at maximum length.
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
        """Number of free bytes, including the reserve."""
        return self.device.nbytes - self.learner - self.engines * (self.engine + self.cache)

    @property
    def learner_share(self) -> float:
        """Share of the GPU that PyTorch may use in the learner's process; everything if no engine is on it.

        PyTorch keeps more memory than it needs while some is free. Engines get half of the free memory.
        """
        if not self.engine:
            return 1.0
        return (self.learner - _CONTEXT + self.free / 2) / self.device.nbytes

    def __str__(self) -> str:
        """Return the parts in GiB, for the terminal."""
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
    """Divide a GPU; KV caches get the rest, up to the size of all sequences at maximum length.

    Args:
        learner: whether a rank of the learner is on it.
        engines: number of engines on it.
        snapshot: whether an engine keeps a snapshot of the weights.
        mapping: number of engine processes without this GPU that map the learner's memory on it.

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
    # One more block than all sequences need, because vLLM keeps one for itself.
    useful = work.sequences * sequence + _BLOCK * token
    least = min(work.sequences, _FEWEST) * sequence + _BLOCK * token
    if left < least:
        missing = engines * (least - left)
        raise UserError(_too_small(device, ours, engines * theirs, engines * least, missing, work))
    cache = min(left, useful)
    tokens = cache // (_BLOCK * token) * _BLOCK
    return DeviceMemory(device, ours, theirs, cache, tokens, engines, whole=left >= useful)


def learner_bytes(shape: Shape, work: Workload) -> int:
    """Return the maximum bytes of the learner, including the snapshot for the engine."""
    if work.micro_batch_tokens is None:
        return 0
    weights = _below_adapter(shape, work) if work.adapter else _trained(shape, work)
    weights += (_STATE + _COMPUTED) * shape.parameters * work.critic
    # A sequence longer than a micro-batch forms its own.
    tokens = max(work.micro_batch_tokens, work.longest)
    kept = tokens * _kept_for_backward(shape, work)
    logits = _LOGITS * min(LOGITS_AT_ONCE, tokens * shape.vocab)
    trains_head = not work.adapter or work.critic
    return int(weights + kept + logits + _HEAD * shape.vocab * shape.hidden * trains_head + _CONTEXT)


def _trained(shape: Shape, work: Workload) -> float:
    """Return the bytes of the weights if all are trained, and of a reference."""
    held, computed = _STATE + 4 * work.reference, _COMPUTED + 2 * work.reference
    weights = shape.parameters * held * work.replicas / work.ranks + _sent(shape, work)
    if work.ranks == 1:
        return weights + shape.parameters * computed
    return weights + _gathered(shape) * (computed + _SUMMED)


def _below_adapter(shape: Shape, work: Workload) -> float:
    """Return the bytes of frozen weights and of an adapter; the frozen weights are also the reference."""
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
    """Return the bytes of the weights that are ready for engines to load."""
    packed = shape.linear if work.nf4 and work.shared and not shape.whole else 0
    changing = 0 if shape.whole else 4 * shape.adapter(work.adapter)
    return packed * NF4 + (shape.parameters - packed) * work.engine_bytes + changing


def _gathered(shape: Shape) -> int:
    """Return the parameters that one of several ranks gathers at once: the embeddings, and some layers."""
    outside = max(0, shape.parameters - shape.layers * shape.of_layer)
    return outside + min(_LAYERS_GATHERED, shape.layers) * shape.of_layer


def _kept_for_backward(shape: Shape, work: Workload) -> int:
    """Return the bytes for each token.

    One layer keeps two norms (input and output; without compilation also the input in float32 and
    normalized), attention (query and output, key and value), and the gated perceptron (gate, up, their
    product; without compilation also the gate's activation).
    """
    norms, perceptron = (4, 3) if work.compiled else (8, 4)
    layer = norms * shape.hidden + 2 * shape.query + 2 * shape.key + perceptron * shape.intermediate
    numbers = shape.hidden * shape.layers + layer if work.activation_checkpointing else layer * shape.layers
    return numbers * work.learner_bytes


def engine_bytes(shape: Shape, work: Workload, snapshot: bool) -> int:
    """Return the bytes of the engine on a GPU, without its KV cache."""
    forward = BATCHED_TOKENS * (4 * shape.hidden + 3 * shape.intermediate) * work.engine_bytes
    sampler = work.sequences * shape.vocab * _SAMPLER
    weights = _engine_weights(shape, work) / work.tensor_parallel
    weights += snapshot * _sent(shape, work)
    merged = bool(work.adapter) * _merged(shape, work.engine_bytes)
    return int(weights + merged + forward + sampler + (_GRAPHS if work.graphs else 0) + _CONTEXT)


def _merged(shape: Shape, each: int) -> int:
    """Return the bytes for merging a weight: the sum, its rounding to ``each``, and the previous one."""
    return shape.hidden * max(shape.query, shape.intermediate) * (_SUM + 2 * each)


def _engine_weights(shape: Shape, work: Workload) -> int:
    """Return the bytes of an engine's weights; an overestimate for tied embeddings in FP8."""
    if not work.quantized:
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
