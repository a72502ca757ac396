"""Measures the effect of router replay on the mismatch of engine and learner, on small mixtures of experts.

    python benchmarks/router_replay.py

The benchmark trains models of four layers with random weights for three updates, in float32 and in bfloat16,
with the learner's own choices of experts and with those of the engine. Before each update and after the last
one, it compares the engine's log-probabilities of the sampled tokens with the learner's. With replay, it also
compares the choices of experts.
"""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

import numpy as np
import torch
from common import BLUE, ORANGE, parser, picture, save
from families import VOCABULARY
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from areal.model_check.agreement import ALL_WEIGHTS, measure
from areal.models import resolve_model

FAMILIES = {"Qwen3-MoE": "qwen3_moe", "Mixtral": "mixtral", "OLMoE": "olmoe"}
SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 128,
    "intermediate_size": 64,
    "moe_intermediate_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": 512,
    "initializer_range": 0.1,
    "num_experts_per_tok": 4,
    "bos_token_id": 0,
}
MEASURED = ("mismatch/logprob", "mismatch/logprob_max", "mismatch/kl", "router/changed")


def make(model_type: str, folder: Path) -> Path:
    """Write a mixture of 16 experts, always the same one, and return its folder."""
    tokenizer = AutoTokenizer.from_pretrained(resolve_model("starter"))
    experts = "num_local_experts" if model_type == "mixtral" else "num_experts"
    config = AutoConfig.for_model(
        model_type,
        **SIZES,
        **{experts: 16, "eos_token_id": tokenizer.eos_token_id},
        tie_word_embeddings=False,
    )
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def measured(folder: Path, dtype: str, replay: bool) -> dict[str, float]:
    """Return the mean of each metric over the comparisons, and the maximum of the largest difference."""
    found = asyncio.run(measure(str(folder), dtype=dtype, learning_rate=1e-3, router_replay=replay))
    rows = found.metrics[ALL_WEIGHTS]
    return {
        name: float((np.max if name.endswith("max") else np.mean)([row[name] for row in rows]))
        for name in MEASURED
        if name in rows[0]
    }


def main() -> None:
    """Measure all models, print a table, and draw a figure."""
    given = parser(__doc__, "router_replay").parse_args()
    results: dict[str, dict[str, float]] = {}
    columns = ("model", "data type", "experts chosen by", "mean difference", "largest difference", "KL")
    print("|", " | ".join((*columns, "`router/changed`")), "|")
    print("|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as scratch:
        for family, model_type in FAMILIES.items():
            folder = make(model_type, Path(scratch) / model_type)
            for dtype in ("float32", "bfloat16"):
                for replay in (False, True):
                    found = measured(folder, dtype, replay)
                    by = "engine" if replay else "learner"
                    results[f"{family} {dtype} {by}"] = found
                    cells = [f"{found[name]:.1g}" for name in MEASURED[:3]]
                    changed = f"{found[MEASURED[3]]:.1%}" if replay else ""
                    print(f"| {family} | {dtype} | {by} | {' | '.join(cells)} | {changed} |", flush=True)
    save(given.output, "router_replay", results)
    with picture(given.output, "router_replay", "Engine and learner in bfloat16") as figure:
        axes = figure.subplots()
        places = np.arange(len(FAMILIES))
        for shift, by, color in ((-0.2, "learner", ORANGE), (0.2, "engine", BLUE)):
            values = [results[f"{family} bfloat16 {by}"]["mismatch/logprob_max"] for family in FAMILIES]
            axes.bar(places + shift, values, 0.4, color=color, label=f"experts chosen by the {by}")
        axes.set_xticks(places, list(FAMILIES))
        axes.set_ylabel("largest difference of log-probabilities")
        axes.legend(frameon=False)


if __name__ == "__main__":
    main()
