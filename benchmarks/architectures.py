"""Checks for each model family whether the engine computes the same as the learner after every update.

    python benchmarks/architectures.py [--family qwen3 gemma3 ...] [--write]

For each family, `areal models check --tiny` trains a small model with random weights, once with tied
embeddings and output layer and once without. It trains all weights for three updates, each of which changes
every weight, and then trains an adapter. --write saves the results to docs/figures/models.json and the table
to docs/models.md.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from transformers import AutoConfig

ROOT = Path(__file__).parents[1]
RESULTS, PAGE = ROOT / "docs/figures/models.json", ROOT / "docs/models.md"
BEGIN, END = "<!-- table: begin -->", "<!-- table: end -->"
NOTE = 180
"""Maximum number of characters of a note below the table."""
REASONS = {
    "no module or parameter named 'lm_head'": "vLLM always ties the embeddings and the output layer of this "
    "family, as all of its published models do.",
    "does not know what the learner sends as lm_head.weight:": "vLLM always ties the embeddings and the "
    "output layer of this family, as all of its published models do.",
    "the engine gets nothing for its lm_head.weight:": "vLLM never ties the embeddings and the output layer "
    "of this family. Its published models do not tie them, either.",
    "it carries a state from token to token": "areal refuses this family, because its models have a "
    "recurrent state.",
}
"""Explanations of known findings, by a part of their text. The last match applies."""
OF_FAMILY = {
    "apertus": "vLLM keeps the parameters of the activation function (xIELU) in bfloat16, even if it "
    "computes in float32.",
    "minimax_m2": "On a CPU, vLLM does not support the sigmoid router of this family. It was not tried on a "
    "GPU.",
    "cohere2": "The sliding window is one token longer in vLLM than in transformers, so the two differ for "
    "sequences that are longer than the window (4,096 tokens in published models).",
    "phimoe": "vLLM and transformers have different names for this architecture. Under transformers' name, "
    "vLLM uses transformers' code and crashes in its router. Under its own name, vLLM samples NaN on a CPU.",
}
"""Explanations of findings whose text does not explain them, by model type in transformers."""
LIMIT = 600
"""Time limit for one model, in seconds."""

# Caps and scales of a size at which leaving them out shows.
_CAPS = {"attn_logit_softcapping": 2.0, "final_logit_softcapping": 2.0}
# As published; by default transformers has neither groups nor a number of experts.
_V2_ROUTES = {"topk_method": "group_limited_greedy", "n_group": 8, "topk_group": 3}
_INTERLEAVED = {
    "rope_type": "default",
    "rope_theta": 5e6,
    "mrope_interleaved": True,
    "mrope_section": [24, 20, 20],
}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "Llama 2, 3": ("llama", {"num_key_value_heads": 8}),
    "Qwen2, Qwen2.5": ("qwen2", {}),
    "Qwen3": ("qwen3", {"num_key_value_heads": 8}),
    "Qwen2-MoE": ("qwen2_moe", {}),
    "Qwen3-MoE": ("qwen3_moe", {}),
    "Mistral": ("mistral", {}),
    "Ministral 3": ("ministral3", {}),
    "Mixtral": ("mixtral", {}),
    "Gemma": ("gemma", {}),
    "Gemma 2": ("gemma2", _CAPS),
    "Gemma 3": ("gemma3_text", {}),
    "Phi-3, Phi-4": ("phi3", {}),
    "OLMo 2": ("olmo2", {}),
    "OLMo 3": ("olmo3", {}),
    "OLMoE": ("olmoe", {}),
    "SmolLM3": ("smollm3", {}),
    "Granite 3": ("granite", {"attention_multiplier": 0.25, "logits_scaling": 8.0}),
    "GPT-OSS": ("gpt_oss", {}),
    "DeepSeek-V2": ("deepseek_v2", {**_V2_ROUTES, "n_routed_experts": 64, "num_experts_per_tok": 6}),
    "DeepSeek-V3, Kimi K2": ("deepseek_v3", {"topk_method": "noaux_tc", "scoring_func": "sigmoid"}),
    "GLM-4": ("glm4", {}),
    "GLM-4.5": ("glm4_moe", {"head_dim": 128}),
    "GLM-4.7-Flash": ("glm4_moe_lite", {"first_k_dense_replace": 1}),
    "Cohere": ("cohere", {}),
    "Cohere 2": ("cohere2", {}),
    "ERNIE 4.5": ("ernie4_5", {}),
    "ERNIE 4.5 MoE": ("ernie4_5_moe", {}),
    "Seed-OSS": ("seed_oss", {}),
    "EXAONE 4": ("exaone4", {}),
    "StarCoder 2": ("starcoder2", {}),
    "Phi-3.5-MoE": ("phimoe", {}),
    "Granite MoE": ("granitemoe", {"attention_multiplier": 0.25, "logits_scaling": 8.0}),
    "Hunyuan": ("hunyuan_v1_dense", {"head_dim": 128}),
    "Hunyuan MoE": ("hunyuan_v1_moe", {"head_dim": 128}),
    "MiniMax M2": (
        "minimax_m2",
        {"rotary_dim": 64, "scoring_func": "sigmoid", "use_routing_bias": True},
    ),
    "dots.llm1": (
        "dots1",
        {
            "n_routed_experts": 128,
            "n_shared_experts": 2,
            "num_experts_per_tok": 6,
            "first_k_dense_replace": 1,
        },
    ),
    "Apertus": ("apertus", {}),
    "Nemotron": ("nemotron", {}),
    "Falcon": ("falcon", {}),
    "GPT-2": ("gpt2", {}),
    "Qwen3-Next": ("qwen3_next", {}),
    "Qwen3.5": ("qwen3_5_text", {}),
    "Falcon-H1": ("falcon_h1", {}),
    "LFM2": ("lfm2", {"full_attn_idxs": [2, 5, 8, 10, 12, 14]}),
    "Nemotron-H": ("nemotron_h", {}),
    "Granite 4": ("granitemoehybrid", {}),
    "Qwen2-VL": ("qwen2_vl", {}),
    "Qwen2.5-VL": ("qwen2_5_vl", {}),
    "Qwen3-VL": ("qwen3_vl", {"text_config": {"rope_parameters": _INTERLEAVED}}),
}
"""Common name of each family, its type in transformers, and the settings that its defaults there omit."""


def tried(model_type: str, settings: dict[str, Any], tied: bool) -> list[dict[str, Any]]:
    """Check a small model of a type in a separate process and return the findings."""
    with tempfile.TemporaryDirectory() as folder:
        AutoConfig.for_model(model_type, **settings, tie_word_embeddings=tied).save_pretrained(folder)
        command = [sys.executable, "-m", "areal", "models", "check", folder, "--tiny", "--json"]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, check=False)
        except subprocess.TimeoutExpired:
            return [{"what": "check", "sound": False, "text": f"nothing after {LIMIT} s", "differences": []}]
        lines = [line for line in done.stdout.splitlines() if line.startswith("[{")]
        if not lines:
            said = (done.stderr.strip().splitlines() or ["no output"])[-1]
            return [
                {"what": "check", "sound": False, "text": said.replace(folder, "MODEL"), "differences": []}
            ]
        compared = [f for f in json.loads(lines[-1]) if f["differences"] or f["sound"] is False]
        return [{**finding, "text": finding["text"].replace(folder, "MODEL")} for finding in compared]


def worst(findings: list[dict[str, Any]], what: str) -> str:
    """Return the largest difference in the findings, or ``–`` if none was measured."""
    for finding in findings:
        if finding["what"].startswith(what) and finding["differences"]:
            largest = f"{np.max(finding['differences']):.0e}"  # NaN, if one is
            return largest if finding["sound"] else f"**{largest}**"
    return "–"


def explained(text: str) -> str:
    """Return the explanation of a finding, or the beginning of its text if there is none."""
    known = [meaning for part, meaning in REASONS.items() if part in text]
    text = text.removeprefix("areal: error: ").rpartition("in its output: ")[2]
    return known[-1] if known else text if len(text) < NOTE else f"{text[:NOTE]} ..."


def table(results: dict[str, Any]) -> str:
    """Return the table for the page."""
    lines = [
        "| family | type | all weights, tied | all weights, untied | LoRA, tied | LoRA, untied |",
        "|---|---|---|---|---|---|",
    ]
    notes = []
    for name, found in results.items():
        wrong = [f["text"] for f in [*found["tied"], *found["untied"]] if f["sound"] is False]
        cells = [worst(found[way], what) for what in ("all weights", "adapter") for way in ("tied", "untied")]
        mark = ""
        if wrong:
            note = OF_FAMILY.get(found["type"]) or explained(wrong[0])
            notes += [note] if note not in notes else []
            mark = f" [{notes.index(note) + 1}]"
        lines.append(f"| {name}{mark} | `{found['type']}` | {' | '.join(cells)} |")
    numbered = [f"{number}. {note}" for number, note in enumerate(notes, 1)]
    return "\n".join([*lines, *(["", *numbered] if numbered else [])])


def main() -> None:
    """Check all families, or the given ones."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--family", nargs="+", metavar="TYPE", help="types in transformers, such as qwen3 (default: all)"
    )
    parser.add_argument("--write", action="store_true", help="write the results to docs")
    given = parser.parse_args()
    results: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for name, (model_type, settings) in FAMILIES.items():
        if given.family and model_type not in given.family:
            continue
        begun = time.monotonic()
        found = {way: tried(model_type, settings, way == "tied") for way in ("tied", "untied")}
        cells = [
            f"{what} {way} {worst(found[way], what)}" for what in ("all weights", "adapter") for way in found
        ]
        print(f"{name:<22} {', '.join(cells)} ({time.monotonic() - begun:.0f} s)", flush=True)
        for finding in [*found["tied"], *found["untied"]]:
            if finding["sound"] is False:
                print(f"    {finding['what']}: {finding['text'][:200]}", flush=True)
        results[name] = {"type": model_type, **found}
        if given.write:
            ordered = {name: results[name] for name in FAMILIES if name in results}
            RESULTS.write_text(json.dumps(ordered) + "\n")
            before, _, rest = PAGE.read_text().partition(BEGIN)
            PAGE.write_text(f"{before}{BEGIN}\n{table(ordered)}\n{END}{rest.partition(END)[2]}")


if __name__ == "__main__":
    main()
