"""Outputs that were held back leave as one, and requests begin together."""

from __future__ import annotations

import numpy as np
import pytest
import torch

pytest.importorskip("vllm")

from vllm import SamplingParams
from vllm.config import CUDAGraphMode
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.v1.engine import EngineCoreOutput, FinishReason
from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheGroupSpec
from vllm.v1.outputs import LogprobsLists, ModelRunnerOutput
from vllm.v1.request import Request
from vllm.v1.structured_output import StructuredOutputManager

from areal.models import resolve_model
from areal.rollout.vllm_scheduler import AsyncWholeOutputScheduler, joined
from areal.rollout.vllm_start import EngineSettings, arguments

BLOCKS, BLOCK = 64, 16


def scheduler(mode: CUDAGraphMode) -> AsyncWholeOutputScheduler:
    """vLLM's scheduler with a cache of its own, and no model."""
    settings = EngineSettings(resolve_model("starter"), "cpu", "float32", 256, 16, 1.0, (1,))
    config = AsyncEngineArgs(**arguments(settings)).create_engine_config()
    config.scheduler_config.async_scheduling = True
    config.compilation_config.cudagraph_mode = mode
    config.cache_config.num_gpu_blocks, config.cache_config.block_size = BLOCKS, BLOCK
    layer = FullAttentionSpec(block_size=BLOCK, num_kv_heads=1, head_size=8, dtype=torch.float32)
    return AsyncWholeOutputScheduler(
        vllm_config=config,
        kv_cache_config=KVCacheConfig(BLOCKS, [], [KVCacheGroupSpec(["layer"], layer)]),
        structured_output_manager=StructuredOutputManager(config),
        block_size=BLOCK,
    )


def begins(mode: CUDAGraphMode, steps: int) -> list[int]:
    """The steps in which requests begin, of which one more comes before each step."""
    made, found = scheduler(mode), []
    for step in range(steps):
        params = SamplingParams(max_tokens=100, ignore_eos=True)
        made.add_request(Request(f"{step}", [5, 6, 7], params, None))
        planned = made.schedule()
        found += [step for _ in planned.scheduled_new_reqs]
        names = list(planned.num_scheduled_tokens)
        places, tokens = {name: at for at, name in enumerate(names)}, [[7] for _ in names]
        made.update_from_output(planned, ModelRunnerOutput(names, places, tokens))
    return found


def test_requests_begin_together_where_steps_that_only_decode_have_graphs_of_their_own():
    assert begins(CUDAGraphMode.FULL_AND_PIECEWISE, 13) == [0, *[4] * 4, *[8] * 4, *[12] * 4]
    assert begins(CUDAGraphMode.NONE, 5) == [0, 1, 2, 3, 4]


def test_parts_of_a_continuation_join_to_the_whole():
    def logprobs(value: int) -> LogprobsLists:
        one = np.full((1, 1), value)
        return LogprobsLists(one, one / 8, one[0])

    parts = [EngineCoreOutput("a", [token], new_logprobs=logprobs(token)) for token in range(3)]
    parts[-1].finish_reason, parts[-1].stop_reason = FinishReason.STOP, 2
    whole = joined(parts)
    assert (whole.request_id, whole.new_token_ids) == ("a", [0, 1, 2])
    assert (whole.finish_reason, whole.stop_reason) == (FinishReason.STOP, 2)
    assert whole.new_logprobs is not None
    assert whole.new_logprobs.logprob_token_ids.tolist() == [[0], [1], [2]]
    assert whole.new_logprobs.logprobs.tolist() == [[0], [1 / 8], [2 / 8]]
    assert whole.new_logprobs.sampled_token_ranks.tolist() == [0, 1, 2]
