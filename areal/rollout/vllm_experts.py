"""Records the experts of each token on a CPU, where vLLM itself does not.

vLLM (0.32) stores them for the requests that compute them and for those that find them in the prefix cache,
and returns them with the sampled tokens. Only its runner for GPUs does this, with data that the runner for
CPUs also has; this module extends the latter. A token that is recomputed under other weights keeps the record
of its first computation.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
from vllm.distributed.aux_output_connector.worker import AuxOutputWorkerConnector


class ExpertsRecorder:
    """Wraps the two halves of a step of vLLM's runner."""

    def __init__(self, runner: Any) -> None:
        self._runner = runner
        self._connector = AuxOutputWorkerConnector(
            vllm_config=runner.vllm_config, model=runner.model, kv_cache_config=runner.kv_cache_config
        )
        self._pending: Any = None
        self._execute, self._sample = runner.execute_model, runner.sample_tokens
        runner.execute_model, runner.sample_tokens = self.execute_model, self.sample_tokens

    def execute_model(self, scheduled: Any, *others: Any) -> Any:
        """Compute a step, and record the rows of each request."""
        self._connector.begin_step(scheduled.aux_output_connector_metadata)
        output = self._execute(scheduled, *others)
        if scheduled.total_num_scheduled_tokens:
            batch = self._runner.input_batch
            count = len(batch.req_ids)
            rows = SimpleNamespace(
                req_ids=batch.req_ids,
                query_start_loc_np=self._runner.query_start_loc.np[: count + 1].copy(),
                num_computed_tokens_np=batch.num_computed_tokens_cpu[:count].copy(),
            )
            self._pending = self._connector.prepare_output(rows)  # type: ignore[arg-type]
        return output

    def sample_tokens(self, *inputs: Any) -> Any:
        """Sample a token of each request; on a CPU, prompts are not split."""
        output = self._sample(*inputs)
        pending, self._pending = self._pending, None
        if pending is not None:
            count = len(pending.request_ids)
            pending.enqueue_cpu_copy(np.ones(count, int), np.zeros(count, int))
            whole = getattr(output, "_model_runner_output", output)  # if the next step is already scheduled
            whole.aux_output_connector_output = pending.process_output()
        return output
