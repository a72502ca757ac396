"""LoRA: peft's own arithmetic, a base that never moves, and files that need no areal."""

from __future__ import annotations

import importlib.util
from operator import attrgetter
from pathlib import Path
from typing import Any

import pytest
import torch
from dummy_batches import batch
from peft import LoraConfig, PeftModel, get_peft_model
from test_learner import padded_logprobs
from transformers import AutoConfig, AutoModelForCausalLM

from areal.config import LearnerConfig, parse_config
from areal.errors import UserError
from areal.learner import lora
from areal.learner.learner import Learner
from areal.learner.packed import pack
from areal.models import load_tokenizer, resolve_model
from areal.models.merge import merge_adapter
from areal.runtime import checkpoint
from areal.runtime.checkpoint import Checkpoints
from areal.runtime.export import export_model
from areal.runtime.plan import plan
from areal.runtime.rollout_state import RolloutState
from areal.telemetry.run_directory import RunDirectory

needs_bitsandbytes = pytest.mark.skipif(
    importlib.util.find_spec("bitsandbytes") is None, reason="needs bitsandbytes"
)
STARTER, CPU, RANK = resolve_model("starter"), torch.device("cpu"), 4


def make_learner(**choices: Any) -> Learner:
    settings = {"lora_rank": RANK, "warmup_steps": 0, "learning_rate": 1e-3, "minibatches": 1, **choices}
    return Learner(STARTER, LearnerConfig(**settings), "cpu", 1.0, 1)


def plain() -> Any:
    return AutoModelForCausalLM.from_pretrained(STARTER, dtype=torch.float32)


def weights(learner: Learner) -> dict[str, torch.Tensor]:
    return {name: weight.clone() for name, weight in learner.named_parameters()}


def mean_loss(logprobs: torch.Tensor, entropy: torch.Tensor, part: slice) -> torch.Tensor:
    return -logprobs / len(logprobs)  # so few tokens are one part


def test_updates_are_those_of_a_plain_peft_model():
    learner = make_learner(grad_clip=1e9)
    config = LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules="all-linear")
    straight = get_peft_model(plain(), config)
    own = dict(straight.named_parameters())
    with torch.no_grad():
        for name, weight in lora.adapter_of(learner.model).items():
            own[name.replace(".weight", ".default.weight")].copy_(weight)
    optimizer = torch.optim.AdamW(
        [p for p in own.values() if p.requires_grad], 1e-3, (0.9, 0.95), weight_decay=0
    )
    for seed in range(4):
        members = batch(seed, groups=1).trajectories
        learner.policy.accumulate(attrgetter("loss"), pack(members, CPU), 1.0, mean_loss)
        learner.policy.step(1e-3, version=0)
        (-torch.cat([padded_logprobs(straight, t, 1.0) for t in members]).mean()).backward()
        optimizer.step()
        optimizer.zero_grad()
    moved = 0.0
    for name, weight in lora.adapter_of(learner.model).items():
        theirs = own[name.replace(".weight", ".default.weight")]
        torch.testing.assert_close(weight, theirs, rtol=1e-3, atol=2e-5)
        moved += float(weight.norm()) if "lora_B" in name else 0.0
    assert moved > 0.1
    merged = dict(straight.merge_and_unload().named_parameters())
    for name, weight in learner.named_parameters():
        torch.testing.assert_close(weight, merged[name], rtol=1e-3, atol=2e-5)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_only_the_adapter_moves_and_merging_moves_nothing(dtype: str):
    learner = make_learner(dtype=dtype)
    base = {name: p.to(getattr(torch, dtype)).float() for name, p in plain().named_parameters()}
    assert weights(learner).keys() == base.keys()
    assert all(torch.equal(weight, base[name]) for name, weight in learner.named_parameters())
    metrics = [learner.update(batch(seed)) for seed in range(3)]
    assert all(m["grad_norm"] > 0 for m in metrics)
    state, merged = {n: t.clone() for n, t in learner.state().items()}, weights(learner)
    changed = {name for name, weight in merged.items() if not torch.equal(weight, base[name])}
    assert changed == {name for name in base if "_proj.weight" in name}
    assert all(torch.equal(weight, merged[name]) for name, weight in learner.named_parameters())
    assert all(torch.equal(tensor, state[name]) for name, tensor in learner.state().items())
    with lora.without_adapter(learner.model):
        assert all(torch.equal(weight, base[name]) for name, weight in learner.named_parameters())
    assert all(torch.equal(weight, merged[name]) for name, weight in learner.named_parameters())


def test_the_reference_is_the_model_without_its_adapter():
    learner = make_learner(kl=0.1)
    assert learner._reference is learner.policy, "no second copy"
    data = batch(3)
    packed = pack(data.trajectories, CPU)
    frozen = Learner(STARTER, LearnerConfig(), "cpu", 1.0, 1)
    found = [learner.update(data)["policy/reference_kl"] for _ in range(3)]
    assert found[0] == 0
    assert found[2] > found[1] > 0
    with torch.no_grad(), lora.without_adapter(learner.model):
        assert torch.equal(learner.policy(packed, 1.0).logprobs, frozen.policy(packed, 1.0).logprobs), (
            "to the bit"
        )


def test_merged_weights_compute_what_the_learner_does():
    learner, merged = make_learner(), plain()
    for seed in range(3):
        learner.update(batch(seed))
    merged.load_state_dict(weights(learner), strict=False)
    members = batch(9).trajectories
    own = learner.policy(pack(members, CPU), 1.0).logprobs
    theirs = torch.cat([padded_logprobs(merged, t, 1.0) for t in members])
    torch.testing.assert_close(own, theirs, atol=1e-5, rtol=1e-5)
    before = torch.cat([padded_logprobs(plain(), t, 1.0) for t in members])
    assert (own - before).abs().max() > 1e-2


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("base", ["auto", pytest.param("nf4", marks=needs_bitsandbytes)])
def test_the_learner_computes_to_the_bit_what_whole_weights_do(dtype: str, base: str):
    """Those that engines get, trained or not: nothing of an adapter is lost, or kept, by one side alone."""
    learner = make_learner(dtype=dtype, base_precision=base)
    whole = Learner(STARTER, LearnerConfig(dtype=dtype), "cpu", 1.0, 1)
    packed = pack(batch(9).trajectories, CPU)
    start = whole.policy(packed, 1.0).logprobs
    for seed in range(2):
        learner.update(batch(seed))
    whole.model.load_state_dict(weights(learner), strict=False)
    assert torch.equal(learner.policy(packed, 1.0).logprobs, whole.policy(packed, 1.0).logprobs)
    assert (learner.policy(packed, 1.0).logprobs - start).abs().max() > 1e-2
    held = {tensor.dtype for _, tensor in lora.base_tensors(learner.model)}
    narrow = {torch.uint8, torch.float32} if base == "nf4" else set()
    assert held == narrow | {getattr(torch, dtype)}
    trained = [p for p in learner.model.parameters() if p.requires_grad]
    assert {p.dtype for p in trained} == {torch.float32}


def test_ranks_and_scales_are_peft_s_and_go_into_its_files(tmp_path: Path):
    options = {
        "lora_alpha": 8,
        "use_rslora": True,
        "rank_pattern": {"down_proj": 2, "layers.1.self_attn.q_proj": 8},
        "alpha_pattern": {"q_proj": 3},
        "target_modules": ["q_proj", "down_proj"],
    }
    learner = make_learner(lora_options=options)
    learner.update(batch(0))
    layers = lora.bases(learner.model)
    assert {name.rpartition("_proj")[0][-1] for name in layers} == {"q", "n"}
    first, second = (layers[f"model.layers.{n}.self_attn.q_proj.weight"] for n in (0, 1))
    assert (first.r["default"], second.r["default"]) == (RANK, 8)
    assert second.scaling["default"] == pytest.approx(3 / 8**0.5)
    assert layers["model.layers.0.mlp.down_proj.weight"].scaling["default"] == pytest.approx(8 / 2**0.5)
    lora.write_adapter(tmp_path / "adapter", learner.model, STARTER, lora.adapter_of(learner.model))
    assert merge_adapter(tmp_path / "adapter", tmp_path / "merged") == STARTER
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype="auto")
    for name, weight in learner.named_parameters():
        torch.testing.assert_close(merged.get_parameter(name), weight)
    by_pattern = make_learner(lora_options={"rank_pattern": {"o_proj": 1}})
    assert {layer.scaling["default"] for layer in lora.bases(by_pattern.model).values()} == {2.0}


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (
            {"rank_pattern": {"qkv_proj": 2}},
            r"'qkv_proj' is not an adapted layer; use a name such as model\.layers",
        ),
        ({"target_modules": ["q_proj"], "alpha_pattern": {"k_proj": 2}}, "'k_proj' is not an adapted layer"),
        ({"target_modules": ["embed_tokens"]}, r"target_modules selects .*embed_tokens.*remove it"),
        ({"target_modules": ["qkv"]}, r"lora_options: .*qkv"),
        ({"rslora": True}, r"lora_options\.rslora"),
        ({"use_rslora": True}, "also set lora_alpha"),
        ({"rank_pattern": {"q_proj": 0}}, "rank_pattern.q_proj=0 must be at least 1"),
    ],
)
def test_what_would_be_adapted_otherwise_than_was_meant_is_refused(options: dict[str, Any], complaint: str):
    def learner() -> Learner:
        settings = parse_config({"learner": {"lora_rank": RANK, "lora_options": options}}).learner
        return Learner(STARTER, settings, "cpu", 1.0, 1)

    with pytest.raises(UserError, match=complaint):
        learner()


@pytest.mark.parametrize("more", [{"lora_options": {"lora_alpha": 8}}, {"base_precision": "nf4"}])
def test_without_an_adapter_nothing_is_said_of_one(more: dict[str, Any]):
    with pytest.raises(UserError, match="applies only to an adapter; also set lora_rank"):
        parse_config({"learner": more})


@needs_bitsandbytes
def test_experts_are_not_held_in_four_bits(tmp_path: Path):
    sizes = {"hidden_size": 16, "intermediate_size": 16, "moe_intermediate_size": 16, "num_hidden_layers": 1}
    config = AutoConfig.for_model(
        "qwen3_moe", **sizes, num_attention_heads=2, num_key_value_heads=2, vocab_size=32
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"base_precision=nf4 .* dense model"):
        Learner(str(tmp_path), LearnerConfig(lora_rank=2, base_precision="nf4"), "cpu", 1.0, 1)


def test_checkpoints_are_small_resume_to_the_bit_and_export_for_all(tmp_path: Path):
    straight = make_learner()
    straight.update(batch(0))
    kept = Checkpoints(tmp_path / "checkpoints", straight, load_tokenizer(STARTER), 1, torch.float32)
    saved = kept.write(kept.stage(RolloutState()))
    names = {"learner", "adapter", "state.json", "groups.jsonl", "SHA256SUMS"}
    assert {p.name for p in saved.iterdir()} == names
    adapter = sum(p.numel() for p in straight.model.parameters() if p.requires_grad)
    size = sum(p.stat().st_size for p in saved.rglob("*") if p.is_file())
    assert size < 4 * (4 * adapter) + 600_000, "weights, two moments and the export; the rest is constant"
    at_saved = {name: weight.clone() for name, weight in weights(straight).items()}
    resumed = make_learner()
    checkpoint.load_learner(saved, resumed)
    assert straight.update(batch(1))["loss"] == resumed.update(batch(1))["loss"]
    assert all(torch.equal(t, resumed.state()[name]) for name, t in straight.state().items())

    kept.export(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype="auto")
    merged = weights(straight)
    assert all(torch.equal(p, merged[name]) for name, p in loaded.named_parameters())
    adapted = PeftModel.from_pretrained(plain(), str(tmp_path / "adapter")).merge_and_unload()
    for name, weight in adapted.named_parameters():
        torch.testing.assert_close(weight, merged[name])
    assert merge_adapter(tmp_path / "adapter", tmp_path / "by-itself") == STARTER
    begun = AutoModelForCausalLM.from_pretrained(resolve_model(str(tmp_path / "by-itself")), dtype="auto")
    for name, weight in begun.named_parameters():
        torch.testing.assert_close(weight, merged[name])
    (tmp_path / "config.yaml").write_text(f"learner: {{lora_rank: {RANK}}}")
    RunDirectory(tmp_path).log_start({"device": "cpu"})
    assert export_model(tmp_path, tmp_path / "of-1", 1) == 1
    alone = AutoModelForCausalLM.from_pretrained(tmp_path / "of-1", dtype="auto")
    assert all(torch.equal(p, at_saved[name]) for name, p in alone.named_parameters())
    with pytest.raises(UserError, match=rf"another model; .*model=starter learner\.lora_rank={RANK}"):
        checkpoint.load_learner(saved, make_learner(lora_rank=0))


def test_an_adapter_that_does_not_merge_says_why_and_leaves_nothing(tmp_path: Path):
    learner, target = make_learner(), tmp_path / "model"
    complaints = {"no-such-model": "unknown model 'no-such-model'", "": "does not name its base model"}
    for base, complaint in complaints.items():
        lora.write_adapter(tmp_path / "adapter", learner.model, base, lora.adapter_of(learner.model))
        with pytest.raises(UserError, match=complaint):
            merge_adapter(tmp_path / "adapter", target)
    with pytest.raises(UserError, match=r"not an adapter, because it has no adapter_config\.json"):
        merge_adapter(tmp_path, target)
    other = {f"{name}.wrong": weight for name, weight in lora.adapter_of(learner.model).items()}
    lora.write_adapter(tmp_path / "adapter", learner.model, STARTER, other)
    with pytest.raises(UserError, match="does not fit"):
        merge_adapter(tmp_path / "adapter", target)
    (tmp_path / "adapter" / "adapter_model.safetensors").write_bytes(b"cut off")
    with pytest.raises(UserError, match="does not fit"):
        merge_adapter(tmp_path / "adapter", target)
    assert not list(tmp_path.glob(".partial*")) + list(tmp_path.glob("model"))


def test_a_run_can_be_had_again():
    torch.manual_seed(1)
    first = make_learner()
    torch.manual_seed(2)
    state = torch.get_rng_state()
    second = make_learner()
    assert torch.equal(state, torch.get_rng_state()), "random numbers of others are their own"
    for name, weight in lora.adapter_of(first.model).items():
        assert torch.equal(weight, lora.adapter_of(second.model)[name])


@pytest.mark.parametrize(("package", "extra"), [("peft", "lora"), ("bitsandbytes", "qlora")])
def test_without_a_package_it_is_said_before_anything_starts(
    package: str, extra: str, monkeypatch: pytest.MonkeyPatch
):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == package else find(name))
    with pytest.raises(UserError, match=rf"areal-gym\[{extra}\]"):
        plan(parse_config({"learner": {"lora_rank": 8, "base_precision": "nf4"}}))
    plan(parse_config({}))
