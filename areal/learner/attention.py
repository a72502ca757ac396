"""Causal attention within each of the sequences that are packed into one row, in two ways.

- Variable length, in 16 bits on a GPU: kernels that know where sequences begin and end, without padding
  (:func:`varlen_kernel`).
- Runs of similar lengths, everywhere else: PyTorch's plain attention on a rectangle for each run.

The row contains a prompt that several sequences share once. Its queries belong to the first of these
sequences. For the others, only the tokens after the prompt are queries; they see the prompt's keys and
values, which are gathered from the row.
"""

from __future__ import annotations

import functools
import importlib.util
import inspect
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from areal.errors import UserError
from areal.learner import flash4

ATTENTION = "areal_packed"
"""Name of :func:`packed_attention` in transformers."""
_NO_EFFECT = ("dropout", "position_ids", "use_cache", "output_router_logits", "is_causal")
"""Other arguments of models: dropout is off, and queries and keys already contain the positions."""


@dataclass(frozen=True, slots=True)
class Padded:
    """Describes which tokens of the row form each of S sequences; L is the length of the longest.

    The cost of attention is quadratic in the padded length, so it is computed in runs of similar lengths.

    Attributes:
        index: ``[S, L]``, place in the row of each token of each sequence; arbitrary after its end.
        owned: bool ``[S, L]``, where a token is computed: true once for each place of the row, in its order.
        runs: first sequence, last sequence plus one, and longest length of each run.
    """

    index: torch.Tensor
    owned: torch.Tensor
    runs: tuple[tuple[int, int, int], ...]

    @classmethod
    def build(cls, index: np.ndarray, owned: np.ndarray, lengths: np.ndarray, device: torch.device) -> Padded:
        """Move index and owned, as above, and lengths ``[S]`` to the device."""
        return cls(to_device(index, device), to_device(owned, device), runs(lengths.tolist()))


@dataclass(frozen=True, slots=True)
class Varlen:
    """Describes where S sequences end, for kernels of variable length.

    Attributes:
        gather: ``[M]``, place in the row of each token of each sequence.
        ends_q: int32 ``[S + 1]``, 0 and then the end of the computed tokens of each sequence.
        ends_k: int32 ``[S + 1]``, 0 and then the end of all tokens of each sequence among the gathered ones.
        longest_q: maximum number of computed tokens of a sequence.
        longest_k: maximum number of tokens of a sequence.
        attend: takes query, key, value, the four above, the scaling and the window.
    """

    gather: torch.Tensor
    ends_q: torch.Tensor
    ends_k: torch.Tensor
    longest_q: int
    longest_k: int
    attend: Callable[..., torch.Tensor]

    @classmethod
    def build(
        cls,
        index: np.ndarray,
        owned: np.ndarray,
        lengths: np.ndarray,
        device: torch.device,
        attend: Callable[..., torch.Tensor],
    ) -> Varlen:
        """Move index and owned, as in :class:`Padded`, and lengths ``[S]`` to the device."""
        computed = owned.sum(1)
        real = np.arange(index.shape[1]) < lengths[:, None]
        gather = to_device(index[real], device)
        # Without a shared prompt, M equals N by chance; compiled layers must not assume that it always does.
        torch._dynamo.maybe_mark_dynamic(gather, 0)

        def ends(sizes: np.ndarray) -> torch.Tensor:
            return to_device(np.concatenate([[0], sizes.cumsum()]).astype(np.int32), device)

        return cls(gather, ends(computed), ends(lengths), int(computed.max()), int(lengths.max()), attend)


Layout = Padded | Varlen


@dataclass(frozen=True, slots=True)
class Kernel:
    """Attention of variable length.

    Attributes:
        name: name of the kernel, for the output of a run.
        attend: as in :class:`Varlen`.
    """

    name: str
    attend: Callable[..., torch.Tensor]


FLASH4_SIZES = (32, 64, 128)
"""Head sizes for which FlashAttention 4 is tested."""
PADDED = "PyTorch's, in runs of similar lengths"
"""Name of the attention without such a kernel."""


def to_device(array: np.ndarray, device: torch.device) -> torch.Tensor:
    """Return an array as a tensor on a device; the host does not wait for the copy to a GPU."""
    tensor = torch.from_numpy(array)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def runs(lengths: Sequence[int]) -> tuple[tuple[int, int, int], ...]:
    """Split into runs of neighbors of at least 2/3 of the run's longest; few if the lengths are sorted."""
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
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention within each packed sequence, in transformers' attention interface.

    Args:
        module: the attention layer (unused).
        query: ``[1, heads, N, d]``; ``key`` and ``value`` may have fewer heads.
        attention_mask: unused, because ``layout`` contains the same information.
        scaling: factor of the scores; None: 1/√d.
        sliding_window: number of tokens that each token sees, including itself; None: all tokens before it.
        layout: the layout of :class:`areal.learner.packed.Packed`.
        softcap: bound of the scores, which approach it as a tanh does; None: no bound.
        s_aux: ``[heads]``, score of an attention sink, a virtual token that takes a share of the attention.
        others: arguments without an effect on the result.

    Returns:
        ``[1, N, heads, d]`` and None.

    Raises:
        UserError: the model's attention has a feature that areal does not know.
    """
    if layout is None:
        raise ValueError("packed attention needs the layout of the sequences")
    if unknown := [name for name, value in others.items() if name not in _NO_EFFECT and value is not None]:
        raise UserError(f"areal cannot train this model, because its attention has {' and '.join(unknown)}")
    if isinstance(layout, Varlen):
        assert softcap is s_aux is None, "changes_scores"
        return _varlen(query[0], key[0], value[0], scaling, sliding_window, layout)[None], None
    scores = _Scores(scaling, softcap, s_aux)
    return _padded(query[0], key[0], value[0], scores, sliding_window, layout)[None], None


@dataclass(frozen=True, slots=True)
class _Scores:
    """Computes attention from the products of queries and keys; see :func:`packed_attention`."""

    scaling: float | None
    softcap: float | None
    sinks: torch.Tensor | None

    def attend(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor | None
    ) -> torch.Tensor:
        """Attend; inputs are ``[S, heads, L, d]``; mask: bool ``[L, L]``, None: causal."""
        if self.softcap is None and self.sinks is None:
            return F.scaled_dot_product_attention(
                q,
                k,
                v,
                attn_mask=mask,
                is_causal=mask is None,
                scale=self.scaling,
                enable_gqa=q.shape[1] != k.shape[1],
            )
        k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], dim=1) for x in (k, v))
        scores = (q @ k.transpose(-1, -2)).float() * (self.scaling or q.shape[-1] ** -0.5)
        if self.softcap is not None:
            scores = self.softcap * torch.tanh(scores / self.softcap)
        if mask is None:
            mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).tril()
        scores = scores.masked_fill(~mask, -torch.inf)
        if self.sinks is not None:
            sink = self.sinks.float()[:, None, None].expand(*scores.shape[:-1], 1)
            scores = torch.cat([scores, sink], -1)
        return scores.softmax(-1)[..., : k.shape[-2]].to(v.dtype) @ v


def changes_scores(model: Any) -> bool:
    """Return whether a model's attention changes its scores beyond scaling them."""
    capped = getattr(model.config.get_text_config(), "attn_logit_softcapping", None) is not None
    return capped or any(hasattr(module, "sinks") for module in model.modules())


@torch.compiler.disable  # the number of runs varies from row to row
def _padded(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    scores: _Scores,
    sliding_window: int | None,
    layout: Padded,
) -> torch.Tensor:
    """Attend within padded sequences, from ``[heads, N, d]`` to ``[N, heads, d]``."""
    parts = []
    for first, last, longest in layout.runs:
        index, owned = layout.index[first:last, :longest], layout.owned[first:last, :longest]
        # Tokens after the end of a sequence come last, so under a causal mask no real token sees them.
        q, k, v = (x[:, index].transpose(0, 1) for x in (query, key, value))
        mask = _window(longest, sliding_window, query.device)
        parts.append(scores.attend(q, k, v, mask).transpose(1, 2)[owned])
    return torch.cat(parts)


def _window(length: int, sliding_window: int | None, device: torch.device) -> torch.Tensor | None:
    """Return which tokens each token sees, bool ``[length, length]``; None: all tokens before it."""
    if sliding_window is None or length <= sliding_window:
        return None
    steps = torch.arange(length, device=device)
    back = steps[:, None] - steps
    return (back >= 0) & (back < sliding_window)


def _varlen(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    scaling: float | None,
    sliding_window: int | None,
    layout: Varlen,
) -> torch.Tensor:
    """Attend, ``[heads, N, d]`` to ``[N, heads, d]``; causal from the end: the last query sees all keys."""
    q = query.transpose(0, 1)
    # Even if it changes nothing: without it, the layers would be compiled again in the middle of a run.
    k, v = (x.transpose(0, 1).index_select(0, layout.gather) for x in (key, value))
    back = -1 if sliding_window is None else sliding_window - 1
    return layout.attend(
        q, k, v, layout.ends_q, layout.ends_k, layout.longest_q, layout.longest_k, scaling, (back, 0)
    )


def varlen_kernel(head_dim: int, device: torch.device) -> Kernel:
    """Return the kernel for 16 bits on a GPU.

    It is FlashAttention 4 on Hopper for the sizes that the tests cover, then flash-attn, then PyTorch's; the
    first two only if they are installed.
    """
    fits = head_dim in FLASH4_SIZES and _installed("flash_attn.cute.interface")
    if fits and torch.cuda.get_device_capability(device)[0] == 9:
        return flash4_kernel()
    # A file of flash-attn itself: FlashAttention 4, a different package, creates a folder of that name, too.
    return flash_kernel() if _installed("flash_attn.flash_attn_interface") else torch_kernel()


def _installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def flash4_kernel() -> Kernel:
    """Return the kernel of flash-attn-4."""
    return Kernel("FlashAttention 4, variable length", flash4.attend)


@functools.cache
def flash_kernel() -> Kernel:
    """Return the kernel of flash-attn."""
    from flash_attn import flash_attn_varlen_func

    def attend(q: Any, k: Any, v: Any, eq: Any, ek: Any, nq: int, nk: int, scale: Any, window: Any) -> Any:
        return flash_attn_varlen_func(
            q, k, v, eq, ek, nq, nk, softmax_scale=scale, causal=True, window_size=window
        )

    return Kernel("flash-attn, variable length", attend)


@functools.cache
def torch_kernel() -> Kernel:
    """Return PyTorch's own kernel of variable length."""
    from torch.nn.attention.varlen import varlen_attn

    grouped = (
        "enable_gqa" in inspect.signature(varlen_attn).parameters
    )  # versions without it accept grouped heads as they are

    def attend(q: Any, k: Any, v: Any, eq: Any, ek: Any, nq: int, nk: int, scale: Any, window: Any) -> Any:
        more = {"enable_gqa": q.shape[1] != k.shape[1]} if grouped else {}
        return varlen_attn(q, k, v, eq, ek, nq, nk, scale=scale, window_size=window, **more)

    return Kernel("PyTorch's, variable length", attend)
