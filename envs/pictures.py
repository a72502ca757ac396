"""Observations with images: how to recognize them, and how to convert them to the content of a message."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from gymnasium import spaces

from areal.images import size_of, to_png

READS = (
    "a model reads only text (a str) or, if it can see, images (arrays of uint8 with the shape (height, "
    "width, 3))"
)
"""The types of observation that are allowed."""


def is_picture(value: Any) -> bool:
    """Return whether a value is an image: a uint8 array ``[H, W, 3]``, or an image of Pillow."""
    if isinstance(value, np.ndarray):
        return value.dtype == np.uint8 and value.ndim == 3 and value.shape[2] == 3
    if value is None or isinstance(value, str | Mapping):
        return False
    from PIL.Image import Image

    return isinstance(value, Image)


def is_readable(observation: Any) -> bool:
    """Return whether an observation can be shown to a model: text, an image, or a dict of both."""
    if isinstance(observation, Mapping):
        return shows_picture(observation) and all(
            isinstance(value, str) or is_picture(value) for value in observation.values()
        )
    return isinstance(observation, str) or is_picture(observation)


def kind_of(observation: Any) -> str:
    """Describe the type and the shape of an observation that cannot be shown to a model."""
    if isinstance(observation, np.ndarray):
        return f"ndarray of {observation.dtype} with the shape {observation.shape}"
    kind = type(observation).__name__
    if isinstance(observation, Mapping) and any(
        isinstance(each, np.ndarray) for each in observation.values()
    ):
        for name, value in observation.items():
            if not isinstance(value, str) and not is_picture(value):
                return f"{kind} whose {name!r} is of type {kind_of(value)}"
    return kind


def shows_picture(observation: Any) -> bool:
    """Return whether an observation contains an image."""
    if isinstance(observation, Mapping):
        return any(map(is_picture, observation.values()))
    return is_picture(observation)


def may_show_picture(space: Any) -> bool:
    """Return whether the observations of a space contain an image."""
    if isinstance(space, spaces.Dict):
        return any(map(may_show_picture, space.values()))
    return (
        isinstance(space, spaces.Box)
        and space.dtype == np.uint8
        and len(space.shape) == 3
        and space.shape[2] == 3
    )


def content_of(observation: Any) -> str | list[dict[str, Any]]:
    """Convert a readable observation to the content of a message: text, or parts in the order of the dict.

    Raises:
        UserError: an image has no pixels.
    """
    if isinstance(observation, str):
        return observation
    values = observation.values() if isinstance(observation, Mapping) else [observation]
    return [
        {"type": "text", "text": value}
        if isinstance(value, str)
        else {"type": "image", "image": to_png(value)}
        for value in values
    ]


def with_files(messages: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return messages with each of their images as a PNG file.

    Raises:
        UserError: an image is invalid or cannot be shown.
    """
    return [
        {**message, "content": [_with_file(part) for part in message["content"]]}
        if isinstance(message["content"], list)
        else message
        for message in messages
    ]


def words_of(content: Any) -> str:
    """Return content, or an observation, as text that mentions its images."""
    if isinstance(content, str) or not (isinstance(content, list) or is_readable(content)):
        return str(content)
    parts = content if isinstance(content, list) else content_of(content)
    return "".join(_word(part) for part in parts)


def with_text(content: str | list[dict[str, Any]], text: str) -> str | list[dict[str, Any]]:
    """Return content with a text added at its end."""
    return content + text if isinstance(content, str) else [*content, {"type": "text", "text": text}]


def _with_file(part: Mapping[str, Any]) -> Mapping[str, Any]:
    return {**part, "image": to_png(part.get("image"))} if part["type"] == "image" else part


def _word(part: Any) -> str:
    if isinstance(part, Mapping) and part.get("type") == "image":
        width, height = size_of(to_png(part["image"]))
        return f"[image {width}×{height}]"
    return str(part["text"]) if isinstance(part, Mapping) and "text" in part else str(part)
