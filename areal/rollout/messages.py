"""Chat messages in one normal form, independent of their source, and when two of them are equal."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Sequence
from typing import Any

from areal.agents.interface import BadRequest, Message
from areal.errors import UserError
from areal.images import Png, to_png
from areal.rollout.arguments import loads

Key = tuple[str, str, tuple[tuple[str, str], ...], tuple[bytes, ...]]
"""Role, text, name and arguments of each tool call, and digests of images, by which messages are compared."""


_OTHER = (
    "the content of a message is text, or a list of parts, each of them text or an image ({'type': 'image', "
    "'image': a PNG file's bytes}); areal reads nothing else"
)


SAID = "said"
"""Key of a message's text as it was sampled, including the marks of calls."""


def as_sampled(message: Message) -> Message:
    """Return a conversation's message with the sampled text, if there is one, as its content."""
    return {"role": message["role"], "content": message[SAID]} if SAID in message else message


def said_of(message: Message) -> str:
    """Return the sampled text of a conversation's message, or its content."""
    said: str = message[SAID] if SAID in message else message["content"]
    return said


def normal(message: Message) -> Message:
    """Return a message in the form of chat templates: arguments of tool calls as a mapping, content as text.

    Content with images is a list of parts, ``{"type": "text", "text": …}`` and ``{"type": "image", "image":
    …}``, with the image as a PNG file.

    Raises:
        BadRequest: the message is invalid, or its content is neither text nor an image.
    """
    role = message.get("role")
    if not isinstance(role, str):
        raise BadRequest(f"a message needs a role: {message!r}")
    found: Message = {"role": role, "content": _content(message.get("content"))}
    if role not in ("user", "tool") and not isinstance(found["content"], str):
        raise BadRequest(f"a message with the role {role} contains an image; only user and tool messages may")
    if calls := message.get("tool_calls"):
        found["tool_calls"] = [_call(call) for call in calls]
    for name in ("tool_call_id", "name"):
        if message.get(name) is not None:
            found[name] = message[name]
    return found


async def normal_history(messages: Sequence[Message]) -> list[Message]:
    """Return messages in normal form; images that are not yet checked files are converted on a thread.

    Raises:
        BadRequest: as in :func:`normal`.
    """
    if all(map(_is_read, messages)):
        return [normal(message) for message in messages]
    return await asyncio.to_thread(lambda: [normal(message) for message in messages])


def key(message: Message) -> Key:
    """Return the key by which a normal message is compared; clients trim text and change the ids of calls."""
    calls = tuple(
        (call["function"]["name"], json.dumps(call["function"]["arguments"], sort_keys=True))
        for call in message.get("tool_calls", ())
    )
    return message["role"], words(message).strip(), calls, tuple(png.digest for png in pictures([message]))


def words(message: Message) -> str:
    """Return the text of a normal message, without its images."""
    content = message["content"]
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)


def pictures(messages: Iterable[Message]) -> list[Png]:
    """Return the images of normal messages, in order."""
    parts = (part for m in messages if not isinstance(m["content"], str) for part in m["content"])
    return [part["image"] for part in parts if part["type"] == "image"]


def _content(content: Any) -> str | list[dict[str, Any]]:
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if not isinstance(content, Sequence):
        raise BadRequest(_OTHER)
    parts = [_part(part) for part in content]
    if all(part["type"] == "text" for part in parts):
        return "".join(part["text"] for part in parts)
    return parts


def _is_read(message: Message) -> bool:
    content = message.get("content")
    parts = content if isinstance(content, list) else ()
    given = [part.get("image") for part in parts if isinstance(part, dict) and part.get("type") == "image"]
    return all(isinstance(picture, Png) for picture in given)


def _part(part: Any) -> dict[str, Any]:
    """Return a part in one of two forms."""
    if isinstance(part, dict) and part.get("type") == "image" and part.get("image") is not None:
        try:
            return {"type": "image", "image": to_png(part["image"])}
        except UserError as error:
            raise BadRequest(str(error)) from error
    if isinstance(part, dict) and isinstance(part.get("text"), str):
        return {"type": "text", "text": part["text"]}
    raise BadRequest(_OTHER)


def _call(call: Any) -> dict[str, Any]:
    try:
        function = call["function"]
        name, arguments = function["name"], function["arguments"]
        if isinstance(arguments, str):
            arguments = loads(arguments or "{}")
        if not isinstance(arguments, dict):
            raise ValueError("the arguments must be an object")
    except (TypeError, KeyError, ValueError) as error:
        shown = repr(call)[:200]
        raise BadRequest(f"a tool call needs a function with a name and JSON arguments: {shown}") from error
    found = {"type": "function", "function": {"name": name, "arguments": arguments}}
    return found if call.get("id") is None else {"id": call["id"], **found}
