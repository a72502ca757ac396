"""How vLLM is started: what an engine is built from, as vLLM's arguments and its processes' environment."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from areal.rollout.engine import Interruption
from areal.step_sizes import BATCHED_TOKENS


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """What a vLLM engine is built from.

    Attributes:
        model: folder or hub id.
        device: ``cpu`` or ``cuda``.
        dtype: ``float32``, ``bfloat16`` or ``float16``.
        max_model_len: longest sequence, in tokens.
        max_num_seqs: sequences decoded together.
        memory: the KV cache, in GiB on a CPU, or as a share of the GPU's memory.
        eos_ids: tokens that end a continuation.
        threads: CPU threads (CPU only).
        eager: no compilation, no CUDA graphs.
        seed: of the sampler.
        weight_backend: name of a registered vLLM weight-transfer engine, or None for fixed weights.
        interruption: what new weights do to requests in flight (areal.rollout.vllm_engine).
        device_bytes: memory of its GPU; 0 on a CPU.
        visible_devices: what CUDA_VISIBLE_DEVICES shows its processes; empty on a CPU.
        stop_strings: whether requests may have stop strings, for which vLLM needs the tokenizer.
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
    interruption: Interruption = "recompute"
    device_bytes: int = 0
    visible_devices: str = ""
    stop_strings: bool = False


def arguments(settings: EngineSettings) -> dict[str, Any]:
    """vLLM's engine arguments."""
    from vllm.config import WeightTransferConfig

    found: dict[str, Any] = {
        "model": settings.model,
        "dtype": settings.dtype,
        "max_model_len": settings.max_model_len,
        "max_num_seqs": settings.max_num_seqs,
        "enforce_eager": settings.eager,
        "seed": settings.seed,
        "enable_prefix_caching": True,
        # Ids in, ids out: the text belongs to areal.rollout.conversation.
        "skip_tokenizer_init": not settings.stop_strings,
        # The distribution that was sampled from, temperature included: the behaviour policy's own.
        "logprobs_mode": "processed_logprobs",
        "disable_log_stats": True,
        # Sampling is what areal's settings say, not what a model's generation_config.json suggests.
        "generation_config": "vllm",
    }
    if settings.weight_backend is not None:
        found["weight_transfer_config"] = WeightTransferConfig(backend=settings.weight_backend)
    if settings.device == "cpu":
        # Scheduler and worker in one process. vLLM turns the name "uni" into two processes on a CPU, for the
        # sake of OpenMP settings that it makes late; ours are made before it starts (see variables). Those
        # two wait for each other by spinning, which takes the learner's core away.
        found["distributed_executor_backend"] = "vllm.v1.executor.uniproc_executor.UniProcExecutor"
        found["scheduler_cls"] = "areal.rollout.vllm_scheduler.WholeOutputScheduler"
        # A prompt in pieces makes vLLM rewind the random state of a request that has a seed of its own, which
        # a CPU's generator cannot: evaluations would fail where many or long prompts come at once.
        found |= {
            "enable_chunked_prefill": False,
            "max_num_batched_tokens": max(BATCHED_TOKENS, settings.max_model_len),
        }
    else:
        found["gpu_memory_utilization"] = settings.memory
        # In bytes, it does not hang on what is free: the learner and other runs take and give meanwhile.
        found["kv_cache_memory_bytes"] = round(settings.memory * settings.device_bytes)
        found["max_num_batched_tokens"] = max(BATCHED_TOKENS, settings.max_num_seqs)
    return found


def variables(settings: EngineSettings) -> dict[str, str]:
    """Environment variables of vLLM's processes."""
    found = {
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_LOGGING_LEVEL": os.environ.get("VLLM_LOGGING_LEVEL", "WARNING"),
    }
    if settings.device == "cpu":
        found |= {
            "VLLM_CPU_KVCACHE_SPACE": str(max(1, round(settings.memory))),
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            "OMP_NUM_THREADS": str(settings.threads),
        }
        if settings.eager:
            # vLLM has some lines of its sampler compiled all the same, which needs a C++ compiler and takes
            # longer than it saves.
            found["TORCHDYNAMO_DISABLE"] = "1"
    else:
        found["CUDA_VISIBLE_DEVICES"] = settings.visible_devices
    return found
