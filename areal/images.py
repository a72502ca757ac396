"""Pictures as they travel: PNG files, since those are small and keep every pixel."""

from __future__ import annotations

import base64
import io
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from areal.errors import UserError


@dataclass(frozen=True, slots=True)
class Image:
    """A picture among the tokens of a sequence.

    Attributes:
        png: the picture.
        start: index of the first of its placeholders among the tokens.
        tokens: how many placeholders there are, one after the other.
    """

    png: bytes = field(repr=False)
    start: int
    tokens: int

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "png": base64.b64encode(self.png).decode("ascii"),
            "start": self.start,
            "tokens": self.tokens,
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Image:
        """Read what :meth:`to_json` wrote."""
        return cls(base64.b64decode(data["png"]), data["start"], data["tokens"])


def shifted(images: Sequence[Image], tokens: int) -> list[Image]:
    """Return images whose sequence comes behind so many tokens."""
    return [replace(image, start=image.start + tokens) for image in images]


def to_png(picture: Any) -> bytes:
    """Return a picture as a PNG file.

    Args:
        picture: an array uint8 ``[H, W, 3]``, ``[H, W, 1]`` or ``[H, W]``, a picture of Pillow's, or the
            bytes of an image file; those of a PNG stay as they are.

    Raises:
        UserError: it is none of these.
    """
    from PIL import Image as Pillow
    from PIL import UnidentifiedImageError

    if isinstance(picture, bytes) and picture.startswith(b"\x89PNG\r\n\x1a\n"):
        return picture
    try:
        if isinstance(picture, bytes):
            opened = Pillow.open(io.BytesIO(picture)).convert("RGB")
        elif isinstance(picture, Pillow.Image):
            opened = picture.convert("RGB")
        else:
            opened = Pillow.fromarray(_pixels(picture))
    except (UnidentifiedImageError, OSError) as error:
        raise UserError(f"a picture cannot be read: {error}; give a PNG or JPEG file's bytes") from error
    file = io.BytesIO()
    opened.save(file, format="PNG", compress_level=1)
    return file.getvalue()


def size_of(png: bytes) -> tuple[int, int]:
    """Return width and height of a PNG file, which stand at its beginning."""
    width, height = struct.unpack(">II", png[16:24])
    return width, height


def open_png(png: bytes) -> Any:
    """Return a picture as Pillow has it, in RGB."""
    from PIL import Image as Pillow

    return Pillow.open(io.BytesIO(png)).convert("RGB")


def _pixels(picture: Any) -> np.ndarray:
    array = np.asarray(picture)
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.dtype != np.uint8 or array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] != 3):
        raise UserError(
            "a picture is an array of uint8 of the shape (height, width, 3), and this one is "
            f"{array.dtype} of the shape {array.shape}"
        )
    if 0 in array.shape:
        raise UserError(f"a picture of the shape {array.shape} has no pixels")
    return np.ascontiguousarray(array)
