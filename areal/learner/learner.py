"""The learner: takes a batch, updates the model, reports what happened.

Guarantee: π_prox is the policy at the start of the step, for every minibatch (eq 5). No forward pass is
made that cannot change the result: the first minibatch's own pass gives its π_prox, and trajectories whose
advantage is exactly zero, which cannot move the policy, only count in the denominator.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from areal.config import LearnerConfig
from areal.learner.advantages import group_normalised
from areal.learner.microbatches import allocate
from areal.learner.model import load_model, logprobs_and_entropy
from areal.learner.objectives import ppo
from areal.learner.packed import Packed, pack
from areal.trajectory import Batch, Trajectory


@dataclass(slots=True)
class _Micro:
    """One micro-batch: its tokens, the advantage of each sampled one, and π_prox once it is known."""

    packed: Packed
    advantages: torch.Tensor
    prox: torch.Tensor | None = None


@dataclass(slots=True)
class _Minibatch:
    """The micro-batches of one optimizer step, and how many tokens the policy sampled in it."""

    micros: list[_Micro]
    sampled: int


@dataclass(slots=True)
class _Sums:
    """Sums over the tokens of a batch that were passed through the model."""

    tokens: int = 0
    totals: dict[str, float] = field(default_factory=lambda: defaultdict(float))

    def add(self, **values: torch.Tensor) -> None:
        for name, tensor in values.items():
            self.totals[name] += float(tensor.detach().sum())

    def mean(self, name: str) -> float:
        return self.totals[name] / self.tokens if self.tokens else 0.0


class Learner:
    """A causal language model, its optimizer, and the number of finished updates."""

    def __init__(
        self, path: str, settings: LearnerConfig, device: str, temperature: float, threads: int | None = None
    ) -> None:
        if threads is not None and device == "cpu":
            torch.set_num_threads(threads)
        self._settings = settings
        self._device = torch.device(device)
        self._temperature = temperature
        self.model = load_model(path, self._device, getattr(torch, settings.dtype))
        self._optimizer = _adamw(self.model, settings)
        self.version = 0
        self.busy_seconds = 0.0

    def named_parameters(self) -> Iterator[tuple[str, torch.Tensor]]:
        """The weights under their Hugging Face names, tied ones once."""
        return self.model.named_parameters()

    def update(self, batch: Batch) -> dict[str, float]:
        """Make one update (one optimizer step for each minibatch) and return its metrics."""
        started = time.monotonic()
        minibatches, rewards = self._prepare(batch)
        tokens = sum(len(micro.packed.tokens) for minibatch in minibatches for micro in minibatch.micros)
        with torch.no_grad():
            for minibatch in minibatches[1:]:
                for micro in minibatch.micros:
                    micro.prox, _ = self._forward(micro.packed)
        sums = _Sums()
        rate = self._set_learning_rate()
        norms = [self._optimizer_step(minibatch, sums) for minibatch in minibatches]
        self.version += 1
        elapsed = time.monotonic() - started
        self.busy_seconds += elapsed
        return {
            "loss": sums.mean("loss"),
            "grad_norm": max(norms),
            "lr": rate,
            "policy/entropy": sums.mean("entropy"),
            "policy/kl": sums.mean("kl"),
            "policy/clip_ratio": sums.mean("clipped"),
            "policy/behav_ratio": sums.mean("behav_ratio"),
            "advantage/zero": float((rewards == 0).float().mean()),
            "time/train": elapsed,
            "learner/tokens_per_s": tokens / elapsed,
        }

    def _prepare(self, batch: Batch) -> tuple[list[_Minibatch], torch.Tensor]:
        """Split the batch's groups into minibatches and those into micro-batches."""
        group_size = len(batch.groups[0].trajectories)
        rewards = torch.tensor([t.reward for t in batch.trajectories], dtype=torch.float32)
        advantages = group_normalised(rewards, group_size)
        trajectories = batch.trajectories
        size = len(trajectories) // self._settings.minibatches
        return [
            self._minibatch(trajectories[start : start + size], advantages[start : start + size])
            for start in range(0, len(trajectories), size)
        ], advantages

    def _minibatch(self, trajectories: Sequence[Trajectory], advantages: torch.Tensor) -> _Minibatch:
        useful = [i for i in range(len(trajectories)) if advantages[i] != 0]
        micros = []
        for members in allocate([len(trajectories[i]) for i in useful], self._settings.micro_batch_tokens):
            chosen = [useful[m] for m in members]
            packed = pack([trajectories[i] for i in chosen], self._device)
            micros.append(_Micro(packed, advantages[chosen].to(self._device)[packed.owner]))
        return _Minibatch(micros, sum(t.sampled for t in trajectories))

    def _forward(self, packed: Packed) -> tuple[torch.Tensor, torch.Tensor]:
        return logprobs_and_entropy(self.model, packed, self._temperature)

    def _optimizer_step(self, minibatch: _Minibatch, sums: _Sums) -> float:
        """Accumulate gradients over the micro-batches, clip, step; return the norm before clipping."""
        s = self._settings
        for micro in minibatch.micros:
            logprobs, entropy = self._forward(micro.packed)
            behav = micro.packed.behav
            prox = logprobs.detach() if micro.prox is None else micro.prox
            decoupled = s.objective == "decoupled-ppo"
            token = ppo(logprobs, prox, behav, micro.advantages, s.clip, decoupled, s.behav_clip)
            (token.loss.sum() / minibatch.sampled).backward()
            difference = logprobs.detach() - behav
            sums.tokens += len(behav)
            sums.add(
                loss=token.loss,
                entropy=entropy,
                kl=difference.exp() - 1 - difference,  # Schulman's k3 estimate of KL(π_behav ‖ π_θ)
                clipped=token.clipped,
                behav_ratio=token.behav_ratio,
            )
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), s.grad_clip)
        if not torch.isfinite(norm):
            raise FloatingPointError(
                f"the gradient is not finite at version {self.version}: lower learner.learning_rate"
            )
        if minibatch.micros:
            self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        return float(norm)

    def _set_learning_rate(self) -> float:
        warmup = self._settings.warmup_steps
        rate = self._settings.learning_rate * min(1.0, (self.version + 1) / (warmup + 1))
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        return rate

    def state(self) -> dict[str, Any]:
        """Everything but the weights that the next update depends on."""
        return {
            "version": self.version,
            "optimizer": self._optimizer.state_dict(),
            "torch_rng": torch.get_rng_state(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Take back what :meth:`state` returned."""
        self.version = state["version"]
        self._optimizer.load_state_dict(state["optimizer"])
        torch.set_rng_state(state["torch_rng"])


def _adamw(model: torch.nn.Module, settings: LearnerConfig) -> torch.optim.Optimizer:
    """AdamW that decays matrices only: norms and biases have no scale to hold down."""
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    others = [p for p in model.parameters() if p.ndim < 2]
    groups = [
        {"params": matrices, "weight_decay": settings.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=settings.learning_rate, betas=settings.betas, fused=True)
