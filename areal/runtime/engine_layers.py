"""Reports and records the actual types of an engine's layers, if weights are quantized."""

from __future__ import annotations

from collections.abc import Mapping

from areal.rollout.engine import SingleEngine
from areal.rollout.quantization import summary
from areal.runtime.recording import Records
from areal.runtime.worker_engine import WorkerEngine


async def tell_layers(engines: Mapping[str, SingleEngine], records: Records) -> None:
    """Ask engines for their layers; record each as an event, and show a one-line summary.

    Raises:
        EngineLost: an engine is lost.
    """
    alike: dict[str, list[str]] = {}
    for name, engine in engines.items():
        if isinstance(engine, WorkerEngine):
            layers = await engine.layers()
            types: dict[str, list[str]] = {}
            for path, _, dtype in layers:
                types.setdefault(dtype, []).append(path)
            records.directory.log_event("layers", engine=name, types=types)
            alike.setdefault(summary(layers), []).append(name)
    for line, names in alike.items():
        records.progress.message(f"layers of {', '.join(names)}: {line}")
