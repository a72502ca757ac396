"""Starts vLLM: the settings of an engine as vLLM's arguments and its processes' environment."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from areal.errors import EngineLost, UserError
from areal.rollout import quantization, vllm_sight
from areal.rollout.engine import Interruption
from areal.step_sizes import BATCHED_TOKENS

log = logging.getLogger(__name__)


_REFUSALS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    ImportError,
    LookupError,
    MemoryError,
    NotImplementedError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
)
"""Exceptions with which vLLM rejects a model or a setting before it starts a process."""
RECORDS_EXPERTS = "areal_records_experts"
"""Key in vLLM's additional configuration: its scheduler returns the records of areal.rollout.vllm_experts."""
_NOT_STARTED = "Engine core initialization failed"
"""vLLM's message if one of its processes ended during the start."""
LONGEST_CAUSE = 500
"""Maximum characters that are shown of such a message."""


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """The settings of a vLLM engine.

    Attributes:
        model: folder or hub id.
        device: ``cpu`` or ``cuda``.
        dtype: ``float32``, ``bfloat16`` or ``float16``.
        max_model_len: maximum sequence length, in tokens.
        max_num_seqs: number of sequences that are decoded together.
        memory: size of the KV cache, in GiB on a CPU, or as a share of each GPU's memory.
        eos_ids: tokens that end a continuation.
        threads: number of CPU threads on each of its hosts (CPU only).
        eager: no compilation and no CUDA graphs.
        seed: seed of the sampler.
        weight_backend: name of a registered vLLM weight-transfer engine, or None for fixed weights.
        interruption: effect of new weights on requests in flight (areal.rollout.vllm_engine).
        tensor_parallel: number of worker processes, each with a part of all weights and of the KV cache, and
            with a GPU or, on a CPU, a part of the threads.
        device_bytes: memory of one of its GPUs; 0 on a CPU.
        visible_devices: CUDA_VISIBLE_DEVICES of its processes on this host; empty on a CPU.
        hosts: addresses of its hosts, with the same number of workers on each; the first has the scheduler.
            Empty: one host.
        host: index of this host among them.
        port: a free port of the first host, at which the workers of all hosts meet.
        stop_strings: whether requests may have stop strings, for which vLLM needs the tokenizer.
        sees: whether requests may have images.
        experts: whether completions include the experts of tokens; the model is then a mixture of experts.
        quantization: quantization of the weights (areal.rollout.quantization); None: they have ``dtype``.
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
    tensor_parallel: int = 1
    device_bytes: int = 0
    visible_devices: str = ""
    hosts: tuple[str, ...] = ()
    host: int = 0
    port: int = 0
    stop_strings: bool = False
    sees: bool = False
    experts: bool = False
    quantization: quantization.Quantization | None = None


def is_eager(wanted: bool | None, device: str) -> bool:
    """Return whether vLLM runs without compilation and CUDA graphs; ``wanted``: the setting engine.eager."""
    return device == "cpu" if wanted is None else wanted


def arguments(settings: EngineSettings) -> dict[str, Any]:
    """Return vLLM's engine arguments."""
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
        # The sampling distribution, including temperature: that of the behavior policy.
        "logprobs_mode": "processed_logprobs",
        "disable_log_stats": True,
        # areal's settings determine the sampling, not a model's generation_config.json.
        "generation_config": "vllm",
    }
    if settings.sees:
        found |= vllm_sight.arguments()
    if settings.quantization is not None:
        found |= quantization.arguments()
    if settings.weight_backend is not None:
        found["weight_transfer_config"] = WeightTransferConfig(backend=settings.weight_backend)
        found["worker_extension_cls"] = "areal.rollout.vllm_worker.WorkerExtension"
    if settings.tensor_parallel > 1:
        found["tensor_parallel_size"] = settings.tensor_parallel
        found["distributed_executor_backend"] = "mp"  # see engine_config
    elif settings.device == "cpu":
        # Scheduler and worker in one process. On a CPU, vLLM turns the name "uni" into two processes, because
        # of OpenMP settings that it makes late; ours are made before it starts (see variables). The two
        # processes wait for each other with busy loops, which takes the learner's core away.
        found["distributed_executor_backend"] = "vllm.v1.executor.uniproc_executor.UniProcExecutor"
    if len(settings.hosts) > 1:
        found |= {"nnodes": len(settings.hosts), "node_rank": settings.host}
        found |= {"master_addr": settings.hosts[0], "master_port": settings.port}
    if settings.device == "cpu":
        if settings.dtype == "float32":
            # For latent attention (DeepSeek), vLLM prefers the kernel for AMX, which only supports 16 bits.
            found["attention_backend"] = "CPU_MLA"
        # For a split prompt, vLLM rewinds the random state of a request with its own seed, which a CPU's
        # generator cannot do: evaluations would fail if many or long prompts arrive at once.
        found |= {
            "enable_chunked_prefill": False,
            "max_num_batched_tokens": max(BATCHED_TOKENS, settings.max_model_len),
        }
    else:
        # CUDA graphs as vLLM chooses: without attention if requests begin in a step. With attention in such
        # steps (cudagraph_mode FULL), vLLM 0.26 with FlashAttention 3 occasionally samples NaN.
        found["gpu_memory_utilization"] = settings.memory
        # The size in bytes does not depend on free memory, which the learner and other runs change.
        found["kv_cache_memory_bytes"] = round(settings.memory * settings.device_bytes)
        found["max_num_batched_tokens"] = max(BATCHED_TOKENS, settings.max_num_seqs)
        if settings.experts:
            found["enable_return_routed_experts"] = True
    return found


def engine_config(settings: EngineSettings) -> Any:
    """Return vLLM's whole configuration; raises vLLM's exceptions for invalid arguments."""
    from vllm.engine.arg_utils import AsyncEngineArgs

    config = AsyncEngineArgs(**arguments(settings)).create_engine_config(headless=settings.host > 0)
    if settings.device == "cpu" and settings.experts:
        if not config.cache_config.enable_prefix_caching:  # latent attention runs without it there
            raise UserError(
                "learner.router_replay=true: on a CPU, vLLM cannot record the experts of a model with "
                "latent attention, such as DeepSeek's; set it to false"
            )
        # vLLM rejects its own setting on a CPU.
        config.additional_config = {RECORDS_EXPERTS: True}
    if settings.device == "cpu" and config.model_config.use_mla:
        # vLLM's kernel only rotates the first head of such a query, and leaves the others unchanged.
        config.compilation_config.custom_ops.append("-rotary_embedding")
    if settings.sees:
        vllm_sight.bring_processing(config.model_config)
    kind = "AsyncWholeOutputScheduler" if config.scheduler_config.async_scheduling else "WholeOutputScheduler"
    config.scheduler_config.scheduler_cls = f"areal.rollout.vllm_scheduler.{kind}"
    if are_loaded(os.environ.get("LD_PRELOAD", "")):  # else vLLM needs a process that starts with them
        # A fork has all imports, which take 10 s. CUDA is not used here; if it were, vLLM would spawn anyway.
        os.environ["VLLM_WORKER_MULTIPROC_METHOD"] = "fork"
    if settings.tensor_parallel > 1:
        # Only now, because vLLM allows several hosts only for its own executor, which this one inherits from.
        config.parallel_config.distributed_executor_backend = "areal.rollout.vllm_executor.WorkersExecutor"
    return config


def are_loaded(libraries: str) -> bool:
    """Return whether this process has loaded all libraries of an LD_PRELOAD, such as torch's OpenMP."""
    paths = [os.path.realpath(path) for path in re.split("[: ]+", libraries) if path]
    maps = Path("/proc/self/maps")
    return not paths or (maps.exists() and set(paths) <= {line.split()[-1] for line in maps.open()})


@contextmanager
def starting() -> Iterator[None]:
    """Explain in one line why vLLM does not start in the context; raises EngineLost."""
    try:
        yield
    except Exception as error:
        if type(error) is Exception or _NOT_STARTED in str(error):  # it was raised in a process of vLLM
            raise EngineLost("vLLM did not start") from error
        if not isinstance(error, _REFUSALS):
            raise
        log.exception("vLLM did not start")
        raise EngineLost(f"vLLM did not start: {_reason(error)}") from error


def _reason(error: BaseException) -> str:
    """Return in one line why vLLM refuses to start; pydantic's messages are simplified."""
    text = str(error)
    if hasattr(error, "errors"):
        text = "; ".join(each["msg"].removeprefix("Value error, ") for each in error.errors())
    text = " ".join(text.split())[:LONGEST_CAUSE]
    return text or type(error).__name__


def variables(settings: EngineSettings) -> dict[str, str]:
    """Return the environment variables of vLLM's processes."""
    workers = settings.tensor_parallel // max(1, len(settings.hosts))
    found = {
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_LOGGING_LEVEL": os.environ.get("VLLM_LOGGING_LEVEL", "WARNING"),
    }
    if len(settings.hosts) > 1:
        found["VLLM_HOST_IP"] = settings.hosts[settings.host]
    if settings.device == "cpu":
        found |= {
            "VLLM_CPU_KVCACHE_SPACE": str(max(1, round(settings.memory / settings.tensor_parallel))),
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            "OMP_NUM_THREADS": str(max(1, settings.threads // workers)),
        }
        if settings.eager:
            # vLLM would still compile parts of its sampler, which requires a C++ compiler and takes longer
            # than it saves.
            found["TORCHDYNAMO_DISABLE"] = "1"
    else:
        found["CUDA_VISIBLE_DEVICES"] = settings.visible_devices
    return found
