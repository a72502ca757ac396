"""The workers of a vLLM engine on a host other than its first."""

from __future__ import annotations

from areal.rollout.vllm_start import EngineSettings, engine_config, starting


class EnginePart:
    """Runs workers that the engine on the first host controls, until it or one of them ends.

    The scheduler and the requests are on that host (:class:`areal.rollout.vllm_engine.VLLMEngine`); this is
    vLLM's own executor without them, as in ``vllm serve --headless``.
    """

    def __init__(self, settings: EngineSettings) -> None:
        """Start the workers; returns when the workers of all hosts are connected.

        Raises:
            EngineLost: they did not start.
        """
        from areal.rollout.vllm_executor import WorkersExecutor

        with starting():
            self._executor = WorkersExecutor(engine_config(settings))

    def close(self) -> None:
        """End the workers."""
        self._executor.shutdown()
