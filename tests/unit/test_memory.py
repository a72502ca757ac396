"""One GPU's memory for learner and engine: the parts fit, and the cache is no larger than is of use."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import LlamaConfig, Qwen2Config

from areal.config import parse_config
from areal.errors import UserError
from areal.rollout.vllm_start import EngineSettings, variables
from areal.runtime import build
from areal.runtime import plan as planning
from areal.runtime.memory import GIB, Load, Shape, Split, describe, split

CONFIGS = {
    "Qwen2.5-0.5B": Qwen2Config(
        hidden_size=896,
        intermediate_size=4864,
        num_hidden_layers=24,
        num_attention_heads=14,
        num_key_value_heads=2,
        vocab_size=151936,
        tie_word_embeddings=True,
    ),
    "Qwen2.5-1.5B": Qwen2Config(
        hidden_size=1536,
        intermediate_size=8960,
        num_hidden_layers=28,
        num_attention_heads=12,
        num_key_value_heads=2,
        vocab_size=151936,
        tie_word_embeddings=True,
    ),
    "SmolLM2-135M": LlamaConfig(
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        vocab_size=49152,
        tie_word_embeddings=True,
    ),
}
SHAPES = {
    "Qwen2.5-0.5B": Shape(494_032_768, 24, 896, 4864, 896, 128, 151936),
    "Qwen2.5-1.5B": Shape(1_543_714_304, 28, 1536, 8960, 1536, 256, 151936),
    "SmolLM2-135M": Shape(134_515_008, 30, 576, 1536, 576, 192, 49152),
}
H100 = int(79.6 * GIB)

shapes = st.sampled_from(list(SHAPES.values()))
loads = st.builds(
    Load,
    sequences=st.integers(1, 1024),
    longest=st.integers(2, 32768),
    engine_bytes=st.sampled_from([2, 4]),
    graphs=st.booleans(),
    micro_batch_tokens=st.none() | st.integers(1, 65536),
    critic=st.booleans(),
    reference=st.booleans(),
    learner_bytes=st.sampled_from([2, 4]),
    activation_checkpointing=st.booleans(),
    compiled=st.booleans(),
    adapted=st.booleans(),
)
cards = st.integers(4 * GIB, 192 * GIB)


def divided(shape: Shape, card: int, load: Load) -> Split | None:
    try:
        return split(shape, card, load)
    except UserError:
        return None


@pytest.mark.parametrize("name", list(CONFIGS))
def test_shapes_are_those_of_the_models(name: str):
    assert Shape.of(CONFIGS[name]) == SHAPES[name]


@settings(deadline=None)
@given(shapes, cards, loads)
def test_the_parts_fit_and_the_cache_is_of_use(shape: Shape, card: int, load: Load):
    found = divided(shape, card, load)
    if found is None:
        return
    assert found.free >= 0.1 * card - 1
    assert found.cache_tokens >= min(load.sequences, 8) * load.longest
    assert found.cache_tokens <= load.sequences * (load.longest + 15) + 16
    assert found.cache_tokens * 4 * shape.layers * shape.key * load.engine_bytes // 2 <= found.cache
    room = 0.9 * card - found.learner - found.engine - found.cache
    assert room < 1 or found.cache_tokens > load.sequences * load.longest, "room that the cache could use"


@settings(deadline=None)
@given(shapes, cards, loads, st.sampled_from(["critic", "reference", "graphs", "micro_batch_tokens"]))
def test_whoever_needs_more_leaves_no_more(shape: Shape, card: int, load: Load, more: str):
    grown = replace(load, **{more: 2 * (load.micro_batch_tokens or 1000) if "tokens" in more else True})
    less, found = divided(shape, card, grown), divided(shape, card, load)
    if less is not None:
        assert found is not None
        assert found.cache >= less.cache
        assert found.free >= less.free - (found.cache - less.cache)


@settings(deadline=None)
@given(shapes, cards, loads)
def test_activation_checkpointing_saves_memory_and_a_learner_costs_it(shape: Shape, card: int, load: Load):
    plain, saving = (
        divided(shape, card, replace(load, activation_checkpointing=False)),
        divided(shape, card, replace(load, activation_checkpointing=True)),
    )
    if plain is not None:
        assert saving is not None
        assert saving.learner <= plain.learner
        alone = split(shape, card, replace(load, micro_batch_tokens=None))
        assert alone.learner == 0
        assert alone.cache >= plain.cache


def test_half_a_billion_parameters_on_an_h100_have_room_for_all_sequences():
    load = Load(sequences=256, longest=4096, micro_batch_tokens=16384)
    found = split(SHAPES["Qwen2.5-0.5B"], H100, load)
    assert found.cache_tokens == 256 * 4096 + 16
    assert str(found).startswith("one GPU of 79.6 GiB for both: learner ")
    assert "(1,048,592 tokens), free " in str(found)


def test_a_card_that_is_too_small_says_what_is_missing_and_what_helps():
    load = Load(sequences=128, longest=4096, micro_batch_tokens=16384)
    with pytest.raises(UserError, match=r"learner\.micro_batch_tokens=16384.*engine\.memory") as found:
        split(SHAPES["Qwen2.5-1.5B"], 24 * GIB, load)
    assert "\n" not in str(found.value)
    missing = float(str(found.value).split(" GiB")[0])
    assert split(SHAPES["Qwen2.5-1.5B"], int((24 + (missing + 0.1) / 0.9) * GIB), load)


MEASURED = {  # by benchmarks/learner.py on an H100: the most that torch allocated, in GiB
    ("Qwen2.5-0.5B", False, True): 27.8,
    ("Qwen2.5-0.5B", False, False): 34.0,
    ("Qwen2.5-1.5B", False, True): 62.4,
    ("Qwen2.5-1.5B", True, True): 34.6,
}


@pytest.mark.parametrize(("name", "activation_checkpointing", "compiled"), list(MEASURED))
def test_the_learners_estimate_is_no_less_than_it_took_and_not_much_more(
    name: str, activation_checkpointing: bool, compiled: bool
):
    shape = SHAPES[name]
    load = Load(
        sequences=1,
        longest=16,
        micro_batch_tokens=16384,
        activation_checkpointing=activation_checkpointing,
        compiled=compiled,
        graphs=False,
    )
    took = MEASURED[name, activation_checkpointing, compiled]
    snapshot, context = 2 * shape.parameters, 0.6 * GIB  # which that benchmark does not have, or see
    estimate = (split(shape, 192 * GIB, load).learner - snapshot - context) / GIB
    assert took <= estimate < 1.08 * took


def test_a_model_that_fits_only_with_recomputation_gets_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(planning, "_device", lambda wanted: "cuda")
    monkeypatch.setattr(planning, "gpu_bytes", lambda: H100)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(Shape, "of", classmethod(lambda cls, config: SHAPES["Qwen2.5-1.5B"]))
    chosen = planning.plan(parse_config({}))
    assert chosen.config.learner.activation_checkpointing
    assert "(activation checkpointing)" in describe(chosen.memory)
    with pytest.raises(UserError, match="activation_checkpointing=true"):
        planning.plan(parse_config({"learner": {"activation_checkpointing": False}}))
    monkeypatch.setattr(Shape, "of", classmethod(lambda cls, config: SHAPES["Qwen2.5-0.5B"]))
    assert planning.plan(parse_config({})).config.learner.activation_checkpointing is None


def test_a_run_on_a_gpu_gets_its_split_and_an_evaluation_one_without_learner(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(planning, "_device", lambda wanted: "cuda")
    monkeypatch.setattr(planning, "gpu_bytes", lambda: H100)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    config = parse_config({})
    training = planning.plan(config)
    assert training.memory[0].learner > 0
    alone = planning.plan(config, training=False)
    assert alone.memory[0].learner == 0
    assert build._cache_size(training, 0) == training.memory[0].cache / H100
    by_hand = planning.plan(parse_config({"engine": {"memory": 0.2}}))
    assert by_hand.memory == ()
    assert build._cache_size(by_hand, 0) == 0.2


def test_cards_apart_leave_the_engine_all_of_its_own(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(planning, "_device", lambda wanted: "cuda")
    monkeypatch.setattr(planning, "gpu_bytes", lambda: H100)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(Shape, "of", classmethod(lambda cls, config: SHAPES["Qwen2.5-1.5B"]))
    long = {"rollout": {"max_concurrent": 2048}}
    chosen = planning.plan(parse_config(long))
    assert chosen.cards == (1,)
    assert not chosen.config.learner.activation_checkpointing, "on a card of its own it has room"
    assert describe(chosen.memory).startswith("a GPU of 79.6 GiB each: learner ")
    shared = planning.plan(parse_config(long | {"engine": {"gpu": 0}}))
    assert shared.cards == (0,)
    assert chosen.memory[0].cache > shared.memory[0].cache
    assert chosen.memory[0].engine > shared.memory[0].engine, "it has a snapshot of its own"
    assert planning.plan(parse_config({}), training=False).cards == (0, 1)
    with pytest.raises(UserError, match=r"engine\.gpu=2, but torch sees 2"):
        planning.plan(parse_config({"engine": {"gpu": 2}}))
    monkeypatch.setattr(planning, "gpu_bytes", lambda: 8 * GIB)
    with pytest.raises(UserError, match="the learner needs"):
        planning.plan(parse_config({}))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(planning, "gpu_bytes", lambda: H100)
    assert planning.plan(parse_config({})).cards == (0,)


def test_each_engine_has_what_its_card_leaves_and_the_terminal_is_told_each_kind_once(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(planning, "_device", lambda wanted: "cuda")
    monkeypatch.setattr(planning, "gpu_bytes", lambda: H100)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.setattr(Shape, "of", classmethod(lambda cls, config: SHAPES["Qwen2.5-1.5B"]))
    rollout = {"rollout": {"max_concurrent": 96}}
    every = planning.plan(parse_config(rollout | {"engine": {"count": 3}}))
    assert every.cards == (1, 2, 0)
    assert [part.apart for part in every.memory] == [True, True, False]
    assert every.memory[0] == every.memory[1]
    assert every.memory[0].cache_tokens == 40 * every.max_model_len + 16, "a share of 32 and some more"
    engines, line = every.summary
    assert engines == "3 engines, on the GPUs 1, 2, 0"
    assert line.startswith("one GPU of 79.6 GiB for both: learner ")
    assert line.count("KV cache") == 2
    assert [e.max_num_seqs for e in (build._engine_settings(every, n, (1,), None) for n in range(3))] == [
        40
    ] * 3
    assert len({build._engine_settings(every, n, (1,), None).seed for n in range(3)}) == 3
    apart = planning.plan(parse_config(rollout))
    assert apart.cards == (1, 2)
    assert apart.summary[1].count("KV cache") == 1
    alone = planning.plan(parse_config(rollout | {"engine": {"count": 1}}))
    assert len(alone.summary) == 1
    settings = build._engine_settings(alone, 0, (1,), None)
    assert (settings.seed, settings.max_num_seqs, settings.card) == (0, 96, 1)


def test_ranks_divide_what_is_in_float32_and_each_engine_has_what_its_card_leaves(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(planning, "_device", lambda wanted: "cuda")
    monkeypatch.setattr(planning, "gpu_bytes", lambda: H100)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    shape = SHAPES["Qwen2.5-1.5B"]
    monkeypatch.setattr(Shape, "of", classmethod(lambda cls, config: shape))
    base = {"rollout": {"max_concurrent": 64}}
    learner = {ranks: {"learner": {"processes": ranks}} for ranks in (1, 2, 3, 4)}
    plans = {ranks: planning.plan(parse_config(base | learner[ranks])) for ranks in learner}
    assert [plans[ranks].cards for ranks in learner] == [(1, 2, 3), (2, 3), (3,), (0,)]
    parts = {ranks: made.memory[0].learner for ranks, made in plans.items()}
    for fewer, more in ((2, 3), (3, 4)):
        saved = 16 * shape.parameters * (1 / fewer - 1 / more)
        assert parts[fewer] - parts[more] == pytest.approx(saved, abs=2)
    assert parts[2] < parts[1]
    assert f"learner {parts[2] / GIB:.1f} on each of 2 GPUs; " in plans[2].summary[-1]
    every = planning.plan(parse_config(base | learner[2] | {"engine": {"count": 4}}))
    assert every.cards == (2, 3, 0, 1)
    alone, _, first, second = every.memory
    assert (alone.apart, first.apart, second.apart) == (True, False, False)
    assert alone.engine == second.engine == first.engine + 2 * shape.parameters, (
        "it has a snapshot of its own"
    )
    assert planning.plan(parse_config(base | learner[2]), training=False).cards == (0, 1, 2, 3)
    assert planning.plan(parse_config(base | learner[2]), training=False).memory[0].learner == 0


@pytest.mark.parametrize(("visible", "name"), [(None, "1"), ("4,6", "6"), ("GPU-a,GPU-b", "GPU-b")])
def test_an_engine_sees_its_card_alone(monkeypatch: pytest.MonkeyPatch, visible: str | None, name: str):
    if visible is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    made = EngineSettings("m", "cuda", "bfloat16", 8, 8, 0.1, (1,))
    assert variables(replace(made, card=1))["CUDA_VISIBLE_DEVICES"] == name
    assert "CUDA_VISIBLE_DEVICES" not in variables(made)
