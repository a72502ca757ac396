"""An engine for worker processes, in place of vLLM's; other processes import it from here."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from areal.rollout.engine import Completion, Partial, Sampling
from areal.rollout.vllm_engine import VLLMEngine


class ToyEngine(VLLMEngine):
    """Answers each request with so many tokens, after a while; a load sets the version of what follows."""

    def __init__(self, seconds: float = 0.0, tokens: int = 3) -> None:
        self.seconds, self.tokens = seconds, tokens
        self.now, self.asked, self.going_on = 0, 0, asyncio.Event()

    async def generate(
        self, ids: list[int], sampling: Sampling, name: str = "", images: object = ()
    ) -> Completion:
        self.asked += 1
        with suppress(TimeoutError):
            await asyncio.wait_for(self.going_on.wait(), self.seconds)
        count = min(self.tokens, sampling.max_tokens)
        return Completion([20 + i for i in range(count)], [-1.0] * count, [self.now] * count, "eos")

    async def sampled(self, known: Mapping[str, tuple[str, int]]) -> list[tuple[str, str, Partial]]:
        return []

    async def connect(self, init_infos: list[dict[str, Any]]) -> None: ...

    async def load(self, version: int, digest: str = "") -> dict[str, float]:
        self.now = version
        return {"time/pause": 0.0}

    def progress(self) -> Any:
        return None

    async def go_on(self) -> None:
        """Answer without delay from here on, also what was asked before."""
        self.going_on.set()

    async def requests(self) -> int:
        return self.asked

    def end(self) -> None:
        os._exit(9)

    async def close(self) -> None: ...
