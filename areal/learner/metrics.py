"""Sums over the sampled tokens of an update, for its metrics."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from areal.learner.logits import Scores
from areal.learner.objectives import TokenLoss
from areal.learner.packed import Packed
from areal.learner.ranks import all_gather_objects


@dataclass(slots=True)
class Sums:
    """Sums over the tokens that passed through the model; they stay on the device until they are gathered."""

    tokens: int = 0
    totals: dict[str, torch.Tensor] = field(default_factory=dict)

    def add_pass(self, packed: Packed, scores: Scores, token: TokenLoss) -> None:
        """Add the statistics of a pass of the trained policy."""
        difference = scores.logprobs - packed.behav
        self.tokens += len(packed.behav)
        self._add(
            loss=token.loss,
            entropy=scores.entropy,
            kl=difference.exp() - 1 - difference,  # Schulman's k3 estimate of KL(π_behav ‖ π_θ)
            clipped=token.clipped,
            behav_ratio=token.behav_ratio,
        )
        if token.reference_kl is not None:
            self._add(reference_kl=token.reference_kl)

    def add_mismatch(self, packed: Packed, prox: torch.Tensor, version: int) -> None:
        """Add the difference between learner and engine, on the tokens that this version sampled.

        Args:
            prox: ``[K]``, log-probabilities of the tokens under the learner's weights of that version.
            version: version of the weights at the start of the update.
        """
        fresh = packed.versions == version
        # 0 elsewhere, because the host would have to wait for the device to select them.
        difference = torch.where(fresh, prox - packed.behav, 0.0)
        self._add(fresh=fresh, mismatch=difference.abs(), mismatch_kl=(difference.exp() - 1 - difference))
        largest, name = difference.abs().max(), "mismatch_max"
        self.totals[name] = torch.maximum(self.totals[name], largest) if name in self.totals else largest

    def _add(self, **values: torch.Tensor) -> None:
        for name, tensor in values.items():
            total = tensor.detach().sum(dtype=torch.float64)
            self.totals[name] = self.totals[name] + total if name in self.totals else total

    def metrics(self) -> dict[str, float]:
        """Return the metrics of all ranks' tokens; every rank must call this."""
        found = all_gather_objects((self.tokens, {name: float(value) for name, value in self.totals.items()}))
        tokens, ranks = sum(count for count, _ in found), [totals for _, totals in found]

        def total(name: str) -> float:
            return sum(of_rank.get(name, 0.0) for of_rank in ranks)

        def mean(name: str) -> float:
            return total(name) / tokens if tokens else 0.0

        metrics = {
            "loss": mean("loss"),
            "policy/entropy": mean("entropy"),
            "policy/kl": mean("kl"),
            "policy/clip_ratio": mean("clipped"),
            "policy/behav_ratio": mean("behav_ratio"),
        }
        if any("reference_kl" in of_rank for of_rank in ranks):
            metrics["policy/reference_kl"] = mean("reference_kl")
        if fresh := total("fresh"):  # without such tokens there is no comparison
            metrics |= {
                "mismatch/logprob": total("mismatch") / fresh,
                "mismatch/logprob_max": max(of_rank.get("mismatch_max", 0.0) for of_rank in ranks),
                "mismatch/kl": total("mismatch_kl") / fresh,
                "mismatch/tokens": fresh / tokens,
            }
        return metrics
