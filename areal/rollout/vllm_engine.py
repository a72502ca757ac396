"""vLLM's AsyncLLM as an :class:`areal.rollout.engine.Engine`.

Guarantee: every token carries the exact version of the weights that sampled it and its log-probability
under them. New weights interrupt generation without losing a sampled token: requests are frozen, the
weights loaded, the KV cache dropped, and prefixes recomputed under the new weights.
"""

from __future__ import annotations

import gc
import itertools
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from areal.errors import UserError
from areal.rollout.engine import Completion, Sampling
from areal.trajectory import Finish

OWNED = "AREAL_ENGINE_PARENT"
"""Environment variable by which a vLLM process knows that areal started it, and who."""


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """What a vLLM engine is built from.

    Attributes:
        model: folder or hub id.
        device: ``cpu`` or ``cuda``.
        dtype: ``float32``, ``bfloat16`` or ``float16``.
        max_model_len: longest sequence, in tokens.
        max_num_seqs: sequences decoded together.
        memory: GiB of KV cache on a CPU, or the share of the GPU's memory.
        eos_ids: tokens that end a continuation.
        threads: CPU threads (CPU only).
        eager: no compilation, no CUDA graphs.
        seed: of the sampler.
        weight_backend: name of a registered vLLM weight-transfer engine, or None for fixed weights.
    """

    model: str
    device: str
    dtype: str
    max_model_len: int
    max_num_seqs: int
    memory: float
    eos_ids: tuple[int, ...]
    threads: int = 1
    eager: bool = True
    seed: int = 0
    weight_backend: str | None = None


class VLLMEngine:
    """A running vLLM engine; build it with :meth:`start`."""

    def __init__(self, llm: Any, eos_ids: tuple[int, ...]) -> None:
        self._llm = llm
        self._eos_ids = list(eos_ids)
        self._version = 0
        self._ids = itertools.count()
        self._clock = BusyClock()

    @classmethod
    async def start(cls, settings: EngineSettings) -> VLLMEngine:
        """Start vLLM (20 to 90 s) in processes of its own.

        Raises:
            UserError: vLLM is not installed.
        """
        with _environment(_variables(settings)), _main_not_reimported():
            try:
                from vllm.engine.arg_utils import AsyncEngineArgs
                from vllm.v1.engine.async_llm import AsyncLLM
            except ModuleNotFoundError as error:
                if error.name and error.name.split(".")[0] == "vllm":
                    raise UserError(
                        "vLLM is not installed; install areal with its engine: pip install 'areal[cpu]' "
                        "(or 'areal[gpu]' on a machine with a GPU)"
                    ) from error
                raise
            engine = cls(AsyncLLM.from_engine_args(AsyncEngineArgs(**_arguments(settings))), settings.eos_ids)
        await engine._llm.update_weight_version("0")
        return engine

    @property
    def version(self) -> int:
        """The version of the weights that sample now."""
        return self._version

    @property
    def busy_seconds(self) -> float:
        """Seconds so far in which requests were under way and generation was not paused."""
        return self._clock.total()

    async def generate(self, ids: list[int], sampling: Sampling) -> Completion:
        """Continue ``ids``; see :class:`areal.rollout.engine.Engine`."""
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        params = SamplingParams(
            temperature=sampling.temperature,
            max_tokens=sampling.max_tokens,
            seed=sampling.seed,
            # What ends a continuation is what the chat template says, not what vLLM finds in the model.
            ignore_eos=True,
            stop_token_ids=None if sampling.ignore_eos else self._eos_ids,
            logprobs=0,
            flat_logprobs=True,
            # Ids are what we train on: text is decoded once, by whoever wants it, not token by token.
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        params.skip_clone = True
        prompt = {"type": "token", "prompt_token_ids": ids}
        with self._clock.request():
            async for output in self._llm.generate(prompt, params, str(next(self._ids))):
                final = output
        return _completion(final.outputs[0])

    async def connect(self, init_info: dict[str, Any]) -> None:
        """Let the workers open the learner's weight channel."""
        from vllm.distributed.weight_transfer.base import WeightTransferInitRequest

        await self._llm.init_weight_transfer_engine(WeightTransferInitRequest(init_info=init_info))

    async def load(self, version: int) -> None:
        """Interrupt, load what the channel holds as ``version``, drop the KV cache, resume."""
        from vllm.distributed.weight_transfer.base import WeightTransferUpdateRequest

        await self._llm.pause_generation(mode="keep", clear_cache=True)
        with self._clock.pause():
            await self._llm.start_weight_update()
            await self._llm.update_weights(WeightTransferUpdateRequest(update_info={}))
            await self._llm.finish_weight_update(weight_version=str(version))
        self._version = version
        await self._llm.resume_generation()

    async def close(self) -> None:
        """Stop vLLM's processes."""
        self._llm.shutdown(timeout=0)  # it holds nothing that must be saved
        # Its destructor needs modules that are gone when the interpreter ends: run it now. It is in cycles.
        self._llm = None
        gc.collect()


class BusyClock:
    """Counts the seconds in which at least one request is under way and generation is not paused."""

    def __init__(self) -> None:
        self._requests = 0
        self._pauses = 0
        self._since: float | None = None
        self._total = 0.0

    def total(self) -> float:
        """Seconds so far."""
        return self._total + (time.monotonic() - self._since if self._since is not None else 0.0)

    @contextmanager
    def request(self) -> Iterator[None]:
        """One request is under way within."""
        self._change(1, 0)
        try:
            yield
        finally:
            self._change(-1, 0)

    @contextmanager
    def pause(self) -> Iterator[None]:
        """Generation is paused within."""
        self._change(0, 1)
        try:
            yield
        finally:
            self._change(0, -1)

    def _change(self, requests: int, pauses: int) -> None:
        self._requests += requests
        self._pauses += pauses
        busy = self._requests > 0 and self._pauses == 0
        if busy and self._since is None:
            self._since = time.monotonic()
        elif not busy and self._since is not None:
            self._total += time.monotonic() - self._since
            self._since = None


def _completion(output: Any) -> Completion:
    ids = list(output.token_ids)
    flat = output.logprobs
    logprobs = [flat.logprobs[start] for start in flat.start_indices]
    versions: list[int] = []
    for span in output.weight_versions or ():
        versions.extend([int(span.version)] * (span.end - span.start))
    if not len(ids) == len(logprobs) == len(versions):
        raise RuntimeError(
            f"vLLM returned {len(ids)} tokens, {len(logprobs)} log-probabilities, {len(versions)} versions"
        )
    finish: Finish = output.finish_reason if output.finish_reason in ("stop", "length") else "abort"
    return Completion(ids, logprobs, versions, finish)


def _arguments(settings: EngineSettings) -> dict[str, Any]:
    from vllm.config import WeightTransferConfig

    arguments: dict[str, Any] = {
        "model": settings.model,
        "dtype": settings.dtype,
        "max_model_len": settings.max_model_len,
        "max_num_seqs": settings.max_num_seqs,
        "enforce_eager": settings.eager,
        "seed": settings.seed,
        "enable_prefix_caching": True,
        # Ids in, ids out: the text belongs to areal.rollout.conversation.
        "skip_tokenizer_init": True,
        # The distribution that was sampled from, temperature included: the behaviour policy's own.
        "logprobs_mode": "processed_logprobs",
        "disable_log_stats": True,
        # Sampling is what areal's settings say, not what a model's generation_config.json suggests.
        "generation_config": "vllm",
    }
    if settings.weight_backend is not None:
        arguments["weight_transfer_config"] = WeightTransferConfig(backend=settings.weight_backend)
    if settings.device == "cpu":
        # One process fewer than the default executor: no hop between engine core and worker.
        arguments["distributed_executor_backend"] = "uni"
    else:
        arguments["gpu_memory_utilization"] = settings.memory
    return arguments


def _variables(settings: EngineSettings) -> dict[str, str]:
    variables = {
        OWNED: str(os.getpid()),
        "VLLM_NO_USAGE_STATS": "1",
        # A forked child would inherit our threads' locks; a spawned one starts clean.
        "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
        "VLLM_LOGGING_LEVEL": os.environ.get("VLLM_LOGGING_LEVEL", "WARNING"),
    }
    if settings.device == "cpu":
        variables |= {
            "VLLM_CPU_KVCACHE_SPACE": str(max(1, round(settings.memory))),
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            "OMP_NUM_THREADS": str(settings.threads),
        }
    return variables


@contextmanager
def _environment(variables: dict[str, str]) -> Iterator[None]:
    """Set environment variables for the processes started within, and put the old values back."""
    saved = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in saved.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextmanager
def _main_not_reimported() -> Iterator[None]:
    """Keep spawned processes from running the user's script again: vLLM's need nothing of it.

    Without this, ``areal.train(...)`` in a script without ``if __name__ == "__main__"`` would start itself.
    """
    main = sys.modules["__main__"]
    saved: dict[str, Any] = {
        name: main.__dict__[name] for name in ("__file__", "__spec__") if name in main.__dict__
    }
    main.__dict__.pop("__file__", None)
    main.__spec__ = None
    try:
        yield
    finally:
        main.__dict__.update(saved)
