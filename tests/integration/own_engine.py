"""Engines of one test module alone: of another model, of several workers, or to be killed."""

from __future__ import annotations

from dataclasses import dataclass

import psutil
from policies import DEVICE, ON_GPU

from areal.placement.inventory import probe
from areal.rollout.engine import Engine
from areal.rollout.vllm_start import EngineSettings
from areal.runtime.start import start_engines
from areal.weights.interface import VLLM_BACKEND
from areal.workers.process import launch


@dataclass(frozen=True)
class Started:
    """An engine that serves a model in a folder, and vLLM's own processes for it."""

    engine: Engine
    folder: str
    processes: list[psutil.Process]


async def start(folder: str, gpus: tuple[int, ...] = (0,), quantized: bool = False) -> Started:
    """Start an engine with a worker for each of these GPUs; as many workers where there are none.

    Args:
        folder: of the model.
        gpus: their numbers.
        quantized: whether to have its weights in FP8, with CUDA graphs; else in float32, without.
    """
    before = set(psutil.Process().children(recursive=True))
    found = probe(DEVICE).devices
    devices = [found[index] for index in gpus] if found else []
    settings = EngineSettings(
        model=folder,
        device=DEVICE,
        dtype="bfloat16" if quantized else "float32",
        max_model_len=512,
        max_num_seqs=32,
        memory=0.1 if ON_GPU else 1.0,
        eos_ids=(1,),
        threads=len(gpus),
        weight_backend=VLLM_BACKEND,
        tensor_parallel=len(gpus),
        device_bytes=devices[0].nbytes if devices else 0,
        visible_devices=",".join(device.visible for device in devices),
        eager=not (quantized and ON_GPU),
        quantization="fp8" if quantized else None,
    )
    [engine] = (await start_engines([settings], [launch])).values()
    new = set(psutil.Process().children(recursive=True)) - before
    return Started(engine, folder, [process for process in new if process.name().startswith("VLLM")])
