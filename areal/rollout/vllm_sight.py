"""Prepares images for vLLM, so that it uses the same pixels and ids as the learner.

vLLM itself would create ids from messages, and pixels from images. It receives both instead: the ids of the
conversation, with all placeholders in their places, and the pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from areal.images import Image, digest_of
from areal.models.sight import Sight

_MOST = 256
"""Maximum number of images in a conversation."""
_KEPT = 16
"""Number of cached images in vLLM's form, because the members of a group begin together."""


def arguments() -> dict[str, Any]:
    """Return vLLM's engine arguments for a vision-language model."""
    from vllm.engine.arg_utils import AsyncEngineArgs

    found: dict[str, Any] = {
        "skip_tokenizer_init": False,  # vLLM requires a tokenizer, but does not use it
        "limit_mm_per_prompt": {"image": _MOST, "video": 0},
        # Both would call the model's processor in transformers, which requires torchvision.
        "skip_mm_profiling": True,
        "mm_processor_cache_gb": 0,
    }
    if hasattr(AsyncEngineArgs, "mm_device_do_normalize"):
        found["mm_device_do_normalize"] = False  # the input is normalized; older versions assume it
    return found


def bring_processing(config: Any) -> None:
    """Let vLLM in this process and its forks work without transformers' processor.

    Args:
        config: vLLM's configuration of a vision-language model.
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

    del model._processor_factory  # else vLLM warns about the replacement
    MULTIMODAL_REGISTRY.register_processor(known.processor, info=Info, dummy_inputs=known.dummy_inputs)(model)


class Prompts:
    """Creates vLLM's prompts from ids and images."""

    def __init__(self, sight: Sight) -> None:
        self._sight = sight
        self._item = lru_cache(_KEPT)(self._new_item)

    def prompt(self, ids: list[int], images: Sequence[Image], salt: str) -> dict[str, Any]:
        """Return a completely prepared prompt; ``salt`` is that of vLLM's prefix cache."""
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
