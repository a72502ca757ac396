"""Defines functions that benchmarks call in the process of an engine: ``await engine.worker.call(...)``."""

from __future__ import annotations

import asyncio
import itertools
import time

from areal.rollout.engine import Interruption
from areal.rollout.vllm_engine import VLLMEngine
from areal.rollout.vllm_start import EngineSettings, arguments


def set_interruption(engine: VLLMEngine, mode: Interruption) -> None:
    """Set how the next weight loads treat requests in flight."""
    engine.interruption = mode


async def start_plain(settings: EngineSettings) -> VLLMEngine:
    """Start vLLM with its own scheduler."""
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.v1.engine.async_llm import AsyncLLM

    llm = AsyncLLM.from_engine_args(AsyncEngineArgs(**arguments(settings)))
    return VLLMEngine(llm, settings.eos_ids)


async def bare(
    engine: VLLMEngine,
    prompts: list[list[int]],
    lengths: list[int],
    at_once: int,
    seconds: float,
    with_logprobs: bool = False,
) -> float:
    """Return the tokens/s of vLLM alone, after a warm-up of a quarter of the time.

    Args:
        engine: the engine whose vLLM is measured.
        prompts: token ids of the prompts, which are used in order.
        lengths: numbers of tokens of the completions, which are used in order.
        at_once: number of requests in flight.
        seconds: duration in seconds, including the warm-up.
        with_logprobs: whether vLLM returns the log-probability of each token.
    """
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    numbers, begin, count = itertools.count(), time.monotonic() + seconds / 4, 0

    async def requests() -> None:
        nonlocal count
        while True:
            number = next(numbers)
            params = SamplingParams(
                max_tokens=lengths[number % len(lengths)],
                ignore_eos=True,
                detokenize=False,
                output_kind=RequestOutputKind.FINAL_ONLY,
                logprobs=0 if with_logprobs else None,
                flat_logprobs=with_logprobs,
            )
            prompt = {"prompt_token_ids": prompts[number % len(prompts)]}
            async for output in engine._llm.generate(prompt, params, f"bare {begin} {number}"):
                final = output
            if time.monotonic() >= begin:
                count += len(final.outputs[0].token_ids)

    running = [asyncio.create_task(requests()) for _ in range(at_once)]
    await asyncio.sleep(seconds)
    rate = count / (time.monotonic() - begin)
    for task in running:
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)
    return rate
