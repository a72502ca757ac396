"""Defines an engine of a fixed token rate that replaces vLLM's in worker processes and has no model."""

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
"""Tokens of the starter model: words and digits."""


@dataclass(frozen=True, slots=True)
class Pace:
    """The capacity and the responses of an engine.

    Attributes:
        sequences: the maximum number of concurrent sequences; further sequences wait.
        tokens_per_s: the rate of each sequence.
        mean: the mean number of tokens of a response; lengths are exponential, with at least 1 token.
    """

    sequences: int
    tokens_per_s: float
    mean: int


class PacedEngine(VLLMEngine):
    """An engine that generates a fixed number of tokens per second for each concurrent sequence."""

    def __init__(self, pace: Pace, seed: int) -> None:
        self._pace = pace
        self._room = asyncio.Semaphore(pace.sequences)
        self._rng = random.Random(seed)
        self._pool = self._rng.choices(_TOKENS, k=2**16)

    async def generate(
        self, ids: list[int], sampling: Sampling, name: str = "", images: object = ()
    ) -> Completion:
        """Return a response after the time that its tokens take."""
        length = max(1, round(self._rng.expovariate(1 / self._pace.mean)))
        async with self._room:
            await asyncio.sleep(length / self._pace.tokens_per_s)
        begin = self._rng.randrange(len(self._pool) - length)
        return Completion(self._pool[begin : begin + length], [-1.5] * length, [0] * length, "eos")

    async def sampled(self, known: Mapping[str, tuple[str, int]]) -> list[tuple[str, str, Partial]]:
        """Return no partial responses, because none is known before the end."""
        return []

    def progress(self) -> Any:
        """Return None, because the engine reports no progress."""
        return None

    async def close(self) -> None:
        """Do nothing, because nothing is open."""


async def loop_seconds(_: Any) -> tuple[float, float]:
    """Return the CPU seconds of the event loop's thread and of this process."""
    return time.thread_time(), time.process_time()
