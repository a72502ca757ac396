"""Functions that tests call in an engine's own process: ``await only(worker).worker.call(function, ...)``."""

from __future__ import annotations

import asyncio

from areal.rollout.engine import Interruption
from areal.rollout.engines import Engines
from areal.rollout.vllm_engine import VLLMEngine
from areal.rollout.worker import RolloutWorker
from areal.runtime.worker_engine import WorkerEngine


def only(worker: RolloutWorker) -> WorkerEngine:
    """Return the one engine of a worker."""
    assert isinstance(worker.engine, Engines)
    [engine] = worker.engine.engines.values()
    assert isinstance(engine, WorkerEngine)
    return engine


def set_interruption(engine: VLLMEngine, mode: Interruption) -> None:
    engine.interruption = mode


async def left_over(engine: VLLMEngine) -> int:
    """Requests that the engine still has; waits for vLLM to hold no block of any."""
    async with asyncio.timeout(20):
        # It is refused as long as a request holds a block.
        while not await engine._llm.reset_prefix_cache():  # noqa: ASYNC110 (the engine is in other code)
            await asyncio.sleep(0.05)
    return len(engine._in_flight) + len(engine._llm.output_processor.request_states)
