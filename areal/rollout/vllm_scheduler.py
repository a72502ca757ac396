"""vLLM's scheduler, but tokens leave the engine's process when their continuation ends, or every second.

vLLM sends each token of each request to the process that requested it. These are thousands of small messages
a second, handled by Python code, on the core that a CPU's learner needs, and for longer than a GPU needs for
a step. A caller that only requests a final result gets few messages here. The messages every second show that
the engine is alive.

Guarantee: the version of the weights for each token stays exact. vLLM stamps a message with the version at
the time of sending (before 0.32, areal counts the tokens that have arrived when a pause is complete), and
changes weights only while generation is paused. Outputs that are held back are therefore sent when a pause
begins, before it is complete.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from vllm.sampling_params import RequestOutputKind
from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.interface import PauseState
from vllm.v1.core.sched.output import SchedulerOutput
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.engine import EngineCoreOutput, EngineCoreOutputs
from vllm.v1.outputs import LogprobsLists

from areal.rollout.vllm_start import RECORDS_EXPERTS

_OFTEN = 1.0
"""Maximum seconds for which outputs are held back."""
_BEGIN_EVERY = 4
"""Number of steps from one in which requests begin to the next."""


class WholeOutputScheduler(Scheduler):
    """Holds the outputs of a request back until it ends, generation is paused, or a second has passed."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self._sent = time.monotonic()
        self._held: dict[str, list[EngineCoreOutput]] = {}
        more: Any = self.vllm_config.additional_config
        if RECORDS_EXPERTS in more:
            from vllm.distributed.aux_output_connector.connector import AuxOutputSchedulerConnector

            self.aux_output_connector = AuxOutputSchedulerConnector()

    def has_finished_requests(self) -> bool:
        """Return whether a step is needed although nothing runs; true if a pause finds held outputs."""
        return super().has_finished_requests() or (self._paused and bool(self._held))

    def update_from_output(self, *arguments: Any, **keywords: Any) -> dict[int, EngineCoreOutputs]:
        """Process the samples of a step; return the outputs that leave the process now."""
        outputs = super().update_from_output(*arguments, **keywords)
        for of_client in outputs.values():
            of_client.outputs = [whole for part in of_client.outputs if (whole := self._collect(part))]
        if self._held and (self._paused or time.monotonic() - self._sent > _OFTEN):
            self._sent = time.monotonic()
            # There is one front end: client 0.
            of_client = outputs.setdefault(0, EngineCoreOutputs())
            of_client.outputs = [*of_client.outputs, *map(joined, self._held.values())]
            self._held.clear()
        return outputs

    def finish_requests(self, *arguments: Any, **keywords: Any) -> Any:
        """End requests from outside; nobody waits for their held outputs."""
        ended = super().finish_requests(*arguments, **keywords)
        self._held = {name: parts for name, parts in self._held.items() if name in self.requests}
        return ended

    @property
    def _paused(self) -> bool:
        return self.pause_state == PauseState.PAUSED_ALL

    def _collect(self, part: EngineCoreOutput) -> EngineCoreOutput | None:
        """Return the output to send: this one, joined with those held back before it; or None."""
        if part.finish_reason is None and self._wanted_whole(part.request_id):
            self._held.setdefault(part.request_id, []).append(part)
            return None
        return joined([*self._held.pop(part.request_id, ()), part])

    def _wanted_whole(self, request_id: str) -> bool:
        params = self.requests[request_id].sampling_params
        # The front end, which has the text, searches stop strings token by token.
        return params is not None and params.output_kind == RequestOutputKind.FINAL_ONLY and not params.stop


class AsyncWholeOutputScheduler(WholeOutputScheduler, AsyncScheduler):
    """The same for vLLM's asynchronous scheduling, which schedules a step before the last one has tokens.

    Requests begin together, in one of a few steps. The other steps only decode: vLLM has one CUDA graph for
    the whole of such a step, but launches each layer's attention separately if a request begins.
    """

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        whole_graphs = self.vllm_config.compilation_config.cudagraph_mode.separate_routine()
        self._begin_every = _BEGIN_EVERY if whole_graphs else 1
        self._steps = itertools.count()

    def schedule(self, throttle_prefills: bool = False) -> SchedulerOutput:
        """Schedule the next step; ``throttle_prefills``: only decode, if any request can."""
        return super().schedule(throttle_prefills or next(self._steps) % self._begin_every > 0)


def joined(parts: Sequence[EngineCoreOutput]) -> EngineCoreOutput:
    """Return consecutive outputs of one request as one output."""
    last = parts[-1]
    if len(parts) > 1:
        logprobs = [part.new_logprobs for part in parts if part.new_logprobs is not None]
        last.new_token_ids = [token for part in parts for token in part.new_token_ids]
        last.new_logprobs = _joined_logprobs(logprobs) if logprobs else None
        last.prefill_stats = parts[0].prefill_stats
        # Some releases return experts in another way.
        experts = [found for part in parts if (found := getattr(part, "routed_experts", None)) is not None]
        if experts:
            last.routed_experts = np.concatenate(experts)
    return last


def _joined_logprobs(parts: Sequence[LogprobsLists]) -> LogprobsLists:
    return LogprobsLists(
        np.concatenate([part.logprob_token_ids for part in parts]),
        np.concatenate([part.logprobs for part in parts]),
        np.concatenate([part.sampled_token_ranks for part in parts]),
    )
