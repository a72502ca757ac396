"""What a learner sends and writes has the names and shapes of the checkpoint that it came from."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from areal.config import LearnerConfig
from areal.learner.learner import Learner
from areal.runtime.checkpoint import to_host, write_model

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from families import make

FAMILIES = ["llama-tied", "qwen3-moe", "mixtral-tied", "olmoe", "gpt2", "gemma2", "deepseek-v3"]


def named(folder: Path, **settings: Any) -> tuple[Learner, dict[str, torch.Tensor]]:
    learner = Learner(str(folder), LearnerConfig(**settings), "cpu", 1.0, 1)
    return learner, dict(learner.named_parameters())


@pytest.mark.parametrize("family", FAMILIES)
def test_names_and_values_are_those_of_the_checkpoint_and_of_what_is_written(family: str, tmp_path: Path):
    folder = make(family, tmp_path / "model")
    on_disk = load_file(folder / "model.safetensors")
    learner, sent = named(folder)
    assert sent.keys() == on_disk.keys()
    assert all(torch.equal(tensor, sent[name]) for name, tensor in on_disk.items())
    with torch.no_grad():
        for parameter in learner.model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
    moved = dict(learner.named_parameters())
    unmoved = [name for name, tensor in on_disk.items() if torch.equal(tensor, moved[name])]
    assert all(name.endswith("e_score_correction_bias") for name in unmoved), "which is never trained"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    write_model(tmp_path / "written", learner.model, tokenizer, to_host(moved.items()))
    written = load_file(tmp_path / "written" / "model.safetensors")
    assert written.keys() == on_disk.keys()
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "written", dtype=torch.float32)
    for own, loaded in zip(learner.model.parameters(), again.parameters(), strict=True):
        assert torch.equal(own, loaded)


@pytest.mark.parametrize("family", ["qwen3-moe", "mixtral", "deepseek-v3"])
def test_merged_adapters_have_them_too(family: str, tmp_path: Path):
    folder = make(family, tmp_path / "model")
    on_disk = load_file(folder / "model.safetensors")
    learner, sent = named(folder, lora_rank=2)
    assert sent.keys() == on_disk.keys()
    with torch.no_grad():
        for name, parameter in learner.model.named_parameters():
            if "lora_B" in name:
                parameter.add_(1)
    changed = {n for n, tensor in learner.named_parameters() if not torch.equal(tensor, on_disk[n])}
    assert changed
    # Neither dense layers nor shared experts, which have the names of an expert's.
    assert all("_proj" in name and "self_attn" in name for name in changed)
