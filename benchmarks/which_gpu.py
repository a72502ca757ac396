"""Plans which GPUs a model needs: the memory of models with Qwen2.5's shapes on GPUs of given sizes.

    python benchmarks/which_gpu.py --gpus 1x24,1x48,1x80,1x141
    python benchmarks/which_gpu.py --gpus 2x80,8x80

For each model and machine, the script prints the first way of training that fits:

- *all weights*, then *all weights, checkpointing* (with activation checkpointing);
- *LoRA*: an adapter of rank 16, with all settings that save memory (activation checkpointing, small
  micro-batches, 32 episodes in flight, no CUDA graphs);
- *QLoRA*: the same with `learner.base_precision=nf4`;
- *QLoRA, FP8*: the same with `engine.quantization=fp8`;
- *QLoRA, FP8, 1,024 tokens*: the same with conversations of half the length.

With several GPUs, the learner uses as few as possible, and the engines use the others. The script needs no
GPU, because it estimates the memory (areal/placement/memory.py). `python benchmarks/memory_estimate.py`
compares such estimates with the actual memory of a learner. `areal train --dry-run --on 1x24` plans a single
run.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterator
from typing import Any

from models import QWEN2
from transformers import Qwen2Config

from areal.config import Config, load_config, override_config
from areal.errors import UserError
from areal.placement.inventory import SOLD, Inventory, stated
from areal.placement.memory import Shape
from areal.placement.placement import place
from areal.runtime.plan import workload

LARGER: dict[str, dict[str, Any]] = {
    "14b": {
        "hidden_size": 5120,
        "intermediate_size": 13824,
        "num_hidden_layers": 48,
        "num_attention_heads": 40,
    },
    "32b": {
        "hidden_size": 5120,
        "intermediate_size": 27648,
        "num_hidden_layers": 64,
        "num_attention_heads": 40,
    },
}
for sizes in LARGER.values():
    sizes |= {"num_key_value_heads": 8, "tie_word_embeddings": False, "vocab_size": 152064}
MODELS = {**{size: QWEN2[size] for size in ("0.5b", "1.5b", "3b", "7b")}, **LARGER}
SAVING = [
    "learner.activation_checkpointing=true",
    "learner.lora_rank=16",
    "learner.micro_batch_tokens=2048",
    "rollout.max_concurrent=32",
    "engine.eager=true",
]
QLORA = [*SAVING, "learner.base_precision=nf4"]
QLORA_FP8 = [*QLORA, "engine.quantization=fp8"]


def ways(length: int) -> dict[str, list[str]]:
    """Return the ways of training conversations of ``length`` tokens, each with its settings, in order."""
    half = length // 2
    return {
        "all weights": [],
        "all weights, checkpointing": ["learner.activation_checkpointing=true"],
        "LoRA": SAVING,
        "QLoRA": QLORA,
        "QLoRA, FP8": QLORA_FP8,
        f"QLoRA, FP8, {half:,} tokens": [
            *QLORA_FP8,
            "learner.micro_batch_tokens=1024",
            f"rollout.max_model_len={half}",
        ],
    }


def splits(count: int) -> Iterator[tuple[int, int]]:
    """Yield numbers of learner processes and of GPUs per engine; a single GPU is shared by both."""
    for processes, parallel in itertools.product((1, 2, 4, 8), repeat=2):
        if processes + parallel <= count or count == processes == parallel == 1:
            yield processes, parallel


def first_that_fits(shape: Shape, inventory: Inventory, config: Config) -> str:
    count = len(inventory.devices)
    assert config.rollout.max_model_len is not None
    for name, settings in ways(config.rollout.max_model_len).items():
        for processes, parallel in splits(count):
            split = [f"learner.processes={processes}", f"engine.tensor_parallel={parallel}"]
            tried = override_config(config, [*settings, *split])
            if (engines := fits(shape, inventory, tried)) is None:
                continue
            return name if count == 1 else f"{name}: {_division(processes, engines, parallel)}"
    return "does not fit"


def _division(processes: int, engines: int, parallel: int) -> str:
    """Return a description of how several GPUs are divided."""
    learner = f"learner on {processes} GPU{'s' * (processes > 1)}"
    each = f" of {parallel} GPUs each" if parallel > 1 else ""
    return f"{learner}, {engines} engine{'s' * (engines > 1)}{each}"


def fits(shape: Shape, inventory: Inventory, config: Config) -> int | None:
    """Return the number of engines; None: the model does not fit."""
    placement = place(inventory, config)
    assert config.rollout.max_model_len is not None
    try:
        placement.with_memory(shape, workload(placement, config, config.rollout.max_model_len))
    except UserError:
        return None
    return len(placement.engines)


def main() -> None:
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    known = ", ".join(map(str, SOLD))
    arguments.add_argument(
        "--gpus", default="1x24,1x48,1x80,1x141,2x80,8x80", help=f"COUNTxGB, any of {known}"
    )
    arguments.add_argument("--models", default=",".join(MODELS), help=f"any of {', '.join(MODELS)}")
    arguments.add_argument("--max-model-len", type=int, default=2048, help="maximum tokens of a conversation")
    arguments.add_argument("--batch-size", type=int, default=128, help="episodes per update")
    given = arguments.parse_args()
    machines = given.gpus.split(",")
    length = given.max_model_len
    rollout = {"batch_size": given.batch_size, "max_model_len": length, "max_new_tokens": length // 2}
    config = load_config(values={"rollout": rollout, "learner": {"micro_batch_tokens": 8192}})
    print("| parameters |", " | ".join(f"{machine.replace('x', ' × ')} GB" for machine in machines), "|")
    print("|" + "---|" * (1 + len(machines)))
    for name in given.models.split(","):
        shape = Shape.of(Qwen2Config(**MODELS[name]))
        found = [first_that_fits(shape, stated(machine), config) for machine in machines]
        print(f"| {name.upper()} |", " | ".join(found), "|", flush=True)


if __name__ == "__main__":
    main()
