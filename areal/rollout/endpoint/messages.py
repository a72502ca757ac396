"""Anthropic's Messages: ``POST /v1/messages``."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from pydantic import Field

from areal.agents.interface import Message, Reply, SamplingLimits
from areal.rollout.endpoint.fields import look_at_fields, look_at_format, look_within
from areal.rollout.endpoint.parsing import (
    RequestForm,
    call_id,
    function_call,
    function_tool,
    plain_text,
    read,
    shown_tools,
    vendor_tool,
)
from areal.rollout.endpoint.pictures import content_of
from areal.rollout.endpoint.shown import THOUGHT
from areal.rollout.endpoint.stops import stop_position, stop_strings
from areal.rollout.endpoint.wire import (
    ModelRequest,
    ModelResponse,
    Reading,
    Refusal,
    events,
    shown,
    unavailable,
)

_THOUGHTS = ("thinking", "redacted_thinking")
_ERROR_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
}
_VENDOR_TOOL = re.compile(r"_\d{8}$|^mcp_toolset$")
"""Types of tools that Anthropic runs or defines; they contain a date."""
_THREAD = "thread: this endpoint keeps no history; send the whole conversation with each request"


class _Counted(RequestForm):
    messages: list[dict[str, Any]] = Field(min_length=1)
    max_tokens: int | None = Field(None, ge=1)
    system: str | list[dict[str, Any]] | None = None
    tool_choice: dict[str, Any] | None = None
    stop_sequences: list[str] | None = None
    thinking: Any = None
    thread: Any = None
    output_config: dict[str, Any] | None = None
    output_format: dict[str, Any] | None = None


class _Request(_Counted):
    max_tokens: int = Field(ge=1)


def parse(body: bytes, reading: Reading) -> ModelRequest:
    """Read a request; see :class:`areal.rollout.endpoint.wire.WireFormat`."""
    return _parsed(read(_Request, body), reading)


def parse_counted(body: bytes, reading: Reading) -> ModelRequest:
    """Read a request whose tokens are to be counted; see :func:`parse`."""
    return _parsed(read(_Counted, body), reading)


def _parsed(request: _Counted, reading: Reading) -> ModelRequest:
    if request.thread is not None:
        raise unavailable(_THREAD, {"error_code": "thread_unsupported_request", "unsupported": ["thread"]})
    look_at_fields(request.model_extra, reading)
    look_within("output_config", request.output_config, reading)
    look_at_format("output_format", request.output_format, reading)
    messages: list[Message] = []
    for i, given in enumerate(request.messages):
        messages.extend(_messages(given, f"messages.{i}"))
    return ModelRequest(
        model=request.model,
        messages=messages,
        system=None if request.system is None else plain_text(request.system, "system"),
        tools=shown_tools(request, _tool, reading),
        limits=SamplingLimits(max_tokens=request.max_tokens, stop=stop_strings(request.stop_sequences)),
        stream=bool(request.stream),
        # As in Anthropic's API: programs that did not request thoughts take the first block for the text.
        thoughts=isinstance(request.thinking, dict)
        and request.thinking.get("type") in ("enabled", "adaptive"),
    )


def _tool(tool: dict[str, Any], reading: Reading) -> list[dict[str, Any]]:
    kind = tool.get("type", "custom")
    if isinstance(kind, str) and _VENDOR_TOOL.search(kind):
        return vendor_tool(kind, reading)
    if kind not in ("custom", None):
        raise unavailable(f"tools: this endpoint supports only functions, not {shown(kind)}")
    return [function_tool(tool.get("name"), tool.get("description"), tool.get("input_schema"))]


def _messages(given: dict[str, Any], location: str) -> Iterator[Message]:
    """Convert one of Anthropic's messages; tool results become separate messages before the user's text."""
    content = given.get("content")
    blocks = [{"type": "text", "text": content}] if isinstance(content, str) else content
    if given.get("role") not in ("user", "assistant", "system") or not isinstance(blocks, list):
        raise Refusal(400, f"{location}: a message needs a role (user or assistant) and content")
    if not all(isinstance(block, dict) for block in blocks):
        raise Refusal(400, f"{location}: content must be a string or a list of blocks")
    if given["role"] == "assistant":
        yield _assistant(blocks, location)
        return
    said = []
    for block in blocks:
        if block.get("type") == "tool_result":
            output = content_of(block.get("content"), location)
            number = call_id(block.get("tool_use_id"), location)
            yield {"role": "tool", "tool_call_id": number, "content": output}
        else:
            said.append(block)
    if said or not blocks:
        read = content_of if given["role"] == "user" else plain_text
        yield {"role": given["role"], "content": read(said, location)}


def _assistant(blocks: list[dict[str, Any]], location: str) -> Message:
    said = [block for block in blocks if block.get("type") not in ("tool_use", *_THOUGHTS)]
    message: Message = {"role": "assistant", "content": plain_text(said, location)}
    calls = []
    for block in blocks:
        if block.get("type") == "tool_use":
            if not isinstance(block.get("input"), dict):
                raise Refusal(
                    400, f"{location}: the input of a tool must be an object, not {shown(block.get('input'))}"
                )
            arguments = json.dumps(block["input"])
            calls.append(function_call(block.get("id", ""), block.get("name"), arguments, location))
    if calls:
        message["tool_calls"] = calls
    thoughts = [block.get("thinking") for block in blocks if block.get("type") == "thinking"]
    if thoughts and isinstance(thoughts[0], str):
        message[THOUGHT] = thoughts[0]
    return message


def render(request: ModelRequest, response: ModelResponse) -> dict[str, Any]:
    """Return the response as one object."""
    reply = response.replies[0]
    return {
        **_head(request, response),
        "content": list(_blocks(request, response)),
        **_end(request, reply),
        "usage": {"input_tokens": response.prompt_tokens, "output_tokens": response.sampled_tokens},
    }


def stream(request: ModelRequest, response: ModelResponse) -> bytes:
    """Return the response as server-sent events."""
    return events(_stream(request, response), named=True)


def error(refusal: Refusal) -> dict[str, Any]:
    """Return the body of a refusal."""
    kind = _ERROR_TYPES.get(refusal.status, "invalid_request_error" if refusal.status < 500 else "api_error")
    content = {"type": kind, "message": refusal.message}
    return {"type": "error", "error": content | ({"details": refusal.details} if refusal.details else {})}


SIGN_OF_LIFE = events([{"type": "ping"}], named=True)


def error_event(refusal: Refusal) -> bytes:
    """Return a refusal in a stream that has begun."""
    return events([error(refusal)], named=True)


def _stream(request: ModelRequest, response: ModelResponse) -> Iterator[dict[str, Any]]:
    reply = response.replies[0]
    usage = {"input_tokens": response.prompt_tokens, "output_tokens": 0}
    yield {"type": "message_start", "message": {**_head(request, response), "usage": usage}}
    for index, block in enumerate(_blocks(request, response)):
        empty, deltas = _deltas(block)
        yield {"type": "content_block_start", "index": index, "content_block": {**block, **empty}}
        for delta in deltas:
            yield {"type": "content_block_delta", "index": index, "delta": delta}
        yield {"type": "content_block_stop", "index": index}
    yield {
        "type": "message_delta",
        "delta": _end(request, reply),
        "usage": {"output_tokens": response.sampled_tokens},
    }
    yield {"type": "message_stop"}


def _deltas(block: dict[str, Any]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return a block without its content, as at its start, and the content that follows."""
    if block["type"] == "tool_use":
        return {"input": {}}, [{"type": "input_json_delta", "partial_json": json.dumps(block["input"])}]
    if block["type"] == "thinking":
        thinking = {"type": "thinking_delta", "thinking": block["thinking"]}
        signature = {"type": "signature_delta", "signature": block["signature"]}
        return {"thinking": "", "signature": ""}, [thinking, signature]
    return {"text": ""}, [{"type": "text_delta", "text": block["text"]}]


def _head(request: ModelRequest, response: ModelResponse) -> dict[str, Any]:
    head = {"id": f"msg_{response.id}", "type": "message", "role": "assistant", "model": request.model}
    return {**head, "content": [], "stop_reason": None, "stop_sequence": None}


def _blocks(request: ModelRequest, response: ModelResponse) -> Iterator[dict[str, Any]]:
    reply = response.replies[0]
    if request.thoughts and THOUGHT in reply.message:
        yield {"type": "thinking", "thinking": reply.message[THOUGHT], "signature": response.id}
    if reply.message["content"]:
        yield {"type": "text", "text": reply.message["content"]}
    for made in reply.message.get("tool_calls") or ():
        function = made["function"]
        arguments = json.loads(function["arguments"])
        yield {"type": "tool_use", "id": made["id"], "name": function["name"], "input": arguments}


def _end(request: ModelRequest, reply: Reply) -> dict[str, str | None]:
    if (stop := stop_position(request, reply)) is not None:
        return {"stop_reason": "stop_sequence", "stop_sequence": stop[1]}
    reason = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use"}[reply.finish]
    return {"stop_reason": reason, "stop_sequence": None}
