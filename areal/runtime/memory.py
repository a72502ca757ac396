"""How one GPU's memory is divided between the learner, the engine and its KV cache.

Each part is estimated from the shape of the model and the settings; the KV cache gets what it can use of what
is left. In bytes:

- learner: per parameter 4 (master weight) + 4 (gradient) + 8 (AdamW's moments) + 2 + 2 (weight and gradient
  in bfloat16, on one rank of the whole model: areal.learner.parallelize) + the snapshot from which the engine
  loads (areal.weights.cuda_ipc); for a critic the same without a snapshot; for the frozen reference of
  ``learner.kl`` 4 + 2. On n ranks what is in float32 is divided by n, and of what is gathered in bfloat16,
  layer by layer, there are at once the embeddings and three layers (one is computed with, the next is on its
  way, the gradients of the last are): 2 + 2 + 4 bytes (weight, gradient, its float32 sum). Then what one
  micro-batch keeps for its backward pass, a chunk of logits, and the gradient of the output layer;
- engine: its weights, the tensors of its largest forward pass, the sampler's, and CUDA graphs;
- what CUDA itself takes in each of the two processes.

An engine that is not on the first rank's card also has a snapshot (areal.weights.broadcast); one without the
learner on its card has for its cache all that is left. A tenth of a card is left alone: these are estimates,
and allocators leave gaps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from areal.errors import UserError
from areal.rollout.vllm_start import BATCHED_TOKENS

GIB = 2**30
_RESERVE = 0.1
_CONTEXT = 0.6 * GIB
_GRAPHS = 1.5 * GIB
_STATE = 4 + 4 + 8
_COMPUTED = 2 + 2
_SUMMED = 4
"""A gradient on its way to the other ranks."""
_LAYERS_GATHERED = 3
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
    """The sizes of a causal language model that memory depends on; ``query`` and ``key``: of all heads."""

    parameters: int
    layers: int
    hidden: int
    intermediate: int
    query: int
    key: int
    vocab: int

    @classmethod
    def of(cls, config: Any) -> Shape:
        """Read them off a transformers configuration, parameters by building the model without memory."""
        import torch
        from transformers import AutoModelForCausalLM

        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)
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
        )


@dataclass(frozen=True, slots=True)
class Load:
    """What a run asks of the card.

    Attributes:
        sequences: in flight at once in one engine.
        longest: tokens of the longest sequence.
        engine_bytes: of one number in the engine.
        graphs: whether the engine captures CUDA graphs.
        micro_batch_tokens: of the learner; None: there is no learner.
        critic: whether the objective has one.
        reference: whether a frozen reference is held.
        learner_bytes: of one number that the learner computes with.
        activation_checkpointing: whether the learner keeps only each layer's input for its backward pass.
        compiled: whether its layers are.
        adapted: whether it trains an adapter, next to which the weights have neither gradient nor moments.
        apart: whether learner and engine have a card each.
        sent: whether weights are sent to the engine although the learner is on its card: another rank.
        ranks: processes of the learner.
    """

    sequences: int
    longest: int
    engine_bytes: int = 2
    graphs: bool = True
    micro_batch_tokens: int | None = None
    critic: bool = False
    reference: bool = False
    learner_bytes: int = 2
    activation_checkpointing: bool = False
    compiled: bool = True
    adapted: bool = False
    apart: bool = False
    sent: bool = False
    ranks: int = 1


@dataclass(frozen=True, slots=True)
class Split:
    """Bytes of the parts of a card.

    ``cache_tokens``: tokens that the KV cache holds; ``activation_checkpointing``: whether the learner
    computes its layers twice; ``apart``: whether there are such cards for the learner and for the rest;
    ``ranks``: the learner's cards, all as this one's.
    """

    card: int
    learner: int
    engine: int
    cache: int
    cache_tokens: int
    activation_checkpointing: bool = False
    apart: bool = False
    ranks: int = 1

    @property
    def free(self) -> int:
        """What is left on the engine's card, the reserve included."""
        return self.card - (0 if self.apart else self.learner) - self.engine - self.cache

    def __str__(self) -> str:
        """One line for the terminal, sizes in GiB."""
        twice = " (activation checkpointing)" if self.activation_checkpointing else ""
        ranks = f" on each of {self.ranks} GPUs" if self.ranks > 1 else ""
        learner = f"learner {self.learner / GIB:.1f}{ranks}{twice}, " if self.learner else ""
        whom = "one GPU of {:.1f} GiB for both" if self.learner else "one GPU of {:.1f} GiB"
        if self.apart:
            whom, learner = "a GPU of {:.1f} GiB each", f"{learner.removesuffix(', ')}; "
        return f"{whom.format(self.card / GIB)}: {learner}{self.engine_told}"

    @property
    def engine_told(self) -> str:
        """What the terminal is told of the engine's part, sizes in GiB."""
        return (
            f"engine {self.engine / GIB:.1f}, "
            f"KV cache {self.cache / GIB:.1f} ({self.cache_tokens:,} tokens), free {self.free / GIB:.1f}"
        )


def describe(splits: Sequence[Split]) -> str:
    """One line for the terminal: the cards of several engines, each kind of card once."""
    kinds = {split.apart: split for split in splits}
    if len(kinds) == 1:
        return str(splits[0])
    return f"{kinds[False]}; each GPU without the learner: {kinds[True].engine_told}"


def split(shape: Shape, card: int, load: Load) -> Split:
    """Divide ``card`` bytes: the KV cache gets what is left, up to what all sequences at their longest fill.

    Raises:
        UserError: not even a few sequences fit.
    """
    learner, engine = learner_bytes(shape, load), engine_bytes(shape, load)
    token = 2 * shape.layers * shape.key * load.engine_bytes
    sequence = -(-load.longest // _BLOCK) * _BLOCK * token
    left = int(card * (1 - _RESERVE)) - engine - (0 if load.apart else learner)
    if load.apart and learner > card * (1 - _RESERVE):
        raise UserError(
            f"the learner needs {learner / GIB:.1f} of its GPU's {card / GIB:.1f} GiB, a tenth of which is "
            f"left alone; {_ways(load)}"
        )
    # One block more than all sequences fill: vLLM keeps one for itself.
    useful = load.sequences * sequence + _BLOCK * token
    least = min(load.sequences, _FEWEST) * sequence + _BLOCK * token
    if left < least:
        raise UserError(_too_small(card, learner, engine, least, left, load))
    cache = min(left, useful)
    tokens = cache // (_BLOCK * token) * _BLOCK
    return Split(card, learner, engine, cache, tokens, load.activation_checkpointing, load.apart, load.ranks)


def learner_bytes(shape: Shape, load: Load) -> int:
    """Bytes that the learner takes at its most, the snapshot for the engine included."""
    from areal.learner.logits import LOGITS_AT_ONCE  # brings torch with it

    if load.micro_batch_tokens is None:
        return 0
    reference = load.reference and not load.adapted  # an adapted model is its own reference
    held = (4 if load.adapted else _STATE) + _STATE * load.critic + 4 * reference
    computed = (2 if load.adapted else _COMPUTED) + _COMPUTED * load.critic + 2 * reference
    weights = shape.parameters * (held / load.ranks + load.engine_bytes)
    if load.ranks == 1:
        weights += shape.parameters * computed
    else:
        weights += _gathered(shape) * (computed + (0 if load.adapted else _SUMMED))
    # A sequence that is longer than a micro-batch makes one by itself.
    tokens = max(load.micro_batch_tokens, load.longest)
    kept = tokens * _kept_for_backward(shape, load)
    head = _LOGITS * min(LOGITS_AT_ONCE, tokens * shape.vocab) + _HEAD * shape.vocab * shape.hidden
    return int(weights + kept + head + _CONTEXT)


def _gathered(shape: Shape) -> int:
    """Parameters that a rank of several has whole at once: the embeddings, and some layers."""
    layer = 2 * shape.hidden * (shape.query + shape.key) + 3 * shape.hidden * shape.intermediate
    outside = max(0, shape.parameters - shape.layers * layer)
    return outside + min(_LAYERS_GATHERED, shape.layers) * layer


def _kept_for_backward(shape: Shape, load: Load) -> int:
    """Bytes for each token.

    In one layer: two norms (input and output; not compiled, also the input in float32 and normalised),
    attention (query and output, key and value), and the gated perceptron (gate, up, their product; not
    compiled, also the gate's activation).
    """
    norms, perceptron = (4, 3) if load.compiled else (8, 4)
    layer = norms * shape.hidden + 2 * shape.query + 2 * shape.key + perceptron * shape.intermediate
    numbers = shape.hidden * shape.layers + layer if load.activation_checkpointing else layer * shape.layers
    return numbers * load.learner_bytes


def engine_bytes(shape: Shape, load: Load) -> int:
    """Bytes that the engine takes besides its KV cache."""
    forward = BATCHED_TOKENS * (4 * shape.hidden + 3 * shape.intermediate) * load.engine_bytes
    sampler = load.sequences * shape.vocab * _SAMPLER
    weights = shape.parameters * load.engine_bytes * (2 if load.apart or load.sent else 1)
    return int(weights + forward + sampler + (_GRAPHS if load.graphs else 0) + _CONTEXT)


def _too_small(card: int, learner: int, engine: int, least: int, left: int, load: Load) -> str:
    parts = f"learner {learner / GIB:.1f}, " if learner and not load.apart else ""
    return (
        f"{(least - left) / GIB:.1f} GiB of GPU memory are missing: of {card / GIB:.1f} GiB, {parts}"
        f"engine {engine / GIB:.1f}, smallest KV cache {least / GIB:.1f}, "
        f"reserve {card * _RESERVE / GIB:.1f}; {_ways(load)}; if you know better, give the KV cache's share "
        "of the GPU yourself (engine.memory=0.1)"
    )


def _ways(load: Load) -> str:
    ways = "take a smaller model, lower rollout.max_model_len"
    if load.micro_batch_tokens is not None:
        ways += f" or learner.micro_batch_tokens={load.micro_batch_tokens}"
        ways += "" if load.activation_checkpointing else ", set learner.activation_checkpointing=true"
    return ways
