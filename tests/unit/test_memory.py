"""A GPU's memory for learner and engine: the parts fit, and the cache is no larger than is of use."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from inventories import H100, gpu, machine
from transformers import LlamaConfig, Qwen2Config

from areal.config import parse_config
from areal.errors import UserError
from areal.models import resolve_model
from areal.placement.inventory import Device
from areal.placement.memory import GIB, DeviceMemory, Shape, Workload, divide, learner_bytes
from areal.rollout.vllm_start import EngineSettings, variables
from areal.runtime.engine_setup import engine_settings
from areal.runtime.plan import Plan, plan
from areal.step_sizes import LARGE_MICRO_BATCH

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
shapes = st.sampled_from(list(SHAPES.values()))
workloads = st.builds(
    Workload,
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
    adapter=st.sampled_from([0, 8, 64]),
    nf4=st.booleans(),
    shared=st.booleans(),
)
gpus = st.builds(gpu, st.floats(4, 192))


def split(device: Device, shape: Shape, work: Workload) -> DeviceMemory:
    return divide(device, shape, work, learner=True, engines=1)


def divided(device: Device, shape: Shape, work: Workload) -> DeviceMemory | None:
    try:
        return split(device, shape, work)
    except UserError:
        return None


@pytest.mark.parametrize("name", list(CONFIGS))
def test_shapes_are_those_of_the_models(name: str):
    assert Shape.of(CONFIGS[name]) == SHAPES[name]


@settings(deadline=None)
@given(gpus, shapes, workloads)
def test_the_parts_fit_and_the_cache_is_of_use(device: Device, shape: Shape, work: Workload):
    found = divided(device, shape, work)
    if found is None:
        return
    assert found.free >= 0.1 * device.nbytes - 1
    assert found.cache_tokens >= min(work.sequences, 8) * work.longest
    assert found.cache_tokens <= work.sequences * (work.longest + 15) + 16
    assert found.cache_tokens * 4 * shape.layers * shape.key * work.engine_bytes // 2 <= found.cache
    taken = found.learner_share * device.nbytes + 0.6 * GIB
    assert found.learner < taken < device.nbytes - found.engine - found.cache, (
        "PyTorch would take the engine's"
    )
    room = 0.9 * device.nbytes - found.learner - found.engine - found.cache
    assert room < 1 or found.cache_tokens > work.sequences * work.longest, "room that the cache could use"


@settings(deadline=None)
@given(gpus, shapes, workloads, st.sampled_from(["critic", "reference", "graphs", "micro_batch_tokens"]))
def test_whoever_needs_more_leaves_no_more(device: Device, shape: Shape, work: Workload, more: str):
    grown = replace(work, **{more: 2 * (work.micro_batch_tokens or 1000) if "tokens" in more else True})
    less, found = divided(device, shape, grown), divided(device, shape, work)
    if less is not None:
        assert found is not None
        assert found.cache >= less.cache
        assert found.free >= less.free - (found.cache - less.cache)


@settings(deadline=None)
@given(gpus, shapes, workloads)
def test_activation_checkpointing_saves_memory_and_a_learner_costs_it(
    device: Device, shape: Shape, work: Workload
):
    plain, saving = (
        divided(device, shape, replace(work, activation_checkpointing=False)),
        divided(device, shape, replace(work, activation_checkpointing=True)),
    )
    if plain is not None:
        assert saving is not None
        assert saving.learner <= plain.learner
        alone = split(device, shape, replace(work, micro_batch_tokens=None))
        assert alone.learner == 0
        assert alone.cache >= plain.cache


def test_half_a_billion_parameters_on_an_h100_have_room_for_all_sequences():
    work = Workload(sequences=256, longest=4096, micro_batch_tokens=16384)
    found = split(gpu(), SHAPES["Qwen2.5-0.5B"], work)
    assert found.cache_tokens == 256 * 4096 + 16
    assert str(found).startswith("79.6 GiB: learner ")
    assert "(1,048,592 tokens), free " in str(found)


def test_a_gpu_that_is_too_small_says_what_is_missing_and_what_helps():
    work = Workload(sequences=128, longest=4096, micro_batch_tokens=16384)
    with pytest.raises(UserError, match=r"learner\.micro_batch_tokens=16384.*engine\.memory") as found:
        split(gpu(24), SHAPES["Qwen2.5-1.5B"], work)
    assert "\n" not in str(found.value)
    missing = float(str(found.value).split(" GiB")[0])
    assert split(gpu(24 + (missing + 0.1) / 0.9), SHAPES["Qwen2.5-1.5B"], work)


def test_each_process_of_an_engine_has_room_for_whole_weights_that_an_adapter_is_merged_into():
    shape = SHAPES["Qwen2.5-1.5B"]

    def engine(rank: int, processes: int) -> int:
        work = Workload(sequences=8, longest=64, adapter=rank, tensor_parallel=processes)
        return divide(gpu(), shape, work, learner=False, engines=1).engine

    alone, together = (engine(8, n) - engine(0, n) for n in (1, 4))
    assert alone == together
    assert alone == (4 + 2 + 2) * shape.hidden * shape.intermediate


@pytest.mark.parametrize("ranks", [1, 4])
def test_below_an_adapter_a_weight_takes_two_bytes_or_half_of_one(ranks: int):
    shape = SHAPES["Qwen2.5-1.5B"]
    assert shape.linear == pytest.approx(1.31e9, rel=1e-3), "all but the embeddings, about"

    def learner(**more: Any) -> int:
        work = Workload(8, 1024, micro_batch_tokens=1024, activation_checkpointing=True, ranks=ranks)
        return learner_bytes(shape, replace(work, adapter=16, **more))

    apart, saved = learner(shared=False) - learner(), learner() - learner(nf4=True)
    assert apart == pytest.approx(2 * shape.parameters if ranks == 1 else 0), "engines load from the base"
    if ranks == 1:
        assert saved == pytest.approx((2 - 0.516) * shape.linear, rel=1e-3)
    else:  # each has all of them in 4 bits, and engines' snapshot is in 4 bits, too
        assert saved > (2 + 2 / ranks - 2 * 0.516) * shape.linear
    assert learner() < 2.2 * shape.parameters * (1 if ranks == 1 else 1.3) + 3 * GIB


MEASURED = {  # the most GiB that torch allocated in benchmarks/learner.py, on an H100, the last on an H200
    ("Qwen2.5-0.5B", False, True, 16384): 27.8,
    ("Qwen2.5-0.5B", False, False, 16384): 34.0,
    ("Qwen2.5-1.5B", False, True, 16384): 62.4,
    ("Qwen2.5-1.5B", True, True, 16384): 34.6,
    ("Qwen2.5-0.5B", False, True, 32768): 41.8,
}


@pytest.mark.parametrize(("name", "activation_checkpointing", "compiled", "tokens"), list(MEASURED))
def test_the_learners_estimate_is_no_less_than_it_took_and_not_much_more(
    name: str, activation_checkpointing: bool, compiled: bool, tokens: int
):
    shape = SHAPES[name]
    work = Workload(
        sequences=1,
        longest=16,
        micro_batch_tokens=tokens,
        activation_checkpointing=activation_checkpointing,
        compiled=compiled,
        graphs=False,
    )
    took = MEASURED[name, activation_checkpointing, compiled, tokens]
    snapshot, context = 2 * shape.parameters, 0.6 * GIB  # which that benchmark does not have, or see
    estimate = (split(gpu(192), shape, work).learner - snapshot - context) / GIB
    assert took <= estimate < 1.08 * took


@pytest.fixture
def model(tmp_path: Path) -> Callable[[str], dict[str, Any]]:
    """Make the folder of a larger model, as far as it is looked into before a run; return its setting."""

    def model(name: str) -> dict[str, Any]:
        folder = tmp_path / name
        if not folder.exists():
            shutil.copytree(resolve_model("starter"), folder)
            described = CONFIGS[name].to_dict() | {"architectures": ["Qwen2ForCausalLM"]}
            (folder / "config.json").write_text(json.dumps(described))
        return {"model": str(folder)}

    return model


Model = Callable[[str], dict[str, Any]]


def test_a_model_that_fits_only_with_activation_checkpointing_gets_it(model: Model):
    large = model("Qwen2.5-1.5B")
    chosen = plan(parse_config(large), inventory=machine(H100))
    assert chosen.config.learner.activation_checkpointing
    assert "learner.activation_checkpointing=true, because" in "\n".join(chosen.summary)
    with pytest.raises(UserError, match="activation_checkpointing=true"):
        plan(parse_config(large | {"learner": {"activation_checkpointing": False}}), inventory=machine(H100))
    smaller = plan(parse_config(model("Qwen2.5-0.5B")), inventory=machine(H100))
    assert smaller.config.learner.activation_checkpointing is None


def test_micro_batches_are_large_where_no_cache_pays_for_it(model: Model):
    small = model("Qwen2.5-0.5B")

    def chosen(settings: dict[str, Any], *sizes: float) -> Plan:
        return plan(parse_config(small | settings), inventory=machine(*sizes))

    roomy = chosen({}, H100)
    assert roomy.config.learner.micro_batch_tokens == LARGE_MICRO_BATCH
    assert all(part.whole for part in roomy.placement.memory)
    many = {"rollout": {"max_concurrent": 2048, "max_model_len": 8192}}
    assert chosen(many, H100).config.learner.micro_batch_tokens is None
    assert chosen({}, 24).config.learner.micro_batch_tokens is None
    assert chosen({"learner": {"micro_batch_tokens": 5000}}, H100).config.learner.micro_batch_tokens == 5000
    by_hand = chosen({"engine": {"memory": 0.2}}, H100)
    assert by_hand.config.learner.micro_batch_tokens is None
    assert plan(parse_config(small), False, machine(H100)).config.learner.micro_batch_tokens is None


def test_a_run_on_a_gpu_gets_its_share_and_an_evaluation_one_without_learner():
    config, inventory = parse_config({}), machine(H100)
    training = plan(config, inventory=inventory).placement
    assert training.memory[0].learner > 0
    alone = plan(config, training=False, inventory=inventory).placement
    assert alone.memory[0].learner == 0
    assert cache_share({}, H100) == training.memory[0].cache / training.memory[0].device.nbytes
    assert plan(parse_config({"engine": {"memory": 0.2}}), inventory=inventory).placement.memory == ()
    assert cache_share({"engine": {"memory": 0.2}}, H100) == 0.2


def cache_share(config: dict[str, Any], *sizes: float) -> float:
    """The KV cache of the first engine, as a share of its GPU."""
    made = plan(parse_config(config), inventory=machine(*sizes))
    return engine_settings(made, 0, made.placement.engines[0], (1,), None).memory


def test_disaggregation_leaves_the_engine_all_of_its_own_gpu(model: Model):
    long = model("Qwen2.5-1.5B") | {"rollout": {"max_concurrent": 2048}}
    one = {"engine": {"count": 1}}
    chosen = plan(parse_config(long | one), inventory=machine(H100, H100))
    assert not chosen.config.learner.activation_checkpointing, "on a GPU of its own it has room"
    learner, engine = chosen.placement.memory
    assert (learner.engine, engine.learner) == (0, 0)
    colocated = plan(parse_config(long | {"engine": {"gpu": 0}}), inventory=machine(H100, H100))
    (both,) = colocated.placement.memory
    assert engine.cache > both.cache
    assert engine.engine > both.engine, "it has a snapshot of its own"
    with pytest.raises(UserError, match="the learner needs"):
        plan(parse_config(long), inventory=machine(8, 8))


@settings(deadline=None)
@given(gpus, shapes, workloads, st.integers(2, 4), st.integers(0, 4))
def test_engines_that_share_a_gpu_fit_on_it_and_have_caches_of_one_size(
    device: Device, shape: Shape, work: Workload, engines: int, mapping: int
):
    one = divided(device, shape, work)
    try:
        found = divide(device, shape, work, True, engines, mapping=mapping)
    except UserError:
        return
    assert one is not None
    assert found.free >= 0.1 * device.nbytes - engines
    assert found.cache <= one.cache
    assert found.cache_tokens >= min(work.sequences, 8) * work.longest
    assert found.learner - one.learner == pytest.approx(0.6 * mapping * GIB, abs=1)


def test_engines_share_a_gpu_where_the_model_is_small_and_has_much_to_do(model: Model):
    def counts(name: str, *sizes: float, **settings: Any) -> list[int]:
        inventory = machine(*sizes, cores=16 * len(sizes))
        made = plan(parse_config(model(name) | settings), inventory=inventory).placement
        return [len(made.engines_on(device)) for device in made.inventory.devices]

    busy: dict[str, Any] = {"rollout": {"max_concurrent": 256}}
    assert counts("Qwen2.5-0.5B", H100, **busy) == [2]
    assert counts("Qwen2.5-0.5B", H100, H100, **busy) == [0, 1], "it would have to map the other's memory"
    assert counts("Qwen2.5-0.5B", H100, H100, **busy, engine={"gpu": 0}) == [2, 0]
    alone = plan(parse_config(model("Qwen2.5-0.5B") | busy), False, machine(H100, H100, cores=32)).placement
    assert [len(alone.engines_on(device)) for device in alone.inventory.devices] == [2, 2]
    assert counts("Qwen2.5-0.5B", H100, rollout={"max_concurrent": 64}) == [1]
    assert counts("Qwen2.5-0.5B", H100, **busy, engine={"count": 1}) == [1]
    assert counts("Qwen2.5-0.5B", H100, **busy, engine={"count": 3}) == [3]
    assert counts("Qwen2.5-1.5B", 96, **busy) == [2]
    assert counts("Qwen2.5-1.5B", 62, **busy) == [1], "two of them do not fit"
    two = plan(parse_config(model("Qwen2.5-0.5B") | busy), inventory=machine(H100, cores=16))
    made = [engine_settings(two, n, each, (1,), None) for n, each in enumerate(two.placement.engines)]
    assert [each.max_num_seqs for each in made] == [160, 160], "a share of 128 and some more"
    assert made[0].seed != made[1].seed
    [part] = two.placement.memory
    assert [each.memory * H100 * GIB for each in made] == [pytest.approx(part.cache)] * 2
    by_hand = parse_config(model("Qwen2.5-0.5B") | {"engine": {"count": 2, "memory": 0.3}})
    given = plan(by_hand, inventory=machine(H100))
    made = [engine_settings(given, n, each, (1,), None) for n, each in enumerate(given.placement.engines)]
    assert [each.memory for each in made] == [0.15, 0.15], "their caches share the given memory"


def test_each_engine_has_what_its_gpu_leaves_and_the_summary_names_equal_gpus_once(model: Model):
    rollout = model("Qwen2.5-1.5B") | {"rollout": {"max_concurrent": 96}}
    three = machine(H100, H100, H100)
    every = plan(parse_config(rollout | {"engine": {"count": 3}}), inventory=three)
    both, *alone = every.placement.memory
    assert (both.learner > 0, [part.learner for part in alone]) == (True, [0, 0])
    assert [part.cache_tokens for part in alone] == [40 * every.max_model_len + 16] * 2, (
        "a share of 32 and some more"
    )
    engines, line = every.summary[-2:]
    assert engines == "3 engines, on the GPUs 1, 2, 0"
    assert line.startswith("GPU 0 of 79.6 GiB: learner ")
    assert "; GPUs 1, 2 of 79.6 GiB: engine " in line
    made = [
        engine_settings(every, number, engine, (1,), None)
        for number, engine in enumerate(every.placement.engines)
    ]
    assert [settings.max_num_seqs for settings in made] == [40] * 3
    assert [settings.visible_devices for settings in made] == ["1", "2", "0"]
    assert {settings.device_bytes for settings in made} == {gpu().nbytes}
    assert len({settings.seed for settings in made}) == 3
    alone = plan(parse_config(rollout | {"engine": {"count": 1}}), inventory=three)
    assert not any("engines" in line for line in alone.summary)
    settings = engine_settings(alone, 0, alone.placement.engines[0], (1,), None)
    assert (settings.seed, settings.max_num_seqs, settings.visible_devices) == (0, 96, "1")


def test_ranks_divide_what_is_in_float32_and_each_engine_has_what_its_gpu_leaves(model: Model):
    shape, four = SHAPES["Qwen2.5-1.5B"], machine(*[H100] * 4)
    base = model("Qwen2.5-1.5B") | {"rollout": {"max_concurrent": 64}}
    learner = {ranks: {"learner": {"processes": ranks}} for ranks in (1, 2, 3, 4)}
    plans = {ranks: plan(parse_config(base | learner[ranks]), inventory=four) for ranks in learner}
    parts = {ranks: made.placement.memory[0].learner for ranks, made in plans.items()}
    for fewer, more in ((2, 3), (3, 4)):
        saved = 16 * shape.parameters * (1 / fewer - 1 / more)
        assert parts[fewer] - parts[more] == pytest.approx(saved, abs=2)
    assert parts[2] < parts[1]
    assert f"GPUs 0, 1 of 79.6 GiB: learner {parts[2] / GIB:.1f}, free" in plans[2].summary[-1]
    every = plan(parse_config(base | learner[2] | {"engine": {"count": 4}}), inventory=four)
    first, second, alone, _ = every.placement.memory
    assert (first.learner, second.learner, alone.learner) == (parts[2], parts[2], 0)
    assert alone.engine == second.engine == first.engine + 2 * shape.parameters, (
        "it has a snapshot of its own"
    )
    evaluation = plan(parse_config(base | learner[2]), training=False, inventory=four)
    assert [part.learner for part in evaluation.placement.memory] == [0] * 4


def test_an_engine_sees_its_gpus_alone():
    made = EngineSettings("m", "cuda", "bfloat16", 8, 8, 0.1, (1,), visible_devices="4,6")
    assert variables(made)["CUDA_VISIBLE_DEVICES"] == "4,6"
    assert "CUDA_VISIBLE_DEVICES" not in variables(replace(made, device="cpu"))
