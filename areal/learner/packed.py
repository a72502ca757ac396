"""Sequences end to end in one row: no padding but inside attention, and a shared prompt is there once.

The trajectories of a group have one prompt. Its hidden states are the same for all of them, so they are
computed once; each sequence's attention gathers its own tokens, shared ones included, from the row.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from areal.trajectory import Trajectory

ATTENTION = "areal_packed"
"""Name under which transformers knows :func:`packed_attention`."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Which tokens of the row make up each of S sequences, L the longest of them.

    The cost of attention is quadratic in what a sequence is padded to: it is done in runs of like lengths.

    Attributes:
        index: ``[S, L]``, place in the row of each token of each sequence; anything behind its end.
        owned: bool ``[S, L]``, where a token is computed: true once for each place of the row, in its order.
        runs: first sequence, one behind the last, and the longest length of each run.
    """

    index: torch.Tensor
    owned: torch.Tensor
    runs: tuple[tuple[int, int, int], ...]


@dataclass(frozen=True, slots=True)
class Packed:
    """Some trajectories as the model and the objective want them: a row of N tokens, K sampled ones.

    Attributes:
        tokens: ``[N]``.
        positions: ``[N]``, position of each token in its own sequence.
        layout: which of them make up each sequence.
        before: ``[K]``, place of the token that each sampled token follows: its logits predict it.
        targets: ``[K]``, the sampled tokens.
        behav: ``[K]``, their log-probabilities as sampled.
        owner: ``[K]``, which of the sequences each sampled token belongs to.
    """

    tokens: torch.Tensor
    positions: torch.Tensor
    layout: Layout
    before: torch.Tensor
    targets: torch.Tensor
    behav: torch.Tensor
    owner: torch.Tensor


def pack(trajectories: Sequence[Trajectory], device: torch.device) -> Packed:
    """Lay trajectories end to end, each prompt once.

    Raises:
        ValueError: a trajectory begins with a sampled token, which nothing predicts.
    """
    index, owned = _places(trajectories)
    lengths = np.array([len(t) for t in trajectories])
    real = np.arange(index.shape[1]) < lengths[:, None]
    tokens = np.zeros_like(index)
    sampled = np.zeros_like(owned)
    tokens[real] = np.concatenate([t.tokens for t in trajectories])
    sampled[real] = np.concatenate([t.loss_mask for t in trajectories])
    owner, step = np.nonzero(sampled)

    def tensor(array: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(array).to(device)

    return Packed(
        tokens=tensor(tokens[owned]),
        positions=tensor(np.nonzero(owned)[1]),
        layout=Layout(tensor(index), tensor(owned), _runs(lengths.tolist())),
        before=tensor(index[owner, step - 1]),
        targets=tensor(tokens[owner, step]),
        behav=tensor(np.concatenate([t.logprobs[t.loss_mask] for t in trajectories])),
        owner=tensor(owner),
    )


def _places(trajectories: Sequence[Trajectory]) -> tuple[np.ndarray, np.ndarray]:
    """Return ``index`` and ``owned`` of :class:`Layout`: the first sequence with a prompt owns its tokens."""
    longest = max(len(t) for t in trajectories)
    index = np.zeros((len(trajectories), longest), dtype=np.int64)
    owned = np.zeros((len(trajectories), longest), dtype=bool)
    prompts: dict[bytes, int] = {}
    end = 0
    for i, trajectory in enumerate(trajectories):
        prompt = int(trajectory.loss_mask.argmax())
        if prompt == 0:
            raise ValueError("the first token of a sequence cannot be a sampled one: nothing predicts it")
        first = prompts.setdefault(trajectory.tokens[:prompt].tobytes(), end)
        shared = prompt if first < end else 0
        index[i, :shared] = np.arange(first, first + shared)
        rest = len(trajectory) - shared
        index[i, shared : len(trajectory)] = np.arange(end, end + rest)
        owned[i, shared : len(trajectory)] = True
        end += rest
    return index, owned


def _runs(lengths: Sequence[int]) -> tuple[tuple[int, int, int], ...]:
    """Cut neighbours into runs, none shorter than two thirds of its run's longest: few if they are sorted."""
    bounds = [0]
    shortest = longest = lengths[0]
    for i, length in enumerate(lengths):
        shortest, longest = min(shortest, length), max(longest, length)
        if 3 * shortest < 2 * longest:
            bounds.append(i)
            shortest = longest = length
    bounds.append(len(lengths))
    return tuple((first, last, max(lengths[first:last])) for first, last in itertools.pairwise(bounds))


def packed_attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    layout: Layout | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention within each packed sequence, in transformers' attention interface.

    Args:
        module: the attention layer (unused).
        query: ``[1, heads, N, d]``; ``key`` and ``value`` may have fewer heads.
        key: see ``query``.
        value: see ``query``.
        attention_mask: unused: ``layout`` says all.
        scaling: of the scores; None: 1/√d.
        sliding_window: tokens that each token sees, itself included; None: all before it.
        layout: as in :class:`Packed`.

    Returns:
        ``[1, N, heads, d]`` and None.
    """
    if layout is None:
        raise ValueError("packed attention needs the layout of the sequences")
    parts = []
    for first, last, longest in layout.runs:
        index, owned = layout.index[first:last, :longest], layout.owned[first:last, :longest]
        # What lies behind the end of a sequence comes last: under a causal mask no real token ever sees it.
        q, k, v = (x[0][:, index].transpose(0, 1) for x in (query, key, value))
        mask = _window(longest, sliding_window, query.device)
        out = F.scaled_dot_product_attention(
            q,
            k,
            v,
            attn_mask=mask,
            is_causal=mask is None,
            scale=scaling,
            enable_gqa=q.shape[1] != k.shape[1],
        )
        parts.append(out.transpose(1, 2)[owned])
    return torch.cat(parts)[None], None


def _window(length: int, sliding_window: int | None, device: torch.device) -> torch.Tensor | None:
    """Return who sees whom, bool ``[length, length]``; None: every token all before it."""
    if sliding_window is None or length <= sliding_window:
        return None
    steps = torch.arange(length, device=device)
    back = steps[:, None] - steps
    return (back >= 0) & (back < sliding_window)
