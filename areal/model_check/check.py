"""All checks of ``areal models check``, one after another."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from areal.errors import UserError, WorkerLost
from areal.model_check.chat import Finding, chat_findings
from areal.models import load_tokenizer, resolve_model
from areal.runtime.model_checks import check_architecture, check_model, eos_ids_of

BOUND = 1e-4
"""Maximum difference of log-probabilities in float32 on a CPU."""
BOUND_GPU = 6e-2
"""The same on a GPU, where the engine's attention multiplies in tf32."""


def findings(name: str, tiny: bool, lora_rank: int, updates: int, device: str) -> Iterator[Finding]:
    """Yield the findings on a model, the slowest last.

    Args:
        name: the starter, a folder, a run or a hub id; with ``tiny`` also a folder with only a configuration.
        tiny: check a small model of the same architecture with random weights instead.
        lora_rank: rank of an adapter that is also checked; 0: none.

    Raises:
        UserError: the model does not exist.
    """
    with tempfile.TemporaryDirectory() as scratch:
        path = _configured(name) if tiny else resolve_model(name)
        try:
            check_architecture(path, training=True)
            if tiny:
                from areal.model_check.small import make_small

                path = str(make_small(path, Path(scratch)))
            yield Finding("model", None, _described(path))
            remarks = check_model(path, training=True)
        except UserError as error:
            yield Finding("architecture", False, str(error))
            return
        yield from (Finding("remark", None, remark) for remark in remarks)
        tokenizer = load_tokenizer(path)
        yield from chat_findings(tokenizer, eos_ids_of(path, tokenizer))
        yield from _measured(path, lora_rank, updates, device)


def _configured(name: str) -> str:
    """Return the folder of a configuration, or a hub id; weights are not necessary."""
    path = Path(name).expanduser()
    path = path.parent if path.name == "config.json" else path
    return str(path) if (path / "config.json").is_file() else resolve_model(name)


def _described(path: str) -> str:
    from transformers import AutoConfig

    from areal.placement.memory import Shape

    config: Any = AutoConfig.from_pretrained(path)
    shape, text = Shape.of(config), config.get_text_config()
    tied = "tied" if getattr(text, "tie_word_embeddings", False) else "not tied"
    return (
        f"{', '.join(config.architectures or [config.model_type])}: {shape.parameters:,} parameters, "
        f"{shape.layers} layers, vocabulary {shape.vocab:,}, embeddings {tied}"
    )


def _measured(path: str, lora_rank: int, updates: int, device: str) -> Iterator[Finding]:
    from areal.model_check.agreement import measure
    from areal.placement.inventory import probe

    try:
        found = asyncio.run(measure(path, _ways(path, lora_rank), updates, device))
    except (UserError, WorkerLost) as error:
        yield Finding("engine and learner", False, str(error))
        return
    bound = BOUND_GPU if probe(device).device_type(device) == "cuda" else BOUND
    for what, differences in found.updates.items():
        listed = ", ".join(f"{value:.1e}" for value in differences)
        text = f"largest difference of log-probabilities before and after each update: {listed}"
        yield Finding(
            what, all(value < bound for value in differences), f"{text} (bound {bound:g})", (*differences,)
        )
    text = f"differ from transformers' own model by {found.packed:.1e} (bound {BOUND:g})"
    yield Finding("packed sequences", found.packed < BOUND, text, (found.packed,))


def _ways(path: str, lora_rank: int) -> dict[str, dict[str, Any]]:
    """Return the ways to train that are checked: settings of the learner by name."""
    from transformers import AutoConfig

    from areal.model_check.agreement import ALL_WEIGHTS
    from areal.placement.memory import Shape

    ways: dict[str, dict[str, Any]] = {ALL_WEIGHTS: {}}
    if lora_rank:
        adapter = f"adapter of rank {lora_rank}"
        ways[adapter] = {"lora_rank": lora_rank}
        if not Shape.of(AutoConfig.from_pretrained(path)).whole and find_spec("bitsandbytes") is not None:
            scale = {"use_rslora": True, "lora_alpha": lora_rank}
            ways[f"{adapter}, rsLoRA, base in 4 bits"] = ways[adapter] | {
                "base_precision": "nf4",
                "lora_options": scale,
            }
    return ways
