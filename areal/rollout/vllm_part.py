"""The workers of a vLLM engine on a host other than its first."""

from __future__ import annotations

from areal.rollout.vllm_start import EngineSettings, engine_config, starting


class EnginePart:
    """Runs workers that the engine on the first host commands, until it or one of them ends.

    The scheduler and the requests are there (:class:`areal.rollout.vllm_engine.VLLMEngine`); this is vLLM's
    own executor without them, what ``vllm serve --headless`` runs.
    """

    def __init__(self, settings: EngineSettings) -> None:
        """Start them; it takes until the workers of all hosts have met.

        Raises:
            EngineLost: they did not start.
        """
        from areal.rollout.vllm_executor import WorkersExecutor

        with starting():
            self._executor = WorkersExecutor(engine_config(settings))

    def close(self) -> None:
        """End them."""
        self._executor.shutdown()
