"""What a model that sees makes of a picture: pixels for its vision tower, and places among the tokens.

Engine and learner both get their pixels here, from the same file, so that they see the same.
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
"""Kinds of models whose pictures areal knows, and how they are called."""
_PIXELS, _GRIDS = 16, 256
"""Pictures whose pixels are kept, which are 25 MB for one of 1024×1024, and those whose grids are."""


@dataclass(frozen=True, slots=True)
class Pixels:
    """A picture as a vision tower takes it.

    Attributes:
        values: float32 ``[P, D]``, P patches.
        grid: how many of them in time (one), in height and in width; their product is P.
    """

    values: np.ndarray
    grid: tuple[int, int, int]


class Sight:
    """What a model makes of pictures.

    Args:
        config: of the model.
        processor: transformers' image processor of it.

    Attributes:
        token: the placeholder: one for each square of ``merge``² patches.
        merge: side of such a square.
    """

    def __init__(self, config: Any, processor: Any) -> None:
        self.token: int = config.image_token_id
        self.merge: int = config.vision_config.spatial_merge_size
        self.processor = processor
        self.pixels = lru_cache(_PIXELS)(self._pixels)
        self.grid = lru_cache(_GRIDS)(self._grid)

    def _pixels(self, png: bytes) -> Pixels:
        """Return a picture as the tower takes it."""
        made = self.processor(images=[open_png(png)], return_tensors="np")
        [grid] = made["image_grid_thw"].tolist()
        return Pixels(np.asarray(made["pixel_values"], dtype=np.float32), tuple(grid))

    def _grid(self, png: bytes) -> tuple[int, int, int]:
        """Return how many patches a picture has in time, height and width."""
        return self.pixels(png).grid

    def count(self, png: bytes) -> int:
        """Return how many placeholders a picture has; it is told by its size, so that no pixel is read."""
        width, height = size_of(png)
        patches: int = self.processor.get_number_of_image_patches(height, width)
        return patches // self.merge**2

    def place(
        self, ids: list[int], pngs: Sequence[bytes], stands: list[bool] | None = None
    ) -> tuple[list[int], tuple[Image, ...]]:
        """Return ids with all placeholders of each picture in the place of the one that the template has.

        Args:
            ids: with a placeholder for each picture.
            stands: for each placeholder among ids whether it stands for a picture; None: all do. The others
                are tokens that words spell.
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
    """What is saved beside the weights of a model: its tokenizer and, if it sees, its image processor."""

    parts: tuple[Any, ...]

    def save_pretrained(self, folder: str | Path) -> None:
        """Write them."""
        for part in self.parts:
            part.save_pretrained(folder)


def saved_beside(path: str) -> SavedBeside:
    """Load what is saved beside the weights of a model of :func:`areal.models.resolve_model`."""
    sight = load_sight(path)
    return SavedBeside((load_tokenizer(path), *([] if sight is None else [sight.processor])))


def sees(path: str) -> bool:
    """Whether a model of :func:`areal.models.resolve_model` sees, and is of a kind that areal knows."""
    return model_config(path).get("model_type") in FAMILIES


def auto_class(config: Any) -> Any:
    """Return transformers' class by which a model of this configuration is loaded."""
    import transformers

    if config.model_type in FAMILIES:
        return transformers.AutoModelForImageTextToText
    return transformers.AutoModelForCausalLM


def load_sight(path: str) -> Sight | None:
    """Load what a model of :func:`areal.models.resolve_model` makes of pictures; None: it sees nothing.

    Raises:
        UserError: it sees, but its image processor does not load.
    """
    from transformers import AutoConfig, AutoImageProcessor

    if not sees(path):
        return None
    try:
        # Without torchvision's: it gives slightly different pixels, and is not everywhere.
        return Sight(
            AutoConfig.from_pretrained(path), AutoImageProcessor.from_pretrained(path, backend="pil")
        )
    except (OSError, ValueError, ImportError) as error:
        raise UserError(
            f"the image processor of {path} does not load (preprocessor_config.json): {first_line(error)}"
        ) from error
