"""Runs the work of ``throughput.py`` in TRL's GRPO trainer, for ``against_trl.py``, with TRL's own Python.

    python benchmarks/trl_grpo.py MODEL generate|vllm|vllm-fp32|gpu|gpu-liger --folder FOLDER [--steps 40]

TRL alternates: it generates a batch, then trains on it. The ways differ in what generates: the model itself,
vLLM as TRL starts it in its own process, or the same with float32, for which TRL has no setting. On a CPU,
vLLM repacks its weights so that TRL cannot load others. Here, vLLM therefore multiplies by the original
weights.

On a GPU, vLLM generates in TRL's process, in bfloat16. The responses have the same drawn lengths as areal's,
which the script passes to vLLM. *gpu-liger* uses Liger's fused loss, which materializes no logits.

TRL's environment lacks areal, so this file repeats the code that it shares with ``throughput.py``.
"""

from __future__ import annotations

import argparse
import functools
import json
import math
import random
import sys
import time
from collections.abc import Callable
from typing import Any

from datasets import Dataset
from transformers import TrainerCallback
from trl import GRPOConfig, GRPOTrainer

WARMUP = 10
PROBLEMS, GROUP, TOKENS = 16, 8, 32


class Clock(TrainerCallback):
    """A callback that records when each update ends."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_step_end(self, *arguments: Any, **keywords: Any) -> None:
        self.ends.append(time.perf_counter())


def parity(completions: list[str], **_: Any) -> list[float]:
    """Return the rewards of ``throughput.py``: nothing to learn, but no two groups are alike."""
    return [float(sum(map(ord, completion)) % 2) for completion in completions]


def prompts(count: int) -> Dataset:
    numbers = random.Random(0)

    def asked() -> str:
        a, b, c = (numbers.randrange(10, 99) for _ in range(3))
        return f"Compute {a} + {b} - {c}.\nPut the final answer in \\boxed{{}}."

    return Dataset.from_list([{"prompt": asked()} for _ in range(count)])


def started(llm: Callable[..., Any], *arguments: Any, **keywords: Any) -> Any:
    """Start vLLM without the repacking of the loaded weights."""
    import torch
    import vllm.model_executor.layers.utils

    def dispatch(layer: torch.nn.Module, remove_weight: bool) -> None:
        layer.cpu_linear = torch.nn.functional.linear

    for module in list(sys.modules.values()):
        if "dispatch_cpu_unquantized_gemm" in vars(module):
            module.dispatch_cpu_unquantized_gemm = dispatch
    assert vllm.model_executor.layers.utils.dispatch_cpu_unquantized_gemm is dispatch
    return llm(*arguments, **keywords)


def with_drawn_lengths(llm: Callable[..., Any], mean: int, longest: int) -> Callable[..., Any]:
    """Return a function that starts vLLM so that each request ends at its own geometric length."""
    stays, drawn = math.log1p(-1 / mean), random.Random(0)

    def start(*arguments: Any, **keywords: Any) -> Any:
        made = llm(*arguments, **keywords)
        generate = made.generate

        def generate_drawn(asked: list[Any], sampling_params: Any, **more: Any) -> Any:
            each = []
            for _ in asked:
                one = sampling_params.clone()
                one.max_tokens = min(longest, 1 + int(math.log1p(-drawn.random()) / stays))
                each.append(one)
            return generate(asked, sampling_params=each, **more)

        made.generate = generate_drawn
        return made

    return start


def of_a_gpu(way: str) -> dict[str, Any]:
    """Return the settings that make TRL fastest on a GPU."""
    return {
        "bf16": True,
        "optim": "adamw_torch_fused",
        "use_liger_kernel": way == "gpu-liger",
        "vllm_gpu_memory_utilization": 0.4,
        # The weights that sampled are those that learn: no second forward pass for their ratio.
        "vllm_importance_sampling_correction": False,
        "model_init_kwargs": {"attn_implementation": "flash_attention_2", "dtype": "float32"},
        "generation_kwargs": {"ignore_eos": True},
    }


def main() -> None:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("model")
    options.add_argument("way", choices=["generate", "vllm", "vllm-fp32", "gpu", "gpu-liger"])
    options.add_argument("--steps", type=int, default=40, help="measured updates (default: 40)")
    options.add_argument("--warmup", type=int, default=WARMUP, help="warm-up updates (default: %(default)s)")
    options.add_argument(
        "--batch", type=int, default=PROBLEMS * GROUP, help="responses per update (default: %(default)s)"
    )
    options.add_argument(
        "--tokens", type=int, default=TOKENS, help="maximum tokens per response (default: %(default)s)"
    )
    options.add_argument("--mean", type=int, help="mean tokens per response, on a GPU")
    options.add_argument("--at-once", type=int, help="responses per forward and backward pass (default: all)")
    options.add_argument("--folder", required=True, help="folder for the output of TRL")
    arguments = options.parse_args()
    on_gpu = arguments.way.startswith("gpu")
    if arguments.way != "generate":
        from trl.generation import vllm_generation

        start: Callable[..., Any]
        if on_gpu:
            start = with_drawn_lengths(vllm_generation.LLM, arguments.mean, arguments.tokens)
        else:
            dtype = "float32" if arguments.way == "vllm-fp32" else "auto"
            start = functools.partial(started, vllm_generation.LLM, dtype=dtype)
        vllm_generation.LLM = start
    steps = arguments.warmup + arguments.steps
    at_once = arguments.at_once or arguments.batch
    config = GRPOConfig(
        output_dir=arguments.folder,
        max_steps=steps,
        per_device_train_batch_size=at_once,
        gradient_accumulation_steps=arguments.batch // at_once,
        num_generations=GROUP,
        max_completion_length=arguments.tokens,
        learning_rate=1e-6,
        lr_scheduler_type="constant",
        temperature=1.0,
        top_k=0,
        beta=0.0,
        # What makes it faster on a model of this size.
        gradient_checkpointing=False,
        use_vllm=arguments.way != "generate",
        vllm_max_model_length=arguments.tokens + 96,
        # No time for what is not the work.
        report_to="none",
        save_strategy="no",
        logging_steps=steps,
        disable_tqdm=True,
        **(of_a_gpu(arguments.way) if on_gpu else {"bf16": False, "use_cpu": True}),
    )
    clock = Clock()
    GRPOTrainer(
        model=arguments.model,
        reward_funcs=parity,
        args=config,
        train_dataset=prompts(arguments.batch // GROUP * steps),
        callbacks=[clock],
    ).train()
    seconds = clock.ends[-1] - clock.ends[arguments.warmup - 1]
    print(json.dumps({"responses_per_s": arguments.batch * arguments.steps / seconds}))


if __name__ == "__main__":
    main()
