"""Log-probabilities of chosen tokens, entropies, and their loss, without all logits in memory.

With a vocabulary of 150,000, the logits of 16,000 tokens take 10 GB, and their gradient takes as much again.
This module computes the logits of as many tokens at a time as fit in two GB, uses them, and drops them. It
computes the gradients of the output layer's inputs while a chunk of logits exists, so it computes nothing
twice. Products of 16-bit matrices stay in float32: in bfloat16, a logit near 20 has a rounding error of 0.06,
which would enter every importance ratio.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from areal.step_sizes import LOGITS_AT_ONCE

_BLOCK = 1024
"""Number of logits of a row that a GPU keeps in registers, to read them once for the maximum and the sums."""

Loss = Callable[[torch.Tensor, torch.Tensor, slice], torch.Tensor]
"""Returns the loss of each of the tokens ``[slice]``, from their log-probabilities and their entropies."""


Compile = Callable[[Callable[..., Any]], Callable[..., Any]]


class Scores(NamedTuple):
    """The model's scores of K sampled tokens.

    Attributes:
        logprobs: float32 ``[K]``, log p(target); no gradient.
        entropy: float32 ``[K]``, the entropy of p; no gradient.
        loss: the sum of the tokens' losses, differentiable; None if no loss was requested.
    """

    logprobs: torch.Tensor
    entropy: torch.Tensor
    loss: torch.Tensor | None = None


def scores(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    targets: torch.Tensor,
    temperature: float,
    loss: Loss | None = None,
    separable: bool = True,
    cap: float | None = None,
    at_once: int = LOGITS_AT_ONCE,
    compile: Compile | None = None,
) -> Scores:
    """Score tokens under p = softmax(hidden · weightᵀ / temperature).

    Args:
        hidden: ``[K, d]``; the loss is differentiable in it.
        weight: ``[V, d]``, the weight of the output layer; the loss is differentiable in it, too.
        targets: int64 ``[K]``.
        temperature: temperature of the sampling distribution.
        loss: loss of each token; None: no gradient is needed.
        separable: whether the loss of a token depends only on that token. If not, ``loss`` is called once for
            all tokens, and the logits are computed twice.
        cap: bound of the products before the temperature, which they approach as a tanh does; None: no bound.
        at_once: maximum number of logits in memory, but at least those of one token.
        compile: compiles the computation on a chunk of logits; None: torch.compile on a GPU, nothing on a
            CPU.
    """
    if compile is None and hidden.device.type == "cuda":
        compile = torch.compile
    chunks = _Chunks(targets, temperature, cap, at_once, compile)
    if loss is None:
        with torch.no_grad():
            return Scores(*_Output(hidden, weight, chunks).all_scores()[:2])
    total, logprobs, entropy = _Loss.apply(hidden, weight, chunks, loss, separable)
    return Scores(logprobs, entropy, total)


class _Chunks(NamedTuple):
    """Parameters of the computation of logits, as in :func:`scores`."""

    targets: torch.Tensor
    temperature: float
    cap: float | None
    at_once: int
    compile: Compile | None


class _Loss(torch.autograd.Function):
    """The loss and its gradients, computed in the same pass."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        chunks: _Chunks,
        loss: Loss,
        separable: bool,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        output = _Output(hidden, weight, chunks, trained=ctx.needs_input_grad[1])
        make = output.loss_in_one_pass if separable else output.loss_in_two_passes
        logprobs, entropy, total = make(loss)
        ctx.save_for_backward(output.of_hidden, *output.gradient_of_weight())
        ctx.mark_non_differentiable(logprobs, entropy)
        return total, logprobs, entropy

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Any, ...]:
        of_hidden, *of_weight = ctx.saved_tensors
        scale = gradients[0]
        return (
            of_hidden * scale.to(of_hidden.dtype),
            of_weight[0] * scale.to(of_weight[0].dtype) if of_weight else None,
            *[None] * 3,
        )


class _Output:
    """The output layer on K tokens, one chunk of rows at a time; it accumulates the gradients."""

    def __init__(
        self, hidden: torch.Tensor, weight: torch.Tensor, chunks: _Chunks, trained: bool = False
    ) -> None:
        self._hidden, self._weight = hidden, weight
        self._targets, self._temperature, self._cap, self._at_once, compile = chunks
        self._statistics: Any = _compiled(_statistics, compile) if compile else _statistics
        self._gradient: Any = _compiled(_gradient, compile) if compile else _gradient
        self.of_hidden = torch.empty_like(hidden)
        self._of_weight = (
            torch.zeros(weight.shape, dtype=torch.float32, device=weight.device) if trained else None
        )

    def gradient_of_weight(self) -> list[torch.Tensor]:
        """Return the gradient in the weight's type, if the weight is trained."""
        return [] if self._of_weight is None else [self._of_weight.to(self._weight.dtype)]

    def all_scores(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return log-probabilities, entropies, and the logs of the normalizers, ``[K]`` each."""
        found: list[tuple[torch.Tensor, ...]] = [self._score(part)[1:] for part in self._parts()]
        return (
            torch.cat([f[0] for f in found]),
            torch.cat([f[1] for f in found]),
            torch.cat([f[2] for f in found]),
        )

    def loss_in_one_pass(self, loss: Loss) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return log-probabilities, entropies and the loss, for a loss that is separable by token."""
        found = []
        for part in self._parts():
            logits, logprobs, entropy, normalizer = self._score(part)
            total, of_logprob, of_entropy = _differentiate(loss, logprobs, entropy, part)
            self._backward(part, logits, normalizer, entropy, of_logprob, of_entropy)
            del logits  # before the next logits are computed
            found.append((logprobs, entropy, total))
        columns = list(zip(*found, strict=True))
        return torch.cat(columns[0]), torch.cat(columns[1]), torch.stack(columns[2]).sum()

    def loss_in_two_passes(self, loss: Loss) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return the same for a loss in which a token depends on others."""
        logprobs, entropy, normalizer = self.all_scores()
        total, of_logprob, of_entropy = _differentiate(loss, logprobs, entropy, slice(0, len(logprobs)))
        for part in self._parts():
            of_its_entropy = None if of_entropy is None else of_entropy[part]
            of_part = entropy[part], of_logprob[part], of_its_entropy
            self._backward(part, self._logits(part), normalizer[part], *of_part)
        return logprobs, entropy, total

    def _logits(self, part: slice) -> torch.Tensor:
        products = _product(self._hidden[part], self._weight.t())
        return products if self._cap is None else products.div_(self._cap).tanh_().mul_(self._cap)

    def _score(self, part: slice) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        logits = self._logits(part)
        return logits, *self._statistics(logits, self._targets[part], self._temperature)

    def _backward(
        self,
        part: slice,
        logits: torch.Tensor,
        normalizer: torch.Tensor,
        entropy: torch.Tensor,
        of_logprob: torch.Tensor,
        of_entropy: torch.Tensor | None,
    ) -> None:
        hidden = self._hidden[part]
        of_logits = self._gradient(
            logits,
            self._targets[part],
            normalizer,
            entropy,
            of_logprob,
            of_entropy,
            self._temperature,
            hidden.dtype,
        )
        if self._cap is not None:
            of_logits = of_logits * (1 - (logits / self._cap) ** 2).to(hidden.dtype)
        self.of_hidden[part] = of_logits @ self._weight
        if self._of_weight is not None:
            _add_product(self._of_weight, of_logits.t(), hidden)

    def _parts(self) -> list[slice]:
        rows = len(self._hidden)
        count = -(-rows // max(1, self._at_once // len(self._weight)))
        # Chunks of similar size: a remainder of a single row would need its own compilation.
        bounds = [rows * i // count for i in range(count + 1)]
        return [slice(*pair) for pair in itertools.pairwise(bounds)]


def _differentiate(
    loss: Loss, logprobs: torch.Tensor, entropy: torch.Tensor, part: slice
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """Return the sum of the tokens' losses and its gradients; None: no dependence on the entropy."""
    with torch.enable_grad():
        inputs = logprobs.detach().requires_grad_(), entropy.detach().requires_grad_()
        total = loss(*inputs, part).sum()
        of_logprob, of_entropy = torch.autograd.grad(total, inputs, allow_unused=True)
    return total.detach(), torch.zeros_like(logprobs) if of_logprob is None else of_logprob, of_entropy


def _statistics(
    logits: torch.Tensor, targets: torch.Tensor, temperature: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the log-probability of the target, the entropy, and the log of the normalizer of each row.

    The maximum and the sums are computed per block, then over the blocks: H = log Σ eˣ − Σ x·eˣ / Σ eˣ.
    """
    rows, columns = logits.shape
    size = next((n for n in (_BLOCK, _BLOCK // 2, _BLOCK // 4, _BLOCK // 8) if columns % n == 0), columns)
    blocks = logits.view(rows, columns // size, size) / temperature
    largest = blocks.amax(-1, keepdim=True)
    above = blocks - largest
    exponentials = above.exp()
    sums, weighted = exponentials.sum(-1), (exponentials * above).sum(-1)
    largest = largest.squeeze(-1)
    top = largest.amax(-1, keepdim=True)
    below = largest - top
    scale = below.exp()
    total = (scale * sums).sum(-1)
    entropy = total.log() - (scale * (weighted + below * sums)).sum(-1) / total
    normalizer = total.log() + top.squeeze(-1)
    chosen = logits.gather(-1, targets[:, None]).squeeze(-1) / temperature
    return chosen - normalizer, entropy, normalizer


def _gradient(
    logits: torch.Tensor,
    targets: torch.Tensor,
    normalizer: torch.Tensor,
    entropy: torch.Tensor,
    of_logprob: torch.Tensor,
    of_entropy: torch.Tensor | None,
    temperature: float,
    dtype: torch.dtype,
) -> torch.Tensor:
    """Return the gradient of the logits: ((1[target] − p)·g + p·(−log p − H)·g_H) / temperature."""
    logprobs = logits / temperature - normalizer[:, None]
    probabilities = logprobs.exp()
    target = torch.arange(logits.shape[-1], device=logits.device) == targets[:, None]
    gradient = (target.float() - probabilities) * of_logprob[:, None]
    if of_entropy is not None:
        gradient = gradient - probabilities * (logprobs + entropy[:, None]) * of_entropy[:, None]
    return (gradient / temperature).to(dtype)


def _product(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Return the matrix product in float32."""
    if left.dtype == torch.float32:
        return left @ right
    if left.device.type == "cpu":  # which cannot widen the type within the product
        return left.float() @ right.float()
    return torch.mm(left, right, out_dtype=torch.float32)


def _add_product(total: torch.Tensor, left: torch.Tensor, right: torch.Tensor) -> None:
    """Add a matrix product to a float32 total."""
    if left.dtype == torch.float32:
        total.addmm_(left, right)
    elif left.device.type == "cpu":
        total += _product(left, right)
    else:
        torch.addmm(total, left, right, out_dtype=torch.float32, out=total)


@functools.cache
def _compiled(function: Any, compile: Compile) -> Any:
    """Compile a function of tensors with a row for each token, once for any number of rows.

    These functions are memory-bound on a GPU: compiled, a chunk is read once instead of ten times. Their
    width is a compile-time constant, because it is a divisor for every logit.
    """
    compiled = compile(function)

    def call(*arguments: Any) -> Any:
        # The compiled code also depends on where a tensor begins in its memory: a slice would be compiled
        # anew.
        own = [a.clone() if torch.is_tensor(a) and a.storage_offset() else a for a in arguments]
        for rows in filter(torch.is_tensor, own):
            torch._dynamo.maybe_mark_dynamic(rows, 0)
        return compiled(*own)

    return call
