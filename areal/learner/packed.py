"""Sequences end to end in one row: no padding anywhere but, on a CPU, inside attention itself."""

from __future__ import annotations

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
class Packed:
    """Some trajectories as the model and the objective want them: N tokens in all, K of them sampled.

    Attributes:
        tokens: ``[N]``.
        positions: ``[N]``, position of each token in its own sequence.
        bounds: ``[sequences + 1]``, where each sequence begins, and N.
        before: ``[K]``, index of the token that each sampled token follows: its logits predict it.
        targets: ``[K]``, the sampled tokens.
        behav: ``[K]``, their log-probabilities as sampled.
        owner: ``[K]``, which of the sequences each sampled token belongs to.
    """

    tokens: torch.Tensor
    positions: torch.Tensor
    bounds: torch.Tensor
    before: torch.Tensor
    targets: torch.Tensor
    behav: torch.Tensor
    owner: torch.Tensor


def pack(trajectories: Sequence[Trajectory], device: torch.device) -> Packed:
    """Lay trajectories end to end."""
    lengths = np.array([len(t) for t in trajectories])
    bounds = np.concatenate([[0], np.cumsum(lengths)])
    mask = np.concatenate([t.loss_mask for t in trajectories])
    tokens = np.concatenate([t.tokens for t in trajectories]).astype(np.int64)
    sampled = np.flatnonzero(mask)
    if np.isin(sampled, bounds).any():
        raise ValueError("the first token of a sequence cannot be a sampled one: nothing predicts it")

    def tensor(array: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(array).to(device)

    return Packed(
        tokens=tensor(tokens),
        positions=tensor(np.arange(len(tokens)) - np.repeat(bounds[:-1], lengths)),
        bounds=tensor(bounds.astype(np.int64)),
        before=tensor(sampled - 1),
        targets=tensor(tokens[sampled]),
        behav=tensor(np.concatenate([t.logprobs for t in trajectories])[sampled]),
        owner=tensor(np.repeat(np.arange(len(trajectories)), lengths)[sampled]),
    )


def packed_attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    bounds: torch.Tensor | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention within each packed sequence, in transformers' attention interface.

    Args:
        module: the attention layer (unused).
        query: ``[1, heads, N, d]``; ``key`` and ``value`` may have fewer heads.
        key: see ``query``.
        value: see ``query``.
        attention_mask: unused: ``bounds`` says all.
        scaling: of the scores; None: 1/√d.
        sliding_window: tokens that each token sees, itself included; None: all before it.
        bounds: ``[sequences + 1]``, as in :class:`Packed`.

    Returns:
        ``[1, N, heads, d]`` and None.
    """
    if bounds is None:
        raise ValueError("packed attention needs the bounds of the sequences")
    lengths = bounds.diff()
    longest = int(lengths.max())
    steps = torch.arange(longest, device=query.device)
    real = steps < lengths[:, None]  # [sequences, longest]
    # Padding comes last, so under a causal mask no real token ever sees it: any index will do there.
    index = (bounds[:-1, None] + steps).clamp(max=query.shape[2] - 1)
    q, k, v = (x[0][:, index].transpose(0, 1) for x in (query, key, value))
    mask = None
    if sliding_window is not None and longest > sliding_window:
        back = steps[:, None] - steps
        mask = (back >= 0) & (back < sliding_window)
    out = F.scaled_dot_product_attention(
        q, k, v, attn_mask=mask, is_causal=mask is None, scale=scaling, enable_gqa=q.shape[1] != k.shape[1]
    )
    return out.transpose(1, 2)[real][None], None
