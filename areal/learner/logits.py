"""Log-probabilities of chosen tokens and entropies, without ever holding the logits of all of them.

With a vocabulary of 150,000 the logits of 16,000 tokens take 10 GB, and as much again for their gradient.
Here they are made for so many tokens at a time as fit in two GB, used, and dropped; the backward pass makes
them again. Products of 16-bit matrices are kept in float32: a logit near 20 has a rounding error of 0.06 in
bfloat16, which would go straight into every importance ratio.
"""

from __future__ import annotations

from typing import Any

import torch

LOGITS_AT_ONCE = 2**29


def logprobs_and_entropy(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    targets: torch.Tensor,
    temperature: float,
    entropy_gradient: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return log p(target) and the entropy of p = softmax(hidden · weightᵀ / temperature), float32 ``[K]``.

    Args:
        hidden: ``[K, d]``; differentiable.
        weight: ``[V, d]``, of the output layer; differentiable.
        targets: int64 ``[K]``.
        temperature: of the distribution that was sampled from.
        entropy_gradient: whether the entropy is differentiable.
    """
    logprobs, entropy = _Chunked.apply(hidden, weight, targets, temperature)
    return logprobs, entropy if entropy_gradient else entropy.detach()


class _Chunked(torch.autograd.Function):
    """The two of them, in chunks of rows."""

    @staticmethod
    def forward(
        ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor, temperature: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        normaliser = torch.empty(len(hidden), dtype=torch.float32, device=hidden.device)
        chosen, entropy = torch.empty_like(normaliser), torch.empty_like(normaliser)
        statistics = _fast(_statistics, hidden.device)
        for part in _parts(len(hidden), len(weight)):
            found = statistics(_product(hidden[part], weight.t()), targets[part], temperature)
            normaliser[part], chosen[part], entropy[part] = found
        ctx.save_for_backward(hidden, weight, targets, normaliser, entropy)
        ctx.temperature = temperature
        return chosen, entropy

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Any, ...]:
        hidden, weight, targets, normaliser, entropy = ctx.saved_tensors
        of_logprob, of_entropy = gradients
        of_hidden = torch.empty_like(hidden)
        of_weight = torch.zeros(weight.shape, dtype=torch.float32, device=weight.device)
        gradient = _fast(_gradient, hidden.device)
        for part in _parts(len(hidden), len(weight)):
            of_logits = gradient(
                _product(hidden[part], weight.t()),
                targets[part],
                normaliser[part],
                entropy[part],
                of_logprob[part],
                of_entropy[part],
                ctx.temperature,
                hidden.dtype,
            )
            of_hidden[part] = of_logits @ weight
            of_weight += _product(of_logits.t(), hidden[part])
        return of_hidden, of_weight.to(weight.dtype), None, None


def _statistics(
    logits: torch.Tensor, targets: torch.Tensor, temperature: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the log of the normaliser, the log-probability of the target, and the entropy of each row."""
    scaled = logits / temperature
    largest = scaled.amax(-1, keepdim=True)
    # Two sums over the same exponentials, one pass through memory: H = log Σ eˣ − Σ x·eˣ / Σ eˣ.
    above = scaled - largest
    exponentials = above.exp()
    total = exponentials.sum(-1)
    entropy = total.log() - (exponentials * above).sum(-1) / total
    normaliser = total.log() + largest.squeeze(-1)
    return normaliser, scaled.gather(-1, targets[:, None]).squeeze(-1) - normaliser, entropy


def _gradient(
    logits: torch.Tensor,
    targets: torch.Tensor,
    normaliser: torch.Tensor,
    entropy: torch.Tensor,
    of_logprob: torch.Tensor,
    of_entropy: torch.Tensor,
    temperature: float,
    dtype: torch.dtype,
) -> torch.Tensor:
    """Return the gradient of the logits: (1[target] − p)·g + p·(−log p − H)·g_H, over the temperature."""
    logprobs = logits / temperature - normaliser[:, None]
    probabilities = logprobs.exp()
    target = torch.arange(logits.shape[-1], device=logits.device) == targets[:, None]
    gradient = (target.float() - probabilities) * of_logprob[:, None]
    gradient = gradient - probabilities * (logprobs + entropy[:, None]) * of_entropy[:, None]
    return (gradient / temperature).to(dtype)


def _parts(rows: int, columns: int) -> list[slice]:
    size = max(1, LOGITS_AT_ONCE // columns)
    return [slice(start, start + size) for start in range(0, rows, size)]


def _product(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Return the matrix product in float32."""
    if left.dtype == torch.float32:
        return left @ right
    if left.device.type == "cpu":  # which cannot widen within the product
        return left.float() @ right.float()
    return torch.mm(left, right, out_dtype=torch.float32)


def _fast(function: Any, device: torch.device) -> Any:
    """On a GPU these are bound by memory: compiled, a chunk is read once or twice instead of ten times."""
    if device.type != "cuda":
        return function
    if function not in _compiled:
        _compiled[function] = torch.compile(function, dynamic=True)
    return _compiled[function]


_compiled: dict[Any, Any] = {}
