"""The work of ``throughput.py`` in TRL's GRPO trainer; ``against_trl.py`` runs it with TRL's own Python.

    python benchmarks/trl_grpo.py MODEL generate|vllm|vllm-fp32 --folder FOLDER [--steps 40]

TRL alternates: it generates a batch, then trains on it. The ways differ in what generates: the model itself,
vLLM as TRL starts it in its own process, and the same with float32, which TRL has no setting for. vLLM
repacks weights for a CPU so that TRL cannot load others: here it multiplies by the weights as they are.

TRL's environment lacks areal, so that what this shares with ``throughput.py`` stands here again.
"""

from __future__ import annotations

import argparse
import functools
import json
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
    """Notes when each update ends."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_step_end(self, *arguments: Any, **keywords: Any) -> None:
        self.ends.append(time.perf_counter())


def parity(completions: list[str], **_: Any) -> list[float]:
    """The reward of ``throughput.py``: nothing to learn, but no two groups are alike."""
    return [float(sum(map(ord, completion)) % 2) for completion in completions]


def prompts(count: int) -> Dataset:
    numbers = random.Random(0)

    def asked() -> str:
        a, b, c = (numbers.randrange(10, 99) for _ in range(3))
        return f"Compute {a} + {b} - {c}.\nPut the final answer in \\boxed{{}}."

    return Dataset.from_list([{"prompt": asked()} for _ in range(count)])


def started(llm: Callable[..., Any], *arguments: Any, **keywords: Any) -> Any:
    """Start vLLM so that it keeps the weights as they were loaded."""
    import torch
    import vllm.model_executor.layers.utils

    def dispatch(layer: torch.nn.Module, remove_weight: bool) -> None:
        layer.cpu_linear = torch.nn.functional.linear

    for module in list(sys.modules.values()):
        if "dispatch_cpu_unquantized_gemm" in vars(module):
            module.dispatch_cpu_unquantized_gemm = dispatch
    assert vllm.model_executor.layers.utils.dispatch_cpu_unquantized_gemm is dispatch
    return llm(*arguments, **keywords)


def main() -> None:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("model")
    options.add_argument("way", choices=["generate", "vllm", "vllm-fp32"])
    options.add_argument("--steps", type=int, default=40, help="updates that are measured (40)")
    options.add_argument("--folder", required=True, help="of what TRL leaves")
    arguments = options.parse_args()
    if arguments.way != "generate":
        from trl.generation import vllm_generation

        dtype = "float32" if arguments.way == "vllm-fp32" else "auto"
        vllm_generation.LLM = functools.partial(started, vllm_generation.LLM, dtype=dtype)
    steps = WARMUP + arguments.steps
    config = GRPOConfig(
        output_dir=arguments.folder,
        max_steps=steps,
        per_device_train_batch_size=PROBLEMS * GROUP,
        num_generations=GROUP,
        max_completion_length=TOKENS,
        learning_rate=1e-6,
        lr_scheduler_type="constant",
        temperature=1.0,
        top_k=0,
        beta=0.0,
        # What makes it faster on a model of this size.
        gradient_checkpointing=False,
        bf16=False,
        use_cpu=True,
        use_vllm=arguments.way != "generate",
        vllm_max_model_length=128,
        # No time for what is not the work.
        report_to="none",
        save_strategy="no",
        logging_steps=steps,
        disable_tqdm=True,
    )
    clock = Clock()
    GRPOTrainer(
        model=arguments.model,
        reward_funcs=parity,
        args=config,
        train_dataset=prompts(PROBLEMS * steps),
        callbacks=[clock],
    ).train()
    seconds = clock.ends[-1] - clock.ends[WARMUP - 1]
    print(json.dumps({"responses_per_s": PROBLEMS * GROUP * arguments.steps / seconds}))


if __name__ == "__main__":
    main()
