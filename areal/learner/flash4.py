"""FlashAttention 4 (the package flash-attn-4) as operations that torch.compile does not trace.

Its own functions are Python code that compiles kernels on first use, and torch.compile cannot trace them.
Here the forward and the backward pass are one operation each, with shapes that are known in advance.
"""

from __future__ import annotations

from typing import Any

import torch


@torch.library.custom_op("areal::flash4_forward", mutates_args=(), device_types="cuda")
def _forward(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    ends_q: torch.Tensor,
    ends_k: torch.Tensor,
    longest_q: int,
    longest_k: int,
    scaling: float | None,
    back: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the output ``[N, heads, d]`` and the logs of the normalizers ``[heads, N]``."""
    from flash_attn.cute.interface import _flash_attn_fwd

    output, normalizers, *_ = _flash_attn_fwd(
        query,
        key,
        value,
        cu_seqlens_q=ends_q,
        cu_seqlens_k=ends_k,
        max_seqlen_q=longest_q,
        max_seqlen_k=longest_k,
        softmax_scale=scaling,
        return_lse=True,
        **_mask(back),
    )
    return output, normalizers


@_forward.register_fake
def _(query: Any, key: Any, value: Any, *others: Any) -> tuple[torch.Tensor, torch.Tensor]:
    tokens, heads, _ = query.shape
    output = query.new_empty(tokens, heads, value.shape[-1])
    return output, query.new_empty(heads, tokens, dtype=torch.float32)


@torch.library.custom_op("areal::flash4_backward", mutates_args=(), device_types="cuda")
def _backward(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    output: torch.Tensor,
    of_output: torch.Tensor,
    normalizers: torch.Tensor,
    ends_q: torch.Tensor,
    ends_k: torch.Tensor,
    longest_q: int,
    longest_k: int,
    scaling: float | None,
    back: int,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the gradients of query, key and value."""
    from flash_attn.cute.interface import _flash_attn_bwd

    # Contiguous, because compiled layers rely on the layout of the fake function's results.
    gradients = [torch.empty(x.shape, dtype=x.dtype, device=x.device) for x in (query, key, value)]
    _flash_attn_bwd(
        query.contiguous(),
        key.contiguous(),
        value.contiguous(),
        output,
        of_output.contiguous(),
        normalizers,
        softmax_scale=scaling,
        cu_seqlens_q=ends_q,
        cu_seqlens_k=ends_k,
        max_seqlen_q=longest_q,
        max_seqlen_k=longest_k,
        dq=gradients[0],
        dk=gradients[1],
        dv=gradients[2],
        **_mask(back),
    )
    return gradients[0], gradients[1], gradients[2]


@_backward.register_fake
def _(query: Any, key: Any, value: Any, *others: Any) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return query.new_empty(query.shape), key.new_empty(key.shape), value.new_empty(value.shape)


def _keep(ctx: Any, inputs: Any, output: Any) -> None:
    query, key, value, ends_q, ends_k, *ctx.others = inputs
    ctx.save_for_backward(query, key, value, *output, ends_q, ends_k)


def _differentiate(ctx: Any, of_output: torch.Tensor, _: Any) -> tuple[Any, ...]:
    query, key, value, output, normalizers, ends_q, ends_k = ctx.saved_tensors
    found = _backward(query, key, value, output, of_output, normalizers, ends_q, ends_k, *ctx.others)
    return *found, *[None] * 6


_forward.register_autograd(_differentiate, setup_context=_keep)


def _mask(back: int) -> dict[str, Any]:
    """Return the mask arguments: each token sees all tokens before it, or a fixed number of them."""
    if back < 0:
        return {"causal": True}
    return {"window_size_left": back, "window_size_right": 0}


def attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    ends_q: torch.Tensor,
    ends_k: torch.Tensor,
    longest_q: int,
    longest_k: int,
    scaling: float | None,
    window: tuple[int, int],
) -> torch.Tensor:
    """Attend within sequences, as in :class:`areal.learner.attention.Varlen`."""
    return _forward(query, key, value, ends_q, ends_k, longest_q, longest_k, scaling, window[0])[0]
