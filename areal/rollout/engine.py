"""The interface of generation engines: tokens in; tokens, log-probabilities and versions out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np

from areal.errors import EngineLost
from areal.images import Image
from areal.trajectory import Finish

Interruption = Literal["recompute", "keep", "drain"]
"""What new weights do to the requests in flight; see :mod:`areal.rollout.vllm_engine`."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How to sample one continuation.

    With ``top_p``, ``top_k`` or ``min_p`` the log-probabilities are those of the truncated, renormalised
    distribution that was sampled from: not the learner's, so training does not use them.

    Attributes:
        max_tokens: longest continuation, the ending token included.
        temperature: 0 is greedy; the log-probabilities are then those of the plain distribution.
        top_p: sample among the likeliest tokens that together have this probability.
        top_k: sample among so many likeliest tokens; 0: all.
        min_p: sample among tokens at least this share as likely as the likeliest.
        stop: strings that end the continuation; the tokens that spell them are part of it.
        seed: makes this request's sampling reproducible; null: the engine's own random state.
        ignore_eos: go on past the end-of-sequence token (for measurements).
        presence_penalty, frequency_penalty, repetition_penalty: of tokens that were there before, as vLLM has
            them; not the learner's, either.
        schema: a JSON schema that the text has to conform to; empty: any text.
        thinking_budget: longest thought, which is ended then; None: as long as the continuation. Engines
            leave that to :mod:`areal.rollout.thought_budget`.
        experts_from: the first token whose experts are told: those before it, all in the prompt, are known.
    """

    max_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    stop: tuple[str, ...] = ()
    seed: int | None = None
    ignore_eos: bool = False
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    schema: str = ""
    thinking_budget: int | None = None
    experts_from: int = 0

    @property
    def is_divisible(self) -> bool:
        """Whether what is sampled in two parts, the first as a prompt of the second, is the same as in one.

        A stop string may begin in the first part, a seed samples the same again, and penalties and a schema
        tell the response from the prompt.
        """
        penalties = self.presence_penalty, self.frequency_penalty, self.repetition_penalty
        return not (self.stop or self.schema) and self.seed is None and penalties == (0, 0, 1)


@dataclass(frozen=True, slots=True)
class Completion:
    """One sampled continuation.

    Attributes:
        ids: the sampled tokens ``[T]``, the ending token included, and what was put in to end a thought.
        logprobs: their log-probabilities ``[T]`` under the weights that sampled them, after temperature; 0 of
            what was put in.
        versions: the version of those weights ``[T]``; it may rise inside one continuation; -1 of what was
            put in.
        finish: how it ended; what was aborted is not whole, and must not be trained on.
        experts: of prompt and continuation together, as :class:`areal.trajectory.Trajectory` has them, from
            the token on that was asked for.
    """

    ids: list[int]
    logprobs: list[float]
    versions: list[int]
    finish: Finish
    experts: np.ndarray | None = None


@dataclass(slots=True)
class Partial:
    """The part of a continuation that was sampled so far, with the fields of :class:`Completion`."""

    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    versions: list[int] = field(default_factory=list)

    def extend(self, more: Partial | Completion) -> None:
        """Append the tokens that were sampled next."""
        self.ids += more.ids
        self.logprobs += more.logprobs
        self.versions += more.versions

    def clear(self) -> None:
        """Remove all tokens."""
        self.ids, self.logprobs, self.versions = [], [], []


class GenerationAborted(RuntimeError):
    """A response is not whole. Its episode fails and is run again; nothing of it is trained on."""


class Sampler(Protocol):
    """Samples continuations."""

    async def generate(
        self, ids: list[int], sampling: Sampling, *, images: Sequence[Image] = ()
    ) -> Completion:
        """Continue ``ids``, among which are the placeholders of ``images``.

        If the call is cancelled, the request is given up.
        """
        ...


class Engine(Sampler, Protocol):
    """A generation engine whose weights can change while it generates."""

    @property
    def version(self) -> int:
        """The version of the weights that sample now."""
        ...

    @property
    def busy_seconds(self) -> float:
        """Seconds so far in which the engine was generating."""
        ...

    async def connect(self, init_infos: list[dict[str, Any]]) -> None:
        """Open the engine's end of the weight transfer before the first load.

        Args:
            init_infos: one info for each engine. If there are none, the end is closed: the learner was lost,
                and its memory, which the engine maps, is freed by that.
        """
        ...

    async def load(self, version: int, digest: str = "") -> dict[str, float]:
        """Load the weights that the learner has written. Requests that begin afterwards sample with them.

        Args:
            version: of these weights.
            digest: that they must have before anything is sampled with them (areal.weights.digest); empty:
                any.

        Returns:
            Metrics of the load: seconds that parts of it took, under their names in a run's metrics.

        Raises:
            EngineLost: the engine has died, or cannot load the weights, or what came are others.
            TransferFailed: the weights did not arrive. Generation is paused until the engine has connected
                again and loaded a version.
        """
        ...

    async def close(self) -> None:
        """Stop the engine and all of its processes."""
        ...


class SingleEngine(Engine, Protocol):
    """One of several engines, any of which may be lost while the others go on."""

    async def generate(
        self,
        ids: list[int],
        sampling: Sampling,
        partial: Partial | None = None,
        *,
        images: Sequence[Image] = (),
    ) -> Completion:
        """Continue ``ids``. If the call is cancelled, the request is given up.

        Args:
            ids: the tokens of the prompt.
            sampling: how to sample.
            partial: an empty one, to which the engine adds about once a second what it has sampled meanwhile,
                so that another engine can go on from there if this one is lost.
            images: whose placeholders are among the tokens.

        Raises:
            EngineLost: the engine is lost.
        """
        ...

    def watch(self, lost: Callable[[EngineLost], None]) -> None:
        """Call ``lost`` once the engine is lost, even if it has no requests."""
        ...

    async def lives(self) -> None:
        """Return once the engine has shown that it is not frozen.

        Raises:
            EngineLost: the engine is lost.
        """
        ...
