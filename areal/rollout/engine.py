"""What the rest of areal knows of a generation engine: tokens in; tokens, log-probabilities, versions out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from areal.trajectory import Finish


@dataclass(frozen=True, slots=True)
class Sampling:
    """How to sample one continuation.

    Attributes:
        max_tokens: longest continuation, the ending token included.
        temperature: 0 is greedy; the log-probabilities are then those of the plain distribution.
        seed: makes this request's sampling reproducible; null: the engine's own random state.
        ignore_eos: go on past the end-of-sequence token (for measurements).
    """

    max_tokens: int
    temperature: float = 1.0
    seed: int | None = None
    ignore_eos: bool = False


@dataclass(frozen=True, slots=True)
class Completion:
    """One sampled continuation.

    Attributes:
        ids: the sampled tokens ``[T]``, the ending token included.
        logprobs: their log-probabilities ``[T]`` under the weights that sampled them, after temperature.
        versions: the version of those weights ``[T]``; it may rise inside one continuation.
        finish: ``stop`` (the model ended it), ``length`` (a limit did) or ``abort``.
    """

    ids: list[int]
    logprobs: list[float]
    versions: list[int]
    finish: Finish


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

    async def connect(self, init_info: dict[str, Any]) -> None:
        """Open the learner's weight channel, before the first :meth:`load`."""
        ...

    async def load(self, version: int) -> None:
        """Interrupt generation, load the weights that the learner has written, and go on with them."""
        ...

    async def close(self) -> None:
        """Stop the engine and every process of it."""
        ...
