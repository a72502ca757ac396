"""The learner: takes a batch, updates the model, and reports metrics.

Guarantee: π_prox is the policy at the start of the step, for every minibatch (eq 5). The learner makes no
forward pass that cannot change the result: the first minibatch's own pass gives its π_prox, a naive objective
needs none, and trajectories that cannot change the policy only count in the denominators.
"""

from __future__ import annotations

import itertools
import operator
import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import torch

from areal.config import LearnerConfig
from areal.errors import UserError
from areal.learner import lora
from areal.learner.attention import PADDED, Kernel, changes_scores, varlen_kernel
from areal.learner.checkpoint_names import as_in_checkpoints, kept_buffers
from areal.learner.critic import Critic
from areal.learner.dummy_batch import dummy_batch
from areal.learner.flops import FlopCounter, head_size, peak_flops
from areal.learner.logits import Scores
from areal.learner.metrics import Sums
from areal.learner.minibatches import MicroBatch, Splitter
from areal.learner.model import Policy, load_model, require_replay
from areal.learner.objectives import TokenLoss, token_loss
from areal.learner.parallelize import compiles, compute_dtype, full, micro_batch_tokens, uses_varlen
from areal.learner.ranks import all_gather_objects, rank, world_size
from areal.learner.routers import Routers
from areal.learner.state import Tensors, below
from areal.learner.token_log import TokenLog
from areal.learner.trainable import TrainableModule
from areal.models.sight import load_sight
from areal.trajectory import Batch, TokenValues

_SMALL = 512
"""Number of tokens of a small micro-batch."""


class Learner:
    """A causal language model, its optimizer, and the number of finished updates.

    Args:
        path: the initial model of the run; with ``kl`` it is also the reference.
        temperature: temperature of the sampling distribution.
        threads: number of CPU threads, if there is no GPU; None: PyTorch's default.
        max_new_tokens: tokens of the longest response allowed, in which some objectives measure lengths.
        kernel: attention kernel; None: the default of the device.

    Attributes:
        model: the Hugging Face model; its trained weights are float32, and may be sharded.
        policy: the trained policy.
        passes: number of micro-batches that have passed through a model.
        token_values: values of the tokens of a few rollouts in the last update.
    """

    def __init__(
        self,
        path: str,
        settings: LearnerConfig,
        device: str,
        temperature: float,
        threads: int | None = None,
        max_new_tokens: int | None = None,
        kernel: Kernel | None = None,
    ) -> None:
        if threads is not None and device == "cpu":
            torch.set_num_threads(threads)
        self._settings = settings
        self._device = torch.device(device)
        self._temperature = temperature
        if max_new_tokens is None and (settings.overlong or settings.aggregation == "fixed-length"):
            raise ValueError(
                f"objective {settings.objective} measures lengths in max_new_tokens; give max_new_tokens"
            )
        if settings.advantage == "gae" and world_size() > 1:
            raise ValueError("only one process can train a critic")
        self.path = path
        self.model: Any = load_model(path)
        self._flops = FlopCounter(self.model)  # before weights become parts of adapted layers
        if self.adapted:
            lora.adapt(self.model, settings, self._device)
            self._exact_types = lora.exact_types(self.model)
        self._routers = Routers(self.model)
        if settings.router_replay:
            require_replay(self.model, self._routers, path)
        policy = Policy(self.model, self._routers if settings.router_replay else None)
        self.policy = TrainableModule(
            policy, settings, self._device, named=self.model, rounded=not self.adapted
        )
        if kernel is None and uses_varlen(settings, self._device):
            kernel = varlen_kernel(head_size(self.model.config.get_text_config()), self._device)
        # Kernels of variable length only support plain scores.
        self._kernel = None if changes_scores(self.model) else kernel
        self._splitter = Splitter(
            settings,
            settings.minibatches,
            micro_batch_tokens(settings, self._device),
            max_new_tokens or 0,
            self._device,
            self._kernel,
            rank(),
            world_size(),
            load_sight(path),
        )
        self._critic = Critic(path, settings, self._device) if settings.advantage == "gae" else None
        self._reference: TrainableModule | None = None
        if settings.kl > 0:  # an adapted model is its own reference, without the adapter
            self._reference = self.policy
            if not self.adapted:
                self._reference = TrainableModule(Policy(load_model(path)), settings, self._device)
        self._peak = peak_flops(self._device)
        self.version = self.passes = 0
        self.token_values: list[TokenValues] = []

    @property
    def adapted(self) -> bool:
        """Whether the learner trains an adapter instead of the weights."""
        return self._settings.lora_rank > 0

    @property
    def description(self) -> str:
        """A short description of the computation."""
        dtype = str(compute_dtype(self._settings, self._device)).removeprefix("torch.")
        processes = f"{world_size()} processes, " if world_size() > 1 else ""
        return f"{processes}{dtype}, attention: {self._kernel.name if self._kernel else PADDED}"

    def update(self, batch: Batch) -> dict[str, float]:
        """Make one update, with one optimizer step per minibatch, and return its metrics."""
        started = time.monotonic()
        minibatches, without_advantage = self._splitter.split(batch)
        judged = self._score_before(minibatches)
        self._routers.clear()
        lr_scale = min(1.0, (self.version + 1) / (self._settings.warmup_steps + 1))
        sums, tokens_of_some, norms = Sums(), TokenLog(self._settings), []
        for index, minibatch in enumerate(minibatches):
            for micro in minibatch:
                self._accumulate(micro, sums, tokens_of_some, first=index == 0)
            norms.append(self._step(lr_scale))
        self.version += 1
        metrics = {**sums.metrics(), **self._routers.metrics()}
        self.token_values = tokens_of_some.gathered(batch)
        done = all_gather_objects((_tokens(minibatches), self._work(minibatches)))
        tokens, work = map(sum, zip(*done, strict=True))
        elapsed = time.monotonic() - started
        return {
            **metrics,
            **judged,
            "grad_norm": max(norms),
            "lr": self._settings.learning_rate * lr_scale,
            "advantage/zero": without_advantage,
            "time/train": elapsed,
            "learner/tokens_per_s": tokens / elapsed,
            **({"learner/mfu": work / elapsed / self._peak / world_size()} if self._peak else {}),
        }

    def _score_before(self, minibatches: list[list[MicroBatch]]) -> dict[str, float]:
        """Score the tokens before the first step with each model the objective needs; return metrics."""
        if self._settings.decoupled:
            for micro in itertools.chain(*minibatches[1:]):
                micro.prox = self.policy(micro.packed, self._temperature).logprobs
                self.passes += 1
        if self._reference is not None:
            with lora.without_adapter(self.model) if self.adapted else nullcontext():
                for micro in itertools.chain(*minibatches):
                    # The reference is a separate policy with its own choices of experts.
                    packed = replace(micro.packed, experts=None)
                    micro.reference = self._reference(packed, self._temperature).logprobs
                    self.passes += 1
        return {} if self._critic is None else self._critic.judge(list(itertools.chain(*minibatches)))

    def _accumulate(self, micro: MicroBatch, sums: Sums, tokens_of_some: TokenLog, first: bool) -> None:
        """Add a micro-batch's gradients and metrics; ``first``: this update has made no step yet."""
        self.passes += 1
        losses: list[TokenLoss] = []

        def loss(logprobs: torch.Tensor, entropy: torch.Tensor, part: slice) -> torch.Tensor:
            losses.append(token_loss(self._settings, micro.tokens(logprobs, entropy, part)))
            return losses[-1].loss * micro.share[part]

        # A sequence-level ratio needs all tokens of the sequence; every other term needs one token.
        separable = self._settings.ratio == "token"
        self._routers.counting, self._routers.comparing = micro.counts, micro.counts and first
        scores: Scores = self.policy.accumulate(
            operator.attrgetter("loss"), micro.packed, self._temperature, loss, separable
        )
        self._routers.counting = self._routers.comparing = False
        if self._critic is not None:
            self._critic.accumulate(micro)
        if not micro.counts:
            return
        token = TokenLoss.joined(losses)
        sums.add_pass(micro.packed, scores, token)
        tokens_of_some.add(micro, scores, token)
        prox = scores.logprobs if first else micro.prox
        if prox is not None:
            sums.add_mismatch(micro.packed, prox, self.version)

    def _step(self, lr_scale: float) -> float:
        """Make an optimizer step; return the norm of the policy's gradient before clipping."""
        norm = self.policy.step(self._settings.learning_rate * lr_scale, self.version)
        if self._critic is not None:
            self._critic.step(lr_scale, self.version)
        return norm

    def _work(self, minibatches: list[list[MicroBatch]]) -> int:
        """Return the floating-point operations of this rank's part of an update."""
        work = 0
        for i, minibatch in enumerate(minibatches):
            # Forward, and backward to the inputs and the weights; an adapter's weights are negligible.
            passes = 2 if self.adapted else 3
            passes += (i > 0 and self._settings.decoupled) + (self._reference is not None)
            for packed in (micro.packed for micro in minibatch if micro.counts):
                predicted = len(packed.targets)
                work += passes * self._flops.forward(len(packed.tokens), predicted, packed.pairs)
                if self._critic is not None:
                    work += 4 * self._flops.forward(len(packed.tokens), 0, packed.pairs)
        return work

    def warm_up(self) -> None:
        """Compile everything that updates need, by passes on dummy batches, if anything is compiled.

        One batch fills its micro-batches and one is small, because sums over a small one are compiled
        differently. The weights, the optimizer and the random states do not change.
        """
        if not compiles(self._settings, self._device):
            return
        budget, minibatches = self._splitter.budget, self._settings.minibatches
        for tokens in (budget * world_size(), min(_SMALL, budget)):
            dummy = dummy_batch(minibatches, tokens, self._splitter.max_new_tokens)
            split, _ = self._splitter.split(dummy)
            self._score_before(split)
            for micro in itertools.chain(*split):
                self._accumulate(micro, Sums(), TokenLog(self._settings), first=True)
        self.policy.zero_grad()
        if self._critic is not None:
            self._critic.values.zero_grad()

    def named_parameters(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Return the float32 weights in the form of the model's checkpoints, tied ones once, none sharded.

        They include the few that are never trained but belong to a checkpoint, such as the bias of a router.
        """
        if self.adapted:
            weights = lora.merged_parameters(self.model)
        else:
            weights = ((name, full(p.detach())) for name, p in self.model.named_parameters())
        return as_in_checkpoints(self.model, itertools.chain(weights, kept_buffers(self.model)))

    def sent_parameters(self, dtype: torch.dtype, again: bool = False) -> Iterator[tuple[str, torch.Tensor]]:
        """Return the weights to send to engines: all, or with an adapter, the base and the factors.

        The base of an adapter is sent unchanged if the engine's type represents it exactly. Otherwise, or
        if transformers converts weights when it loads the model, such as experts, all weights are sent, with
        the adapter merged.

        Args:
            dtype: type of the engine's weights.
            again: whether the engines already have the base; if so, only the factors are sent, if there are
                any.
        """
        if not self.adapted or dtype not in self._exact_types or self.model._weight_conversions:
            return self.named_parameters()
        if again:
            return lora.factors(self.model)
        base = ((name, full(tensor.detach())) for name, tensor in lora.base_tensors(self.model))
        return itertools.chain(base, kept_buffers(self.model), lora.factors(self.model))

    def move_base(self, place: dict[str, torch.Tensor] | None) -> None:
        """Move the frozen base of an adapter, to avoid a second copy beside the engines' weights.

        With several ranks, each keeps its part in place.

        Args:
            place: tensors with the names of :meth:`sent_parameters`, from which engines load. Those on the
                learner's type of device with the type and shape of the base's receive its values and become
                the base; the others leave it on the learner's device. None: the base moves to host memory.
        """
        if not self.adapted or world_size() > 1:
            return
        for name, tensor in lora.base_tensors(self.model):
            if place is None:
                tensor.data = tensor.cpu()
                continue
            view = place.get(name)
            if view is not None and _alike(view, tensor) and view.device.type == self._device.type:
                tensor.data = view.copy_(tensor)
            else:
                tensor.data = tensor.to(self._device)
        if place is None and self._device.type == "cuda":
            torch.cuda.empty_cache()

    def state(self, whole: bool = False) -> Tensors:
        """Return everything on which the next update depends, by name: the tensors themselves, not copies.

        Args:
            whole: include all tensors of a trained learner, so that a saved state can be loaded into them.
        """
        found = self.policy.state(whole)
        if self._critic is not None:
            found |= {f"critic.{name}": tensor for name, tensor in self._critic.values.state(whole).items()}
        found["version"] = torch.tensor(self.version)
        found["random.cpu"] = torch.get_rng_state()
        if self._device.type == "cuda":
            found["random.cuda"] = torch.cuda.get_rng_state(self._device)
        return found

    def load_state(self, state: Tensors) -> None:
        """Restore what :meth:`state` returned, here or in another process.

        Raises:
            UserError: the objective needs a critic, and the state has none.
        """
        if self._critic is not None:
            critic = below("critic.", state)
            if not critic:
                raise UserError(
                    "the checkpoint has no critic for learner.advantage=gae; resume with the objective "
                    "with which the run began"
                )
            self._critic.values.load_state(critic)
        self.policy.load_state(state)
        self.version = int(state["version"])
        torch.set_rng_state(state["random.cpu"])
        if self._device.type == "cuda" and "random.cuda" in state:
            torch.cuda.set_rng_state(state["random.cuda"], self._device)


def _alike(one: torch.Tensor, other: torch.Tensor) -> bool:
    return (one.dtype, one.shape) == (other.dtype, other.shape)


def _tokens(minibatches: list[list[MicroBatch]]) -> int:
    return sum(len(micro.packed.tokens) for micro in itertools.chain(*minibatches) if micro.counts)
