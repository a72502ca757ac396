"""Chat messages in one form, whoever sent them, and what makes two of them the same."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from areal.agents.interface import BadRequest, Message
from areal.rollout.arguments import loads

Key = tuple[str, str, tuple[tuple[str, str], ...]]
"""Role, words, and name and arguments of each tool call: what two equal messages have in common."""


def normal(message: Message) -> Message:
    """Return a message as chat templates want it: content as text, arguments of tool calls as a mapping.

    Raises:
        BadRequest: it is none, or has content that is no text.
    """
    role = message.get("role")
    if not isinstance(role, str):
        raise BadRequest(f"a message needs a role: {message!r}")
    found: Message = {"role": role, "content": _text(message.get("content"))}
    if calls := message.get("tool_calls"):
        found["tool_calls"] = [_call(call) for call in calls]
    for name in ("tool_call_id", "name"):
        if message.get(name) is not None:
            found[name] = message[name]
    return found


def key(message: Message) -> Key:
    """Return what a normal message is compared by: clients trim words and give calls other ids."""
    calls = tuple(
        (call["function"]["name"], json.dumps(call["function"]["arguments"], sort_keys=True))
        for call in message.get("tool_calls", ())
    )
    return message["role"], message["content"].strip(), calls


def _text(content: Any) -> str:
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if isinstance(content, Sequence) and all(isinstance(p, dict) and "text" in p for p in content):
        return "".join(part["text"] for part in content)
    raise BadRequest("the content of a message is text, or a list of parts with text: nothing else is seen")


def _call(call: Any) -> dict[str, Any]:
    try:
        function = call["function"]
        name, arguments = function["name"], function["arguments"]
        if isinstance(arguments, str):
            arguments = loads(arguments or "{}")
        if not isinstance(arguments, dict):
            raise ValueError("arguments are an object")
    except (TypeError, KeyError, ValueError) as error:
        shown = repr(call)[:200]
        raise BadRequest(f"a tool call needs a function with a name and JSON arguments: {shown}") from error
    found = {"type": "function", "function": {"name": name, "arguments": arguments}}
    return found if call.get("id") is None else {"id": call["id"], **found}
