"""What areal asks a worker of vLLM's besides what vLLM itself does."""

from __future__ import annotations

from typing import Any

from areal.rollout.quantization import Layer, layers_of


class WorkerExtension:
    """A base class that vLLM's worker is given (``worker_extension_cls``): the engine calls its methods."""

    def report_weight_transfer(self) -> tuple[str, str]:
        """Return why the last connection or transfer of weights failed, and the digest of what came last.

        The first is empty if it did not fail.
        """
        worker: Any = self
        return worker.weight_transfer_engine.failure, worker.weight_transfer_engine.digest

    def record_experts(self) -> None:
        """Record from now on which experts tokens are sent to, on a CPU."""
        from areal.rollout.vllm_experts import ExpertsRecorder

        worker: Any = self
        ExpertsRecorder(worker.model_runner)

    def report_layers(self) -> list[Layer]:
        """Return the layers of this worker's model, with the types that their weights have."""
        worker: Any = self
        return list(layers_of(worker.model_runner.get_model()))

    def release_weights(self) -> None:
        """Close the weight receiver, and with it what it maps of the learner's memory."""
        worker: Any = self
        worker.weight_transfer_engine.shutdown()
