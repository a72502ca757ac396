"""What the rest of areal knows of a generation engine: tokens in; tokens, log-probabilities, versions out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Protocol

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
    """

    max_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    stop: tuple[str, ...] = ()
    seed: int | None = None
    ignore_eos: bool = False


@dataclass(frozen=True, slots=True)
class Completion:
    """One sampled continuation.

    Attributes:
        ids: the sampled tokens ``[T]``, the ending token included.
        logprobs: their log-probabilities ``[T]`` under the weights that sampled them, after temperature.
        versions: the version of those weights ``[T]``; it may rise inside one continuation.
        finish: how it ended; what was aborted is not whole, and must not be trained on.
    """

    ids: list[int]
    logprobs: list[float]
    versions: list[int]
    finish: Finish


class GenerationAborted(RuntimeError):
    """A response is not whole: the episode failed, and is run again; none of it is trained on."""


class Engine(Protocol):
    """A generation engine whose weights can change while it generates."""

    @property
    def version(self) -> int:
        """The version of the weights that sample now."""
        ...

    @property
    def busy_seconds(self) -> float:
        """Seconds so far in which it was generating."""
        ...

    async def generate(self, ids: list[int], sampling: Sampling) -> Completion:
        """Continue ``ids``; cancelling the call gives the request up."""
        ...

    async def connect(self, init_infos: list[dict[str, Any]]) -> None:
        """Open the engine's end of the weight transfer before the first load, with an info for each."""
        ...

    async def load(self, version: int) -> dict[str, float]:
        """Load the weights that the learner has written; whatever begins after this samples with them.

        Returns:
            Metrics of the update: seconds that parts of it took, under their names in a run's metrics.
        """
        ...

    async def close(self) -> None:
        """Stop the engine and every process of it."""
        ...
