"""Engines in FP8: where they are refused, how much memory they take, and what is told of their layers."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from inventories import H100, gpu, machine
from vllm_toys import ToyEngine

from areal.config import parse_config
from areal.errors import UserError
from areal.placement.inventory import Host, Inventory
from areal.placement.memory import GIB, Shape, engine_bytes
from areal.placement.placement import place, place_another
from areal.rollout.quantization import FP8, Layer, not_quantized, summary
from areal.runtime.engine_layers import tell_layers
from areal.runtime.plan import plan, workload
from areal.runtime.recording import Records
from areal.runtime.worker_engine import WorkerEngine
from areal.telemetry.progress import Progress
from areal.telemetry.run_directory import RunDirectory
from areal.workers.inline import launch

CONFIG: dict[str, Any] = {"engine": {"quantization": "fp8"}}
LAYERS: list[Layer] = [
    ("model.embed_tokens", "embedding", "bfloat16"),
    ("model.layers.0.self_attn.qkv_proj", "linear", FP8),
    ("model.layers.0.mlp.gate", "router", "bfloat16"),
    ("model.layers.0.mlp.experts", "experts", FP8),
    ("model.norm", "other", "bfloat16"),
]
"""Of an engine that is as it should be."""
SEVEN_BILLION = Shape(7_615_616_512, 28, 3584, 18944, 3584, 512, 152064)


def inventory(*capabilities: tuple[int, int]) -> Inventory:
    found = [gpu(index=index, capability=each) for index, each in enumerate(capabilities)]
    return Inventory((Host("one", 8, tuple(found)),))


def test_it_is_refused_where_no_gpu_multiplies_in_fp8():
    with pytest.raises(UserError, match=r"engine\.quantization=fp8 needs a GPU; remove it on a CPU"):
        plan(parse_config(CONFIG), inventory=machine())
    with pytest.raises(
        UserError, match=r"8\.9 or more .* GPU 1 of one \(NVIDIA H100 .*\) has 8\.0"
    ) as refused:
        place(inventory((9, 0), (8, 0)), parse_config(CONFIG))
    assert "\n" not in str(refused.value)
    # The learner computes in 16 bits: it may have any.
    assert place(inventory((8, 0), (8, 9)), parse_config(CONFIG)).engines[0].devices[0].index == 1


def test_an_engine_that_joins_is_refused_on_an_older_gpu():
    config = parse_config({"engine": {"quantization": "fp8", "count": 1}})
    old, new = (place(inventory((9, 0), (9, 0), each), config) for each in ((8, 6), (9, 0)))
    assert place_another(new, config).devices[0].index == 2
    with pytest.raises(UserError, match=r"GPU 2 of one .* has 8\.6"):
        place_another(old, config)


def test_engines_of_32_bits_are_not_quantized():
    with pytest.raises(UserError, match=r"remove engine\.dtype=float32"):
        parse_config({"engine": {"quantization": "fp8", "dtype": "float32"}})


@pytest.mark.parametrize("gpus", [1, 2])
def test_weights_take_a_byte_less_for_each_parameter_but_the_embeddings(gpus: int):
    inventory, engine = machine(*[H100] * gpus), {"count": 1}
    sizes = []
    for chosen in (engine, engine | CONFIG["engine"]):
        config = parse_config({"engine": chosen})
        work = workload(place(inventory, config), config, 4096)
        sizes.append(engine_bytes(SEVEN_BILLION, work, snapshot=gpus > 1))
    spared = SEVEN_BILLION.parameters - 2 * SEVEN_BILLION.vocab * SEVEN_BILLION.hidden
    assert sizes[0] - sizes[1] == pytest.approx(spared)
    assert spared > 6 * GIB


def test_the_summary_counts_layers_and_names_those_that_are_not_quantized():
    assert not_quantized(LAYERS) == []
    assert summary(LAYERS) == (
        "1 embedding bfloat16, 1 linear float8_e4m3fn, 1 router bfloat16, 1 experts float8_e4m3fn, "
        "1 other bfloat16"
    )
    left = [(f"visual.{number}.proj", "linear", "bfloat16") for number in range(6)]
    assert not_quantized([*LAYERS, *left]) == [path for path, _, _ in left]
    assert summary([*LAYERS, *left]).endswith(
        "; warning: vLLM has not quantized visual.0.proj, visual.1.proj, visual.2.proj, visual.3.proj "
        "and 2 more"
    )


class Quantized(ToyEngine):
    async def layers(self) -> list[Layer]:
        return LAYERS


async def test_layers_are_told_in_one_line_and_recorded_of_each_engine(tmp_path: Path):
    directory = RunDirectory.create(parse_config({"output": str(tmp_path)}))
    workers = [await launch(f"engine {number}", {}, Quantized) for number in range(2)]
    engines = {worker.name: WorkerEngine(worker) for worker in workers}
    terminal = io.StringIO()
    await tell_layers(engines, Records(directory, Progress(0, "", True, terminal)))
    assert terminal.getvalue().strip() == f"layers of engine 0, engine 1: {summary(LAYERS)}"
    first, second = directory.events()
    assert (first["event"], first["engine"], second["engine"]) == ("layers", "engine 0", "engine 1")
    assert first["types"][FP8] == ["model.layers.0.self_attn.qkv_proj", "model.layers.0.mlp.experts"]
    assert second["types"] == first["types"]
    for worker in workers:
        await worker.close()
