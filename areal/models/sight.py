"""How a vision-language model processes an image: pixels for its vision tower, and placeholder tokens.

Engine and learner both get their pixels here, from the same file, so that they see the same image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from areal.errors import UserError
from areal.images import Image, open_png, size_of
from areal.models.folder import first_line
from areal.models.loading import load_tokenizer, model_config

FAMILIES = {"qwen2_vl": "Qwen2-VL", "qwen2_5_vl": "Qwen2.5-VL", "qwen3_vl": "Qwen3-VL"}
"""Model types whose images areal supports, and their names."""
_PIXELS, _GRIDS = 16, 256
"""Number of images whose pixels are cached (25 MB for an image of 1024×1024), and whose grids are cached."""


@dataclass(frozen=True, slots=True)
class Pixels:
    """An image as the input of a vision tower.

    Attributes:
        values: float32 ``[P, D]``, P patches.
        grid: number of patches in time (one), in height and in width; their product is P.
    """

    values: np.ndarray
    grid: tuple[int, int, int]


class Sight:
    """The image processing of a model.

    Args:
        config: configuration of the model.
        processor: its image processor in transformers.

    Attributes:
        token: the placeholder; an image has one for each square of ``merge``² patches.
        merge: side of such a square.
    """

    def __init__(self, config: Any, processor: Any) -> None:
        self.token: int = config.image_token_id
        self.merge: int = config.vision_config.spatial_merge_size
        self.processor = processor
        self.pixels = lru_cache(_PIXELS)(self._pixels)
        self.grid = lru_cache(_GRIDS)(self._grid)

    def _pixels(self, png: bytes) -> Pixels:
        """Return an image as the input of the vision tower."""
        made = self.processor(images=[open_png(png)], return_tensors="np")
        [grid] = made["image_grid_thw"].tolist()
        return Pixels(np.asarray(made["pixel_values"], dtype=np.float32), tuple(grid))

    def _grid(self, png: bytes) -> tuple[int, int, int]:
        """Return the number of patches of an image in time, height and width."""
        return self.pixels(png).grid

    def count(self, png: bytes) -> int:
        """Return the number of placeholders of an image; its size determines it, so no pixels are read."""
        width, height = size_of(png)
        patches: int = self.processor.get_number_of_image_patches(height, width)
        return patches // self.merge**2

    def place(
        self, ids: list[int], pngs: Sequence[bytes], stands: list[bool] | None = None
    ) -> tuple[list[int], tuple[Image, ...]]:
        """Return ids in which all placeholders of each image replace the one from the template.

        Args:
            ids: token ids with one placeholder per image.
            stands: for each placeholder among ids, whether it represents an image; None: all do. The others
                are tokens that come from text.
        """
        placed: list[int] = []
        images: list[Image] = []
        found = iter(stands or [True] * len(pngs))
        for token in ids:
            count = 1
            if token == self.token and next(found):
                png = pngs[len(images)]
                count = self.count(png)
                images.append(Image(png, len(placed), count))
            placed += [token] * count
        return placed, tuple(images)


@dataclass(frozen=True, slots=True)
class SavedBeside:
    """The files beside the weights of a model: its tokenizer and, if it has vision, its image processor."""

    parts: tuple[Any, ...]

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the files."""
        for part in self.parts:
            part.save_pretrained(folder)


def saved_beside(path: str) -> SavedBeside:
    """Load the files beside the weights of a model from :func:`areal.models.resolve_model`."""
    sight = load_sight(path)
    return SavedBeside((load_tokenizer(path), *([] if sight is None else [sight.processor])))


def sees(path: str) -> bool:
    """Return whether a model from :func:`areal.models.resolve_model` has vision of a supported type."""
    return model_config(path).get("model_type") in FAMILIES


def auto_class(config: Any) -> Any:
    """Return transformers' class that loads a model of this configuration."""
    import transformers

    if config.model_type in FAMILIES:
        return transformers.AutoModelForImageTextToText
    return transformers.AutoModelForCausalLM


def load_sight(path: str) -> Sight | None:
    """Load the image processing of a model from :func:`areal.models.resolve_model`; None: it has no vision.

    Raises:
        UserError: the model has vision, but its image processor does not load.
    """
    from transformers import AutoConfig, AutoImageProcessor

    if not sees(path):
        return None
    try:
        # Not torchvision's, which gives slightly different pixels and is not always installed.
        return Sight(
            AutoConfig.from_pretrained(path), AutoImageProcessor.from_pretrained(path, backend="pil")
        )
    except (OSError, ValueError, ImportError) as error:
        raise UserError(
            f"the image processor of {path} does not load (preprocessor_config.json): {first_line(error)}"
        ) from error
