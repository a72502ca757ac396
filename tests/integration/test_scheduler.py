"""Outputs that were held back leave as one. That none changes its version: test_weights."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("vllm")

from vllm.v1.engine import EngineCoreOutput, FinishReason
from vllm.v1.outputs import LogprobsLists

from areal.rollout.vllm_scheduler import joined


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
