"""areal's additional methods of a vLLM worker."""

from __future__ import annotations

from typing import Any

from areal.rollout.quantization import Layer, layers_of


class WorkerExtension:
    """A base class of vLLM's worker (``worker_extension_cls``), whose methods the engine calls."""

    def report_weight_transfer(self) -> tuple[str, str]:
        """Return the failure of the last connection or transfer of weights, and the last weights' digest.

        The failure is empty if there was none.
        """
        worker: Any = self
        return worker.weight_transfer_engine.failure, worker.weight_transfer_engine.digest

    def record_experts(self) -> None:
        """Record the experts of tokens from now on, on a CPU."""
        from areal.rollout.vllm_experts import ExpertsRecorder

        worker: Any = self
        ExpertsRecorder(worker.model_runner)

    def report_layers(self) -> list[Layer]:
        """Return the layers of this worker's model, with the types of their weights."""
        worker: Any = self
        return list(layers_of(worker.model_runner.get_model()))

    def release_weights(self) -> None:
        """Close the weight receiver, which unmaps the learner's memory."""
        worker: Any = self
        worker.weight_transfer_engine.shutdown()
