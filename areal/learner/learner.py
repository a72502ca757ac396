"""The learner: takes a batch, updates the model, reports what happened.

Guarantee: π_prox is the policy at the start of the step, for every minibatch (eq 5). No forward pass is
made that cannot change the result: the first minibatch's own pass gives its π_prox, a naive objective needs
none, and trajectories that cannot move the policy only count in the denominators.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch

from areal.config import LearnerConfig
from areal.errors import UserError
from areal.learner import lora
from areal.learner.attention import changes_scores, kernel_name
from areal.learner.checkpoint_names import as_in_checkpoints, kept_buffers
from areal.learner.critic import Critic
from areal.learner.dummy_batch import dummy_batch
from areal.learner.flops import FlopCounter, peak_flops
from areal.learner.minibatches import MicroBatch, Splitter
from areal.learner.model import Policy, load_model
from areal.learner.objectives import TokenLoss, token_loss
from areal.learner.optimizer import adamw, forget, set_rate, step
from areal.learner.packed import Packed
from areal.learner.parallelize import (
    compiles,
    compute_dtype,
    full,
    gather_gradients,
    let_go,
    micro_batch_tokens,
    parallelize,
    uses_varlen,
)
from areal.learner.ranks import all_gather_objects, rank, world_size
from areal.learner.state import Tensors, below, load_tensors, tensors_of
from areal.trajectory import Batch

_SMALL = 512
"""Tokens of a small micro-batch."""


@dataclass(slots=True)
class _Sums:
    """Sums over the tokens of a batch that passed through the model; they stay on the device meanwhile."""

    tokens: int = 0
    totals: dict[str, torch.Tensor] = field(default_factory=dict)

    def add(self, **values: torch.Tensor) -> None:
        for name, tensor in values.items():
            total = tensor.detach().sum(dtype=torch.float64)
            self.totals[name] = self.totals[name] + total if name in self.totals else total

    def largest(self, name: str, values: torch.Tensor) -> None:
        found = values.detach().max()
        self.totals[name] = torch.maximum(self.totals[name], found) if name in self.totals else found

    def all_gather(self) -> _Totals:
        """Return the sums of all ranks."""
        found = all_gather_objects((self.tokens, {name: float(value) for name, value in self.totals.items()}))
        return _Totals(sum(tokens for tokens, _ in found), [totals for _, totals in found])


@dataclass(frozen=True, slots=True)
class _Totals:
    """Those sums, as numbers, of each rank."""

    tokens: int
    totals: list[dict[str, float]]

    def total(self, name: str) -> float:
        return sum(of_one.get(name, 0.0) for of_one in self.totals)

    def largest(self, name: str) -> float:
        return max(of_one.get(name, 0.0) for of_one in self.totals)

    def mean(self, name: str) -> float:
        return self.total(name) / self.tokens if self.tokens else 0.0


class Learner:
    """A causal language model, its optimizer, and the number of finished updates.

    Args:
        path: the model that the run begins with; with ``kl`` it is also the reference.
        settings: how.
        device: where.
        temperature: of the distribution that was sampled from.
        threads: CPU threads, without a GPU; None: as torch has it.
        max_new_tokens: tokens of the longest response allowed, which some objectives measure lengths by.
    """

    def __init__(
        self,
        path: str,
        settings: LearnerConfig,
        device: str,
        temperature: float,
        threads: int | None = None,
        max_new_tokens: int | None = None,
    ) -> None:
        if threads is not None and device == "cpu":
            torch.set_num_threads(threads)
        self._settings = settings
        self._objective = objective = settings.choices
        self._device = torch.device(device)
        self._temperature = temperature
        if max_new_tokens is None and (objective.overlong or objective.aggregation == "fixed-length"):
            raise ValueError(f"objective {settings.objective} measures lengths by max_new_tokens: give it")
        if objective.advantage == "gae" and world_size() > 1:
            raise ValueError("a critic is trained by one process alone")
        self.path = path
        self.policy = self._load(path, settings.lora_rank)
        # Kernels of variable length have plain scores only.
        self._varlen = uses_varlen(settings, self._device) and not changes_scores(self.model)
        self._splitter = Splitter(
            objective,
            settings.minibatches,
            micro_batch_tokens(settings, self._device),
            max_new_tokens or 0,
            self._device,
            self._varlen,
            rank(),
            world_size(),
        )
        self._optimizer = adamw(self.policy, settings)
        self._critic = Critic(path, settings, self._device) if objective.advantage == "gae" else None
        self._reference: Policy | None = None
        if objective.kl > 0:  # an adapted model is its own reference, without the adapter
            self._reference = self.policy if self.adapted else self._load(path)
        self._flops = FlopCounter(self.model)
        self._peak = peak_flops(self._device)
        self.version = 0

    def _load(self, path: str, lora_rank: int = 0) -> Policy:
        policy = Policy(load_model(path))
        if lora_rank:
            lora.adapt(policy.model, lora_rank)
        parallelize(policy, policy.model, self._settings, self._device)
        return policy

    @property
    def model(self) -> Any:
        """The Hugging Face model; its parameters may be sharded."""
        return self.policy.model

    @property
    def adapted(self) -> bool:
        """Whether an adapter is trained and not the weights."""
        return self._settings.lora_rank > 0

    @property
    def description(self) -> str:
        """How it computes, in a few words."""
        dtype = str(compute_dtype(self._settings, self._device)).removeprefix("torch.")
        processes = f"{world_size()} processes, " if world_size() > 1 else ""
        return f"{processes}{dtype}, attention: {kernel_name(self._varlen)}"

    def named_parameters(self) -> Iterator[tuple[str, torch.Tensor]]:
        """The float32 weights as checkpoints of the model have them, tied ones once, each whole.

        With the few that are never trained but belong to a checkpoint, such as the bias of a router.
        """
        let_go(self.policy)
        if self.adapted:
            weights = lora.merged_parameters(self.model)
        else:
            weights = ((name, full(p.detach())) for name, p in self.model.named_parameters())
        return as_in_checkpoints(self.model, itertools.chain(weights, kept_buffers(self.model)))

    def warm_up(self) -> None:
        """Compile everything that updates need, if anything is compiled, by their passes on dummy batches.

        One batch fills its micro-batches and one is small: sums over a small one are compiled differently.
        Weights, optimizer and random states stay as they are.
        """
        if not compiles(self._settings, self._device):
            return
        budget, minibatches = self._splitter.budget, self._settings.minibatches
        for tokens in (budget * world_size(), min(_SMALL, budget)):
            made, _ = self._splitter.split(dummy_batch(minibatches, tokens, self._splitter.max_new_tokens))
            self._look_ahead(made)
            for micro in (micro for minibatch in made for micro in minibatch):
                self._accumulate(micro, _Sums())
                if self._critic is not None:
                    self._critic.accumulate(micro)
        forget(self.policy, self._optimizer)
        if self._critic is not None:
            self._critic.forget()

    def update(self, batch: Batch) -> dict[str, float]:
        """Make one update (one optimizer step for each minibatch) and return its metrics."""
        started = time.monotonic()
        minibatches, without_advantage = self._splitter.split(batch)
        micros = [micro for minibatch in minibatches for micro in minibatch]
        judged = self._look_ahead(minibatches)
        sums = _Sums()
        lr_scale = min(1.0, (self.version + 1) / (self._settings.warmup_steps + 1))
        set_rate(self._optimizer, self._settings.learning_rate * lr_scale)
        norms = [
            self._optimizer_step(i, minibatch, lr_scale, sums) for i, minibatch in enumerate(minibatches)
        ]
        self.version += 1
        totals = sums.all_gather()
        done = all_gather_objects((_tokens(micros), self._work(minibatches)))
        tokens, work = map(sum, zip(*done, strict=True))
        elapsed = time.monotonic() - started
        return {
            "loss": totals.mean("loss"),
            "grad_norm": max(norms),
            "lr": self._settings.learning_rate * lr_scale,
            "policy/entropy": totals.mean("entropy"),
            "policy/kl": totals.mean("kl"),
            "policy/clip_ratio": totals.mean("clipped"),
            "policy/behav_ratio": totals.mean("behav_ratio"),
            **({"policy/reference_kl": totals.mean("reference_kl")} if self._reference is not None else {}),
            **judged,
            **_mismatch(totals),
            "advantage/zero": without_advantage,
            "time/train": elapsed,
            "learner/tokens_per_s": tokens / elapsed,
            **({"learner/mfu": work / elapsed / self._peak / world_size()} if self._peak else {}),
        }

    def _work(self, minibatches: list[list[MicroBatch]]) -> int:
        """Floating-point operations that this rank's part of an update has to make."""
        work = 0
        for i, minibatch in enumerate(minibatches):
            # Forward, and backward to the inputs and to the weights, of which adapters are next to nothing.
            passes = (
                (2 if self.adapted else 3)
                + (i > 0 and self._objective.decoupled)
                + (self._reference is not None)
            )
            for micro in (m for m in minibatch if m.counts):
                packed, predicted = micro.packed, len(micro.packed.targets)
                work += passes * self._flops.forward(len(packed.tokens), predicted, packed.pairs)
                if self._critic is not None:
                    work += 4 * self._flops.forward(len(packed.tokens), 0, packed.pairs)
        return work

    @torch.no_grad()
    def _look_ahead(self, minibatches: list[list[MicroBatch]]) -> dict[str, float]:
        """Ask all models, before the first of them moves, what the objective needs; return what to report."""
        if self._objective.decoupled:
            for minibatch in minibatches[1:]:
                for micro in minibatch:
                    micro.prox = self.policy(micro.packed, self._temperature).logprobs
        micros = [micro for minibatch in minibatches for micro in minibatch]
        if self._reference is not None:
            with lora.without_adapter(self._reference.model) if self.adapted else nullcontext():
                for micro in micros:
                    micro.reference = self._reference(micro.packed, self._temperature).logprobs
        return {} if self._critic is None else self._critic.judge(micros)

    def _optimizer_step(self, index: int, minibatch: list[MicroBatch], lr_scale: float, sums: _Sums) -> float:
        """Accumulate gradients over the micro-batches, clip, step; return the norm before clipping."""
        for micro in minibatch:
            prox = self._accumulate(micro, sums)
            of_the_start = index == 0 or self._objective.decoupled  # whether prox is the step's first policy
            if micro.counts and of_the_start:
                self._compare(micro.packed, prox, sums)
            if self._critic is not None:
                self._critic.accumulate(micro)
        norm = step(
            self.policy, self._optimizer, self._settings.grad_clip, self.version, moves=bool(minibatch)
        )
        if self._critic is not None:
            self._critic.step(lr_scale, self.version)
        return norm

    def _accumulate(self, micro: MicroBatch, sums: _Sums) -> torch.Tensor:
        """Add a micro-batch's gradients and return the log-probabilities under π_prox."""
        losses: list[TokenLoss] = []

        def loss(logprobs: torch.Tensor, entropy: torch.Tensor, part: slice) -> torch.Tensor:
            losses.append(token_loss(self._objective, micro.tokens(logprobs, entropy, part)))
            return losses[-1].loss * micro.share[part]

        # A sequence's ratio is made of all its tokens; every other term is of one token.
        separable = self._objective.ratio == "token"
        logprobs, entropy, total = self.policy(micro.packed, self._temperature, loss, separable)
        total.backward()
        gather_gradients(self.policy)
        if not micro.counts:
            return logprobs
        behav, token = micro.packed.behav, TokenLoss.joined(losses)
        difference = logprobs - behav
        sums.tokens += len(behav)
        sums.add(
            loss=token.loss,
            entropy=entropy,
            kl=difference.exp() - 1 - difference,  # Schulman's k3 estimate of KL(π_behav ‖ π_θ)
            clipped=token.clipped,
            behav_ratio=token.behav_ratio,
        )
        if token.reference_kl is not None:
            sums.add(reference_kl=token.reference_kl)
        return logprobs if micro.prox is None else micro.prox

    def _compare(self, packed: Packed, prox: torch.Tensor, sums: _Sums) -> None:
        """Note how far learner and engine are apart where both had the same weights."""
        fresh = packed.versions == self.version
        # 0 elsewhere: to pick them out, the host would have to wait for the device.
        difference = torch.where(fresh, prox - packed.behav, 0.0)
        sums.add(fresh=fresh, mismatch=difference.abs(), mismatch_kl=(difference.exp() - 1 - difference))
        sums.largest("mismatch_max", difference.abs())

    def state(self, whole: bool = False) -> Tensors:
        """All that the next update depends on, by name: the tensors themselves, no copies.

        Args:
            whole: with all that a trained learner has, as a place to load it into.
        """
        let_go(self.policy)
        found = tensors_of(self.model, self._optimizer, whole)
        if self._critic is not None:
            found |= {f"critic.{name}": tensor for name, tensor in self._critic.state(whole).items()}
        found["version"] = torch.tensor(self.version)
        found["random.cpu"] = torch.get_rng_state()
        if self._device.type == "cuda":
            found["random.cuda"] = torch.cuda.get_rng_state(self._device)
        return found

    def load_state(self, state: Tensors) -> None:
        """Take back what :meth:`state` returned, here or in another process.

        Raises:
            UserError: the state has no critic, and the objective needs one.
        """
        if self._critic is not None:
            critic = below("critic.", state)
            if not critic:
                raise UserError(
                    "the checkpoint has no critic for learner.advantage=gae: go on with the objective that "
                    "the run began with"
                )
            self._critic.load_state(critic)
        let_go(self.policy)
        load_tensors(self.model, self._optimizer, state)
        self.version = int(state["version"])
        torch.set_rng_state(state["random.cpu"])
        if self._device.type == "cuda" and "random.cuda" in state:
            torch.cuda.set_rng_state(state["random.cuda"], self._device)


def _tokens(micros: list[MicroBatch]) -> int:
    return sum(len(micro.packed.tokens) for micro in micros if micro.counts)


def _mismatch(totals: _Totals) -> dict[str, float]:
    """What tokens say of engine and learner that were sampled by the very weights that the step began with.

    Both should have the same log-probabilities of them. Without such tokens there is nothing to report.
    """
    fresh = totals.total("fresh")
    if not fresh:
        return {}
    return {
        "mismatch/logprob": totals.total("mismatch") / fresh,
        "mismatch/logprob_max": totals.largest("mismatch_max"),
        "mismatch/kl": totals.total("mismatch_kl") / fresh,
        "mismatch/tokens": fresh / totals.tokens,
    }
