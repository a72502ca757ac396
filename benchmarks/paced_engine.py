"""An engine of a fixed token rate for worker processes: what vLLM's is to a run, without a model."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from areal.rollout.engine import Completion, Partial, Sampling
from areal.rollout.vllm_engine import VLLMEngine

_TOKENS = range(20, 370)
"""Of the starter model: words and digits."""


@dataclass(frozen=True, slots=True)
class Pace:
    """What an engine does.

    Attributes:
        sequences: at once; more wait for their turn.
        tokens_per_s: of each sequence.
        mean: tokens of a response; lengths are exponential, of 1 token at least.
    """

    sequences: int
    tokens_per_s: float
    mean: int


class PacedEngine(VLLMEngine):
    """Responds to each of so many sequences at once with so many tokens per second."""

    def __init__(self, pace: Pace, seed: int) -> None:
        self._pace = pace
        self._room = asyncio.Semaphore(pace.sequences)
        self._rng = random.Random(seed)
        self._pool = self._rng.choices(_TOKENS, k=2**16)

    async def generate(
        self, ids: list[int], sampling: Sampling, name: str = "", images: object = ()
    ) -> Completion:
        """Respond after the time that the tokens take."""
        length = max(1, round(self._rng.expovariate(1 / self._pace.mean)))
        async with self._room:
            await asyncio.sleep(length / self._pace.tokens_per_s)
        begin = self._rng.randrange(len(self._pool) - length)
        return Completion(self._pool[begin : begin + length], [-1.5] * length, [0] * length, "eos")

    async def sampled(self, known: Mapping[str, tuple[str, int]]) -> list[tuple[str, str, Partial]]:
        """Nothing is known before the end."""
        return []

    def progress(self) -> Any:
        """Nothing is watched."""
        return None

    async def close(self) -> None:
        """Nothing is open."""


async def loop_seconds(_: Any) -> tuple[float, float]:
    """Return the seconds that this event loop's thread, and this process, have computed."""
    return time.thread_time(), time.process_time()
