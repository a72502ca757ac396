"""Pictures from files, arrays and Pillow: what becomes of their pixels, and which are refused."""

from __future__ import annotations

import io
import pickle
import struct
import zlib
from typing import Any

import numpy as np
import PIL.Image
import pytest

from areal.errors import UserError
from areal.images import MAX_ASPECT, MAX_PIXELS, LatestFiles, Png, open_png, to_png

COLORS = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)


def file(picture: Any, form: str = "PNG", **options: Any) -> bytes:
    """Return a picture of Pillow's, or an array, as a file."""
    written = io.BytesIO()
    opened = picture if isinstance(picture, PIL.Image.Image) else PIL.Image.fromarray(picture)
    opened.save(written, format=form, **options)
    return written.getvalue()


def pixels(picture: Any) -> np.ndarray:
    """Return the pixels that a model sees of a picture."""
    return np.asarray(open_png(to_png(picture)))


def claimed(form: str, width: int, height: int) -> bytes:
    """Return a small file that says that it has so many pixels."""
    if form == "GIF":
        small = file(COLORS, "GIF")
        return small[:6] + struct.pack("<HH", width, height) + small[10:]
    head = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    small = file(COLORS)
    return small[:12] + head + struct.pack(">I", zlib.crc32(head)) + small[33:]


def test_greys_of_16_bits_keep_their_order():
    depth = np.linspace(0, 65535, 40 * 60).astype(np.uint16).reshape(40, 60)
    for given in (PIL.Image.fromarray(depth), file(depth)):
        gray = pixels(given)[:, :, 0]
        assert (gray == depth // 256).all()
        assert len(np.unique(gray)) == 256


def test_what_is_transparent_is_white():
    half = np.dstack([np.zeros_like(COLORS), np.full(COLORS.shape[:2], 255, np.uint8)])
    half[:20, :, 3] = 0
    gray = PIL.Image.fromarray(half).convert("LA")
    for given in (PIL.Image.fromarray(half), file(half), gray, file(gray), file(half, "WEBP", lossless=True)):
        seen = pixels(given)
        assert (seen[:20] == 255).all()
        assert (seen[20:] == 0).all()
    palette = PIL.Image.new("P", (4, 4))
    palette.putpalette([0, 0, 0, 9, 9, 9])
    assert (pixels(file(palette, transparency=0)) == 255).all()
    assert (pixels(file(palette, "GIF", transparency=0)) == 255).all()
    assert (pixels(file(palette)) == 0).all()
    assert (pixels(file(COLORS * 0, transparency=(0, 0, 0))) == 255).all()


def test_a_file_in_8_bits_stays_as_it_is():
    for given in (COLORS, COLORS[:, :, 0], PIL.Image.fromarray(COLORS).convert("P"), COLORS[:, :, 0] > 9):
        whole = file(given)
        assert to_png(whole) == whole
        assert (pixels(whole) == np.asarray(open_png(whole))).all()
    once = to_png(COLORS)
    assert to_png(once) is once
    assert isinstance(once, Png)


@pytest.mark.parametrize("form", ["PNG", "JPEG", "GIF", "WEBP"])
def test_a_file_that_breaks_off_or_is_damaged_is_refused(form: str):
    whole = file(COLORS, form)
    assert pixels(whole).shape == COLORS.shape
    for part in (whole[: len(whole) // 2], whole[:20], b"", b"no picture"):
        with pytest.raises(UserError, match="cannot read an image") as refused:
            to_png(part)
        assert "\n" not in str(refused.value)


def test_a_picture_of_pillows_that_is_read_late_is_refused():
    whole = file(COLORS)
    with pytest.raises(UserError, match="cannot read an image"):
        to_png(PIL.Image.open(io.BytesIO(whole[: len(whole) // 2])))


def test_damaged_pixels_are_refused():
    whole = bytearray(file(COLORS))
    whole[len(whole) // 2] ^= 255
    with pytest.raises(UserError, match="cannot read an image"):
        to_png(bytes(whole))


def test_other_formats_are_not_opened():
    with pytest.raises(UserError, match="cannot read an image"):
        to_png(file(COLORS, "EPS"))


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("form", ["PNG", "GIF"])
def test_too_many_pixels_are_refused_unread(form: str):
    for side in (6000, 13000, 20000):
        with pytest.raises(UserError, match=f"more than {MAX_PIXELS} pixels"):
            to_png(claimed(form, side, side))


def test_a_picture_that_is_too_long_is_refused():
    for shape in ((1, MAX_ASPECT + 1), (MAX_ASPECT + 1, 1)):
        given = np.zeros(shape, np.uint8)
        for each in (given, PIL.Image.fromarray(given), file(given)):
            with pytest.raises(UserError, match="times as long as it is wide"):
                to_png(each)
    assert pixels(np.zeros((1, MAX_ASPECT), np.uint8)).shape == (1, MAX_ASPECT, 3)


@pytest.mark.parametrize("mode", ["I", "F"])
def test_values_of_an_unknown_range_are_refused(mode: str):
    with pytest.raises(UserError, match=f"mode {mode} have an unknown range"):
        to_png(PIL.Image.new(mode, (4, 4)))


def test_a_file_that_comes_again_is_not_read_again():
    jpeg = file(COLORS, "JPEG")
    assert to_png(jpeg) is to_png(bytes(bytearray(jpeg)))
    assert to_png(jpeg) is not to_png(file(COLORS[::-1], "JPEG"))


def test_so_many_bytes_are_kept():
    files = [file(COLORS[:, number:], "JPEG") for number in range(3)]
    read = [to_png(each) for each in files]
    latest = LatestFiles(len(read[0]) + len(read[1]))
    first, second = latest.png(files[0]), latest.png(files[1])
    assert latest.png(files[0]) is first
    assert latest.png(files[2]) == read[2]
    assert latest.png(files[0]) is first, "the one that was asked for last stays"
    assert latest.png(files[1]) == second
    assert latest.png(files[1]) is not second
    assert LatestFiles(1).png(files[0]) == read[0], "one that is larger than all is not kept"


def test_a_picture_is_known_by_its_bytes():
    one, other = to_png(COLORS), to_png(COLORS[::-1])
    assert one.digest == to_png(COLORS.copy()).digest == pickle.loads(pickle.dumps(one)).digest
    assert one.digest != other.digest
    assert isinstance(pickle.loads(pickle.dumps(one)), Png)
