"""The objective, as pure functions of log-probabilities; docs/objectives.md has the formulas.

K is the number of sampled tokens of a micro-batch, S the number of its sequences. Three choices are
independent of each other: the advantages (areal.learner.advantages), the loss of a token
(:func:`token_loss`), and the share of a token in the loss of its minibatch (:func:`shares`). The loss is Σ
share · token loss.

Log-ratios are clamped to at most 20 before exponentiation. Up to a ratio of 5·10⁸ this changes nothing, and
beyond it neither a loss nor a gradient is ever infinite (the token's gradient is 0). Small ratios need no
clamp: they approach 0, and their logarithm is never taken.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from areal.config.objective import Aggregation, Objective

_LARGEST_LOG_RATIO = 20.0


@dataclass(frozen=True, slots=True)
class Tokens:
    """The data of each sampled token; all are ``[K]``.

    Attributes:
        logprobs: log-probabilities under the trained policy, π_θ; differentiable.
        prox: log-probabilities under the policy at the start of the step, π_prox; no gradient. A naive
            objective only reports it.
        behav: log-probabilities under the policy that sampled the tokens, π_behav; no gradient.
        advantages: Â; no gradient.
        owner: the sequence of each token, from 0. If ratios are per sequence, all its tokens are present.
        entropy: entropy of the token's distribution; differentiable if the objective uses it.
        reference: log-probabilities under the reference model, π_ref, if the objective uses it; no gradient.
    """

    logprobs: torch.Tensor
    prox: torch.Tensor
    behav: torch.Tensor
    advantages: torch.Tensor
    owner: torch.Tensor
    entropy: torch.Tensor | None = None
    reference: torch.Tensor | None = None


@dataclass(frozen=True, slots=True)
class TokenLoss:
    """The loss of each token, and its statistics of the policy.

    Attributes:
        loss: ``[K]``, to be minimized; differentiable.
        clipped: bool ``[K]``, where clipping changed the gradient.
        behav_ratio: ``[K]``, π_prox/π_behav.
        ratio: ``[K]``, u: π_θ/π_prox, or π_θ/π_behav if the objective is naive; no gradient.
        reference_kl: ``[K]``, estimate of KL(π_θ ‖ π_ref), if there is a reference.
    """

    loss: torch.Tensor
    clipped: torch.Tensor
    behav_ratio: torch.Tensor
    ratio: torch.Tensor
    reference_kl: torch.Tensor | None = None

    @classmethod
    def joined(cls, parts: Sequence[TokenLoss]) -> TokenLoss:
        """Concatenate parts of a row."""
        kl = [p.reference_kl for p in parts if p.reference_kl is not None]
        return cls(
            torch.cat([p.loss for p in parts]),
            torch.cat([p.clipped for p in parts]),
            torch.cat([p.behav_ratio for p in parts]),
            torch.cat([p.ratio for p in parts]),
            torch.cat(kl) if kl else None,
        )


def token_loss(objective: Objective, tokens: Tokens) -> TokenLoss:
    """Return the loss of each token; :class:`Objective` describes each choice.

    Decoupled (arXiv 2505.24298, eq 5): −w · min(u·Â, clip(u)·Â) with u = π_θ/π_prox and w = π_prox/π_behav.
    Naive: the same with π_behav in place of π_prox, so that w = 1 and stale samples are clipped against an
    outdated policy.

    Raises:
        ValueError: the objective needs the entropy or a reference, and it is missing.
    """
    weight = behav_ratio = _ratio(objective, tokens, tokens.prox, tokens.behav)
    if not objective.decoupled:
        weight = torch.ones_like(behav_ratio)
    elif objective.behav_mode == "mask":
        weight = torch.where(behav_ratio > objective.behav_clip, 0.0, weight)
    else:
        weight = weight.clamp(max=objective.behav_clip)
    ratio = _ratio(objective, tokens, tokens.logprobs, tokens.prox if objective.decoupled else tokens.behav)
    gain, clipped = _SURROGATES[objective.surrogate](objective, tokens, ratio)
    loss, divergence = -weight * gain, None
    if objective.kl > 0:
        divergence = reference_kl(tokens)
        loss = loss + objective.kl * divergence
    if objective.entropy > 0:
        if tokens.entropy is None:
            raise ValueError("the objective has an entropy bonus, but no entropy is given")
        loss = loss - objective.entropy * tokens.entropy
    return TokenLoss(loss, clipped, behav_ratio, ratio.detach(), divergence)


def _ratio(objective: Objective, tokens: Tokens, new: torch.Tensor, old: torch.Tensor) -> torch.Tensor:
    """Return new/old of each token, or the geometric mean over its sequence (arXiv 2507.18071, eq 7)."""
    log_ratio = new - old
    if objective.ratio == "sequence":
        log_ratio = _mean_over_sequence(log_ratio, tokens.owner)
    return torch.exp(log_ratio.clamp(max=_LARGEST_LOG_RATIO))


def _mean_over_sequence(values: torch.Tensor, owner: torch.Tensor) -> torch.Tensor:
    sizes = torch.bincount(owner)
    sums = torch.zeros(len(sizes), dtype=values.dtype, device=values.device).index_add(0, owner, values)
    return (sums / sizes.clamp(min=1))[owner]


def _ppo(objective: Objective, tokens: Tokens, ratio: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return min(u·Â, clip(u)·Â) (arXiv 1707.06347, eq 7), at least c·Â where Â < 0 (1912.09729, eq 5)."""
    plain = ratio * tokens.advantages
    bounded = ratio.clamp(*objective.bounds) * tokens.advantages
    gain, clipped = torch.minimum(plain, bounded), bounded.detach() < plain.detach()
    if objective.dual_clip < math.inf:
        floor = objective.dual_clip * tokens.advantages
        binds = (tokens.advantages < 0) & (gain.detach() < floor)
        gain, clipped = torch.where(binds, floor, gain), clipped | binds
    return gain, clipped


def _cispo(objective: Objective, tokens: Tokens, ratio: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return sg(clip(u))·Â·log π_θ (arXiv 2506.13585, eq 4)."""
    fixed = ratio.detach()
    bounded = fixed.clamp(*objective.bounds)
    if objective.dual_clip < math.inf:
        bounded = torch.where(tokens.advantages < 0, bounded.clamp(max=objective.dual_clip), bounded)
    return bounded * tokens.advantages * tokens.logprobs, bounded != fixed


_SURROGATES = {"ppo": _ppo, "cispo": _cispo}


def reference_kl(tokens: Tokens) -> torch.Tensor:
    """Estimate KL(π_θ ‖ π_ref) of each token, ``[K]``: r − 1 − log r, r = π_ref/π_θ (arXiv 2402.03300, eq 4).

    Raises:
        ValueError: there is no reference.
    """
    if tokens.reference is None:
        raise ValueError("the objective has a KL term, but no log-probabilities of the reference are given")
    log_ratio = (tokens.reference - tokens.logprobs).clamp(max=_LARGEST_LOG_RATIO)
    return log_ratio.exp() - 1 - log_ratio


def shares(aggregation: Aggregation, lengths: torch.Tensor, max_new_tokens: int) -> torch.Tensor:
    """Return the share of each token of each sequence in the loss of its minibatch, ``[S]``.

    All sequences of the minibatch count, including those that do not pass through the model because they
    cannot change it. The split into micro-batches therefore has no effect.

    Args:
        aggregation: token-mean: 1/Σ lengths; sequence-mean: 1/(S · length); fixed-length: 1/(S ·
            max_new_tokens).
        lengths: int ``[S]``, sampled tokens of each sequence of the minibatch, each at least 1.
        max_new_tokens: tokens of the longest response allowed.
    """
    if aggregation == "token-mean":
        return torch.full(lengths.shape, 1 / int(lengths.sum()))
    if aggregation == "sequence-mean":
        return 1 / (len(lengths) * lengths.float())
    return torch.full(lengths.shape, 1 / (len(lengths) * max_new_tokens))
