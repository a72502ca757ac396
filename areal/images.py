"""Pictures in transit: PNG files, which are small and keep every pixel."""

from __future__ import annotations

import base64
import hashlib
import io
import struct
import zlib
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from threading import Lock
from typing import Any

import numpy as np

from areal.errors import UserError

MAX_PIXELS = 2**25
"""Maximum number of pixels of an image: 33 million, as on an 8K screen. They take 100 MB, and image
processors downscale such images anyway."""
MAX_ASPECT = 200
"""Maximum ratio of the longer to the shorter side: the image processors of supported models refuse more."""
_FORMATS = ("PNG", "JPEG", "GIF", "WEBP")
"""File formats that the vendors' models accept. Pillow starts programs to read some others (EPS)."""
_UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, LookupError, TypeError, struct.error, zlib.error)
"""Exceptions of Pillow for a file that is not an image, is truncated or is damaged."""


@dataclass(frozen=True, slots=True)
class Image:
    """An image among the tokens of a sequence.

    Attributes:
        png: the image.
        start: index of the first of its placeholders among the tokens.
        tokens: the number of its placeholders, which are consecutive.
    """

    png: bytes = field(repr=False)
    start: int
    tokens: int

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
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
    """Return images for a sequence that is preceded by a number of tokens."""
    return [replace(image, start=image.start + tokens) for image in images]


class Png(bytes):
    """A PNG file whose pixels were checked: 8 bits, no transparency, and a valid size."""

    @cached_property
    def digest(self) -> bytes:
        """Its digest of 16 bytes."""
        return hashlib.blake2b(self, digest_size=16).digest()


class LatestFiles:
    """A cache of recent images as PNG files, because programs send their whole history each time.

    Args:
        limit: maximum number of bytes of PNG files in the cache.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._size = 0
        self._read: OrderedDict[bytes, Png] = OrderedDict()
        self._lock = Lock()  # files are read on threads

    def png(self, file: bytes) -> Png:
        """Return a file as :func:`to_png` does."""
        digest = hashlib.blake2b(file, digest_size=16).digest()
        with self._lock:
            if digest in self._read:
                self._read.move_to_end(digest)
                return self._read[digest]
        read = _read(file)
        with self._lock:
            if digest not in self._read:  # another thread may have read it meanwhile
                self._read[digest] = read
                self._size += len(read)
            while self._size > self._limit:
                self._size -= len(self._read.popitem(last=False)[1])
        return read


_LATEST = LatestFiles(2**28)
"""Enough for some hundred screenshots; active conversations keep their images anyway."""


def to_png(picture: Any) -> Png:
    """Return an image as a PNG file.

    16-bit grayscale becomes 8-bit grayscale, and transparent pixels are placed on white.

    Args:
        picture: an array uint8 ``[H, W, 3]``, ``[H, W, 1]`` or ``[H, W]``, a Pillow image, or the bytes of
            an image file; an 8-bit PNG file without transparency is not changed.

    Raises:
        UserError: the image is none of these, cannot be read, or is too large or too elongated.
    """
    if isinstance(picture, Png):
        return picture
    if isinstance(picture, bytes):
        return _LATEST.png(picture)
    return _read(picture)


def digest_of(png: bytes) -> bytes:
    """Return the 16-byte digest of an image; a checked file caches it."""
    return (png if isinstance(png, Png) else Png(png)).digest


def size_of(png: bytes) -> tuple[int, int]:
    """Return width and height of a PNG file, from its header."""
    width, height = struct.unpack(">II", png[16:24])
    return width, height


def open_png(png: bytes) -> Any:
    """Return an image as an RGB image of Pillow."""
    from PIL import Image as Pillow

    return Pillow.open(io.BytesIO(png)).convert("RGB")


def _read(picture: Any) -> Png:
    from PIL import Image as Pillow

    if not isinstance(picture, bytes | Pillow.Image):
        array = _pixels(picture)
        _check_size(array.shape[1], array.shape[0])
        return _saved(Pillow.fromarray(array))
    try:
        opened = Pillow.open(io.BytesIO(picture), formats=_FORMATS) if isinstance(picture, bytes) else picture
        _check_size(*opened.size)
        opened.load()
        plain = opened.mode in ("1", "L", "P", "RGB") and not opened.has_transparency_data
        if plain and isinstance(picture, bytes) and opened.format == "PNG":
            return Png(picture)
        return _saved(_in_eight_bits(opened))
    except (Pillow.DecompressionBombError, Pillow.DecompressionBombWarning) as error:
        raise UserError(f"an image has more than {MAX_PIXELS} pixels; make it smaller") from error
    except _UNREADABLE as error:
        raise UserError(f"cannot read an image: {_line(error)}; give a complete PNG or JPEG file") from error


def _pixels(picture: Any) -> np.ndarray:
    array = np.asarray(picture)
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.dtype != np.uint8 or array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] != 3):
        raise UserError(
            "an image must be an array of uint8 with the shape (height, width, 3), but this one is "
            f"{array.dtype} with the shape {array.shape}; convert it"
        )
    return np.ascontiguousarray(array)


def _check_size(width: int, height: int) -> None:
    """Raise UserError if an image has no pixels or too many, or is too elongated."""
    if min(width, height) < 1:
        raise UserError(f"an image of {width}×{height} has no pixels")
    if width * height > MAX_PIXELS:
        raise UserError(f"an image of {width}×{height} has more than {MAX_PIXELS} pixels; make it smaller")
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise UserError(
            f"an image of {width}×{height} is more than {MAX_ASPECT} times as long as it is wide; crop it"
        )


def _in_eight_bits(opened: Any) -> Any:
    """Return a Pillow image in RGB, or in grayscale."""
    from PIL import Image as Pillow

    # Older releases of Pillow read grays of 16 bits as integers.
    if opened.mode.startswith("I;16") or (opened.mode == "I" and opened.format == "PNG"):
        return Pillow.fromarray((np.asarray(opened) >> 8).astype(np.uint8))
    if opened.mode in ("I", "F"):
        raise UserError(
            f"the values of an image in Pillow's mode {opened.mode} have an unknown range; convert it to 8 "
            "bits"
        )
    if not opened.has_transparency_data:
        return opened.convert("RGB")
    colors = opened.convert("RGBA")
    return Pillow.alpha_composite(Pillow.new("RGBA", colors.size, "white"), colors).convert("RGB")


def _saved(picture: Any) -> Png:
    file = io.BytesIO()
    picture.save(file, format="PNG", compress_level=1)
    return Png(file.getvalue())


def _line(error: Exception) -> str:
    """Return the message of an error in one line."""
    return " ".join(str(error).split()) or type(error).__name__
