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
"""The effect of new weights on requests in flight; see :mod:`areal.rollout.vllm_engine`."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """The sampling settings of one continuation.

    With ``top_p``, ``top_k`` or ``min_p``, the log-probabilities are those of the truncated, renormalized
    sampling distribution. They differ from the learner's, so training does not use these settings.

    Attributes:
        max_tokens: maximum length of the continuation, including the ending token.
        temperature: 0 is greedy; the log-probabilities are then those of the plain distribution.
        top_p: sample among the most likely tokens that together have this probability.
        top_k: sample among this number of most likely tokens; 0: all.
        min_p: sample among tokens whose probability is at least this share of the highest.
        stop: strings that end the continuation; their tokens are part of it.
        seed: makes this request's sampling reproducible; None: the engine's own random state.
        ignore_eos: continue past the end-of-sequence token (for measurements).
        presence_penalty, frequency_penalty, repetition_penalty: penalties on earlier tokens, as in vLLM; the
            learner does not have them, either.
        schema: a JSON schema to which the text must conform; empty: any text.
        thinking_budget: maximum length of the thought, which then ends; None: that of the continuation.
            Engines leave it to :mod:`areal.rollout.thought_budget`.
        experts_from: the first token whose experts are returned; earlier ones, all in the prompt, are known.
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
        """Whether sampling in two parts, the first as a prompt of the second, gives the same distribution.

        It does not with stop strings, which may begin in the first part; with a seed, which would repeat
        samples; and with penalties and a schema, which distinguish the response from the prompt.
        """
        penalties = self.presence_penalty, self.frequency_penalty, self.repetition_penalty
        return not (self.stop or self.schema) and self.seed is None and penalties == (0, 0, 1)


@dataclass(frozen=True, slots=True)
class Completion:
    """One sampled continuation.

    Attributes:
        ids: the sampled tokens ``[T]``, including the ending token, and tokens inserted to end a thought.
        logprobs: their log-probabilities ``[T]`` under the weights that sampled them, after temperature; 0
            for inserted tokens.
        versions: the version of those weights ``[T]``, which may rise within one continuation; -1 for
            inserted tokens.
        finish: how it ended; an aborted continuation is incomplete, and must not be trained on.
        experts: experts of prompt and continuation together, as in :class:`areal.trajectory.Trajectory`, from
            the requested token on.
    """

    ids: list[int]
    logprobs: list[float]
    versions: list[int]
    finish: Finish
    experts: np.ndarray | None = None


@dataclass(slots=True)
class Partial:
    """The part of a continuation that has been sampled so far, with the fields of :class:`Completion`."""

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
    """A response is incomplete. Its episode fails and is run again, and nothing of it is trained on."""


class Sampler(Protocol):
    """Samples continuations."""

    async def generate(
        self, ids: list[int], sampling: Sampling, *, images: Sequence[Image] = ()
    ) -> Completion:
        """Continue ``ids``, which contain the placeholders of ``images``.

        If the call is cancelled, the request is aborted.
        """
        ...


class Engine(Sampler, Protocol):
    """A generation engine whose weights can change while it generates."""

    @property
    def version(self) -> int:
        """The version of the weights that currently sample."""
        ...

    @property
    def busy_seconds(self) -> float:
        """Number of seconds so far in which the engine was generating."""
        ...

    async def connect(self, init_infos: list[dict[str, Any]]) -> None:
        """Open the engine's end of the weight transfer before the first load.

        Args:
            init_infos: one info for each engine. If there are none, the end is closed: the learner is lost,
                and this frees its memory, which the engine maps.
        """
        ...

    async def load(self, version: int, digest: str = "") -> dict[str, float]:
        """Load the weights that the learner has written. Requests that begin afterwards sample with them.

        Args:
            version: version of these weights.
            digest: required digest of the weights, before anything is sampled with them
                (areal.weights.digest); empty: any.

        Returns:
            Metrics of the load: seconds of its parts, under their names in a run's metrics.

        Raises:
            EngineLost: the engine has died, cannot load the weights, or has received other weights.
            TransferFailed: the weights did not arrive. Generation is paused until the engine has connected
                again and loaded a version.
        """
        ...

    async def close(self) -> None:
        """Stop the engine and all of its processes."""
        ...


class SingleEngine(Engine, Protocol):
    """One of several engines, any of which may be lost while the others continue."""

    async def generate(
        self,
        ids: list[int],
        sampling: Sampling,
        partial: Partial | None = None,
        *,
        images: Sequence[Image] = (),
    ) -> Completion:
        """Continue ``ids``. If the call is cancelled, the request is aborted.

        Args:
            ids: the tokens of the prompt.
            sampling: the sampling settings.
            partial: an empty object, to which the engine adds about once a second what it has sampled, so
                that another engine can continue from there if this one is lost.
            images: the images whose placeholders are among the tokens.

        Raises:
            EngineLost: the engine is lost.
        """
        ...

    def watch(self, lost: Callable[[EngineLost], None]) -> None:
        """Call ``lost`` once the engine is lost, even if it has no requests."""
        ...

    async def lives(self) -> None:
        """Return when the engine has shown that it is not frozen.

        Raises:
            EngineLost: the engine is lost.
        """
        ...
