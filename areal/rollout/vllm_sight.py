"""Pictures for vLLM: made ready here, so that it sees the pixels, and reads the ids, that the learner does.

vLLM would make ids out of messages and pixels out of pictures by itself. It is given both: the ids that the
conversation has, with all placeholders in them, where they lie, and the pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from areal.images import Image, digest_of
from areal.models.sight import Sight

_MOST = 256
"""Pictures in one conversation."""
_KEPT = 16
"""Pictures that are kept as vLLM takes them, since the members of a group begin together."""


def arguments() -> dict[str, Any]:
    """vLLM's engine arguments for a model that sees."""
    from vllm.engine.arg_utils import AsyncEngineArgs

    found: dict[str, Any] = {
        "skip_tokenizer_init": False,  # it wants one, though nothing is asked of it
        "limit_mm_per_prompt": {"image": _MOST, "video": 0},
        # Both would ask transformers' processor of the model, which needs torchvision.
        "skip_mm_profiling": True,
        "mm_processor_cache_gb": 0,
    }
    if hasattr(AsyncEngineArgs, "mm_device_do_normalize"):
        found["mm_device_do_normalize"] = False  # what it is given is normalised; older ones always take that
    return found


def bring_processing(config: Any) -> None:
    """Let vLLM in this process, and those that are forked from it, do without transformers' processor.

    Args:
        config: vLLM's configuration of a model that sees.
    """
    from vllm.model_executor.model_loader import get_model_architecture
    from vllm.multimodal import MULTIMODAL_REGISTRY

    model: Any = get_model_architecture(config)[0]
    known = model._processor_factory
    if getattr(known.info, "is_areals", False):
        return

    class Info(known.info):  # type: ignore[name-defined]
        is_areals = True

        def get_supported_mm_limits(self) -> dict[str, int | None]:
            return {"image": None}

        def get_mm_max_tokens_per_item(self, seq_len: int, mm_counts: Any) -> dict[str, int]:
            return {"image": seq_len}

    del model._processor_factory  # else vLLM warns that it is replaced
    MULTIMODAL_REGISTRY.register_processor(known.processor, info=Info, dummy_inputs=known.dummy_inputs)(model)


class Prompts:
    """Makes vLLM's prompts out of ids and pictures."""

    def __init__(self, sight: Sight) -> None:
        self._sight = sight
        self._item = lru_cache(_KEPT)(self._new_item)

    def prompt(self, ids: list[int], images: Sequence[Image], salt: str) -> dict[str, Any]:
        """Return a prompt of which nothing is left to be made; ``salt`` as in vLLM's prefix cache."""
        from vllm.multimodal.inputs import MultiModalKwargsItems, PlaceholderRange

        return {
            "type": "multimodal",
            "prompt_token_ids": ids,
            "mm_kwargs": MultiModalKwargsItems({"image": [self._item(image.png) for image in images]}),
            "mm_hashes": {"image": [digest_of(image.png).hex() for image in images]},
            "mm_placeholders": {
                "image": [PlaceholderRange(offset=image.start, length=image.tokens) for image in images]
            },
            "cache_salt": salt,
        }

    def _new_item(self, png: bytes) -> Any:
        import torch
        from transformers import BatchFeature
        from vllm.multimodal.inputs import MultiModalFieldConfig, MultiModalKwargsItems

        pixels = self._sight.pixels(png)
        grid = torch.tensor([pixels.grid])
        data = {"pixel_values": torch.from_numpy(pixels.values), "image_grid_thw": grid}
        fields = {
            "pixel_values": MultiModalFieldConfig.flat_from_sizes("image", grid.prod(-1)),
            "image_grid_thw": MultiModalFieldConfig.batched("image", keep_on_cpu=True),
        }
        [item] = MultiModalKwargsItems.from_hf_inputs(BatchFeature(data), fields)["image"]
        return item
