"""Engines compute what learners do, for families that keep their weights in memory otherwise than in files.

Mixtures of experts (Qwen3-MoE is in test_router_replay.py), tied heads, soft caps, other names.
``benchmarks/architectures.py`` has many more.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from policies import TOLERANCE, Policies

from areal.config import parse_config
from areal.errors import EngineLost
from areal.model_check.agreement import measure
from areal.runtime.build import start_rollout_worker
from areal.runtime.plan import plan
from areal.weights.interface import VLLM_BACKEND
from areal.weights.sender import open_sender

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from families import make


@pytest.mark.parametrize("family", ["gpt-oss", "mixtral-tied", "deepseek-v3", "gemma2", "gpt2"])
async def test_engine_and_learner_agree_after_each_of_three_updates(family: str, tmp_path: Path):
    ways: dict[str, dict[str, Any]] = {"all weights": {}, "adapter": {"lora_rank": 4}}
    found = await measure(str(make(family, tmp_path)), ways)
    assert {way: len(differences) for way, differences in found.updates.items()} == dict.fromkeys(ways, 4)
    assert max(map(max, found.updates.values())) < TOLERANCE, found
    assert found.packed < 1e-4


async def test_what_is_not_whole_or_not_known_is_refused_and_what_is_whole_goes_on(tmp_path: Path):
    folder = str(make("llama", tmp_path))
    config = parse_config(
        {"model": folder, "rollout": {"max_model_len": 128}, "engine": {"dtype": "float32"}}
    )
    checked = plan(config)
    worker = await start_rollout_worker(checked, VLLM_BACKEND)
    try:
        policies = Policies(worker.engine, folder)
        named = dict(policies.named())
        without_key = {n: t for n, t in named.items() if n != "model.layers.0.self_attn.k_proj.weight"}
        without_norm = {n: t for n, t in named.items() if n != "model.norm.weight"}
        unknown = {**named, "model.layers.0.mlp.experts.gate_up_proj": torch.ones(3, 3)}
        for sent, complaint in (
            (without_key, "does not receive all of its model.layers.0.self_attn.qkv_proj"),
            (without_norm, "receives nothing for its model.norm.weight"),
            (unknown, "layers.0.mlp.experts"),
        ):
            sender = open_sender(checked.placement.backends, sent.items(), torch.float32, checked.device)
            await worker.engine.connect(sender.init_infos())
            sender.write(sent.items())
            with pytest.raises(EngineLost, match=complaint) as refused:
                await worker.engine.load(1)
            assert "\n" not in str(refused.value)
            sender.close()
        await policies.connect()
        assert await policies.update() == 1
        policies.close()
    finally:
        await worker.close()
