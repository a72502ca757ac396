"""Content with images, in the forms of the three protocols."""

from __future__ import annotations

import base64
import binascii
import re
from typing import Any

from areal.agents.interface import Content
from areal.errors import UserError
from areal.images import to_png
from areal.rollout.endpoint.parsing import plain_text
from areal.rollout.endpoint.wire import Refusal

_DATA = re.compile(r"data:image/[\w.+-]+;base64,(.*)", re.DOTALL)


def content_of(content: Any, location: str) -> Content:
    """Return the content of a user or a tool: text, or parts if there are images.

    Images are parts ``image_url`` (chat completions), ``input_image`` (responses) and ``image`` (messages).

    Raises:
        Refusal: a part has another type, or is an image that cannot be read or that is at an address, because
            nothing is downloaded.
    """
    if not isinstance(content, list) or not any(_is_picture(part) for part in content):
        return plain_text(content, location)
    return [
        {"type": "image", "image": _png(part, location)}
        if _is_picture(part)
        else {"type": "text", "text": plain_text([part], location)}
        for part in content
    ]


def _is_picture(part: Any) -> bool:
    return isinstance(part, dict) and part.get("type") in ("image_url", "input_image", "image")


def _png(part: dict[str, Any], location: str) -> bytes:
    source = part.get("source")
    if isinstance(source, dict) and source.get("type") == "base64":
        encoded = source.get("data")
    else:
        given = part.get("image_url")
        url = given.get("url") if isinstance(given, dict) else given
        found = _DATA.fullmatch(url) if isinstance(url, str) else None
        encoded = found and found[1]
    if not isinstance(encoded, str):
        raise Refusal(
            400, f"{location}: send the image in the request, in base64; this endpoint does not fetch URLs"
        )
    try:
        return to_png(base64.b64decode(encoded, validate=True))
    except (binascii.Error, UserError) as error:
        raise Refusal(400, f"{location}: {error}") from error
