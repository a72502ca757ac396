"""OpenAI's Responses: ``POST /v1/responses``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from pydantic import Field

from areal.agents.interface import Message, SamplingLimits
from areal.rollout.endpoint.fields import look_at_fields, look_within
from areal.rollout.endpoint.parsing import (
    RequestForm,
    call_id,
    function_call,
    function_tool,
    plain_text,
    read,
    role_of,
    shown_tools,
    vendor_tool,
)
from areal.rollout.endpoint.pictures import content_of
from areal.rollout.endpoint.shown import THOUGHT
from areal.rollout.endpoint.wire import (
    COMMENT,
    ModelRequest,
    ModelResponse,
    Reading,
    Refusal,
    events,
    openai_error,
    shown,
    unavailable,
)

_OF_THE_VENDOR = """
web_search web_search_2025_08_26 web_search_preview web_search_preview_2025_03_11 file_search mcp shell
code_interpreter image_generation local_shell apply_patch computer computer_use computer_use_preview
tool_search programmatic_tool_calling
"""
_VENDOR_TOOLS = frozenset(_OF_THE_VENDOR.split())
"""Types of tools that OpenAI runs or defines."""
_LOGPROBS = "message.output_text.logprobs"


class _Counted(RequestForm):
    model: str = ""
    input: str | list[dict[str, Any]] | None = None
    instructions: str | None = None
    previous_response_id: str | None = None
    conversation: Any = None
    prompt: Any = None
    text: dict[str, Any] | None = None
    include: list[str] | None = None
    max_output_tokens: int | None = Field(None, ge=1)
    stream_options: dict[str, Any] | None = None


class _Request(_Counted):
    model: str
    input: str | list[dict[str, Any]]


def parse(body: bytes, reading: Reading) -> ModelRequest:
    """Read a request; see :class:`areal.rollout.endpoint.wire.WireFormat`."""
    return _parsed(read(_Request, body), reading)


def parse_counted(body: bytes, reading: Reading) -> ModelRequest:
    """Read a request whose tokens are to be counted; see :func:`parse`."""
    return _parsed(read(_Counted, body), reading)


def _parsed(request: _Counted, reading: Reading) -> ModelRequest:
    look_at_fields(request.model_extra, reading)
    look_within("text", request.text, reading)
    if request.conversation is not None or request.prompt is not None:
        raise unavailable(
            "conversation and prompt refer to objects stored at OpenAI; use previous_response_id, or send "
            "the input"
        )
    tools = shown_tools(request, _tool, reading)
    return ModelRequest(
        model=request.model,
        messages=_messages(request.input or [], reading),
        system=request.instructions,
        previous=request.previous_response_id,
        tools=tools,
        namespaces=_namespaces(request.tools or ()),
        limits=SamplingLimits(max_tokens=request.max_output_tokens),
        logprobs=_LOGPROBS in (request.include or ()),
        stream=bool(request.stream),
    )


def _tool(tool: dict[str, Any], reading: Reading) -> list[dict[str, Any]]:
    """Return a function, or the functions of a namespace, whose names start with that of the namespace."""
    kind = tool.get("type")
    if kind == "function":
        return [function_tool(tool.get("name"), tool.get("description"), tool.get("parameters"))]
    if kind == "namespace":
        space, inner = tool.get("name"), tool.get("tools")
        if not isinstance(space, str) or not isinstance(inner, list):
            raise Refusal(400, "tools: a namespace needs a name and tools")
        if any(not isinstance(member, dict) or member.get("type") != "function" for member in inner):
            raise unavailable(
                f"tools: this endpoint supports only functions, and {space!r} contains other tools"
            )
        return [
            _tool({**member, "name": _qualified(space, member.get("name"))}, reading)[0] for member in inner
        ]
    if isinstance(kind, str) and kind in _VENDOR_TOOLS:
        return vendor_tool(kind, reading)
    raise unavailable(f"tools: this endpoint supports only functions, not {shown(kind)}")


def _qualified(space: Any, name: Any) -> Any:
    """Return the model's name of a function that may belong to a namespace."""
    return f"{space}__{name}" if isinstance(space, str) and isinstance(name, str) else name


def _namespaces(tools: Iterable[dict[str, Any]]) -> dict[str, tuple[str, str]]:
    spaces = [tool for tool in tools if tool.get("type") == "namespace"]
    return {
        _qualified(tool["name"], member["name"]): (tool["name"], member["name"])
        for tool in spaces
        for member in tool["tools"]
    }


def _messages(given: str | list[dict[str, Any]], reading: Reading) -> list[Message]:
    """Convert items to messages; the assistant's text and its tool calls become one message."""
    if isinstance(given, str):
        return [{"role": "user", "content": given}]
    messages: list[Message] = []
    thought: str | None = None
    for i, item in enumerate(given):
        location = f"input.{i}"
        item = _whole(item, location, reading)
        kind = item["type"]
        if kind == "message":
            role = role_of(item, location)
            read = content_of if role == "user" else plain_text
            said: Message = {"role": role, "content": read(item.get("content"), location)}
            if said["role"] == "assistant" and thought is not None:
                said[THOUGHT], thought = thought, None
            messages.append(said)
        elif kind == "function_call":
            if thought is not None or not messages or messages[-1]["role"] != "assistant":
                messages.append({"role": "assistant", "content": "", THOUGHT: thought or ""})
                thought = None
            name = _qualified(item.get("namespace"), item.get("name"))
            call = function_call(item.get("call_id", ""), name, item.get("arguments"), location)
            messages[-1].setdefault("tool_calls", []).append(call)
        elif kind == "function_call_output":
            output = content_of(item.get("output"), location)
            number = call_id(item.get("call_id"), location)
            messages.append({"role": "tool", "tool_call_id": number, "content": output})
        elif kind == "reasoning":  # belongs to the next item
            thought = _thought(item)
        else:
            raise Refusal(400, f"{location}: items of type {shown(kind)} are not supported")
    return messages


def _thought(item: dict[str, Any]) -> str:
    parts = item.get("content") or ()
    return "".join(str(part.get("text", "")) for part in parts if isinstance(part, dict))


def _whole(item: dict[str, Any], location: str, reading: Reading) -> dict[str, Any]:
    """Return an item, which may be given by the id that this endpoint has assigned."""
    kind = item.get("type") or ("message" if "role" in item else "item_reference")
    if kind != "item_reference":
        return {**item, "type": kind}
    number = item.get("id")
    if not isinstance(number, str) or number not in reading.items:
        raise Refusal(
            400, f"{location}: the item {shown(number)} does not belong to a response of this episode"
        )
    return reading.items[number]


def render(request: ModelRequest, response: ModelResponse) -> dict[str, Any]:
    """Return the response as one object."""
    return _response(request, response, _items(request, response), done=True)


def stream(request: ModelRequest, response: ModelResponse) -> bytes:
    """Return the response as server-sent events."""
    numbered = ({**event, "sequence_number": i} for i, event in enumerate(_stream(request, response)))
    return events(numbered, named=True)


error = openai_error
SIGN_OF_LIFE = COMMENT


def error_event(refusal: Refusal) -> bytes:
    """Return a refusal in a stream that has begun: in OpenAI's form, with the object that SDKs raise."""
    told = error(refusal)
    code = {"code": refusal.code, "message": refusal.message, "param": None, "sequence_number": 0}
    return events([{"type": "error", **code, **told}], named=True)


def _items(request: ModelRequest, response: ModelResponse) -> list[dict[str, Any]]:
    message = response.replies[0].message
    calls = message.get("tool_calls") or ()
    items: list[dict[str, Any]] = []
    if THOUGHT in message:
        part = {"type": "reasoning_text", "text": message[THOUGHT]}
        item = {"type": "reasoning", "id": f"rs_{response.id}", "summary": [], "content": [part]}
        items.append({**item, "status": "completed"})
    if message["content"] or not calls:
        logprobs = response.logprobs(0) if request.logprobs else []
        part = {"type": "output_text", "text": message["content"], "annotations": [], "logprobs": logprobs}
        said = {"type": "message", "id": f"msg_{response.id}", "role": "assistant", "content": [part]}
        items.append({**said, "status": "completed"})
    for index, made in enumerate(calls):
        item = {"type": "function_call", "id": f"fc_{response.id}_{index}", "call_id": made["id"]}
        function = made["function"]
        if function["name"] in request.namespaces:
            space, name = request.namespaces[function["name"]]
            function = {**function, "name": name, "namespace": space}
        items.append({**item, **function, "status": "completed"})
    return items


def _response(
    request: ModelRequest, response: ModelResponse, items: list[dict[str, Any]], done: bool
) -> dict[str, Any]:
    cut = response.replies[0].finish == "length"
    prompt, sampled = response.prompt_tokens, response.sampled_tokens
    usage = {
        "input_tokens": prompt,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": sampled,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": prompt + sampled,
    }
    return {
        "id": f"resp_{response.id}",
        "object": "response",
        "created_at": response.created,
        "status": ("incomplete" if cut else "completed") if done else "in_progress",
        "incomplete_details": {"reason": "max_output_tokens"} if cut and done else None,
        "error": None,
        "model": request.model,
        "instructions": request.system,
        "previous_response_id": request.previous,
        "output": items,
        "tools": [{"type": "function", "strict": None, **tool["function"]} for tool in request.tools],
        "tool_choice": "auto",
        "parallel_tool_calls": True,
        "metadata": {},
        "usage": usage if done else None,
    }


def _stream(request: ModelRequest, response: ModelResponse) -> Iterator[dict[str, Any]]:
    items = _items(request, response)
    begun = _response(request, response, [], done=False)
    yield {"type": "response.created", "response": begun}
    yield {"type": "response.in_progress", "response": begun}
    for index, item in enumerate(items):
        empty: dict[str, Any] = {"content": []} if "content" in item else {"arguments": ""}
        opened = {**item, **empty, "status": "in_progress"}
        yield {"type": "response.output_item.added", "output_index": index, "item": opened}
        where = {"item_id": item["id"], "output_index": index}
        yield from _PARTS[item["type"]](item, where)
        yield {"type": "response.output_item.done", "output_index": index, "item": item}
    ended = _response(request, response, items, done=True)
    yield {"type": f"response.{ended['status']}", "response": ended}


def _text(item: dict[str, Any], where: dict[str, Any]) -> Iterator[dict[str, Any]]:
    part, kind = item["content"][0], "response.output_text"
    where = {**where, "content_index": 0}
    # In a stream, a log-probability has no bytes.
    logprobs = [{k: entry[k] for k in ("token", "logprob", "top_logprobs")} for entry in part["logprobs"]]
    yield {"type": "response.content_part.added", **where, "part": {**part, "text": "", "logprobs": []}}
    yield {"type": f"{kind}.delta", **where, "delta": part["text"], "logprobs": logprobs}
    yield {"type": f"{kind}.done", **where, "text": part["text"], "logprobs": logprobs}
    yield {"type": "response.content_part.done", **where, "part": part}


def _reasoning(item: dict[str, Any], where: dict[str, Any]) -> Iterator[dict[str, Any]]:
    part, kind = item["content"][0], "response.reasoning_text"
    where = {**where, "content_index": 0}
    yield {"type": "response.content_part.added", **where, "part": {**part, "text": ""}}
    yield {"type": f"{kind}.delta", **where, "delta": part["text"]}
    yield {"type": f"{kind}.done", **where, "text": part["text"]}
    yield {"type": "response.content_part.done", **where, "part": part}


def _arguments(item: dict[str, Any], where: dict[str, Any]) -> Iterator[dict[str, Any]]:
    kind, arguments = "response.function_call_arguments", item["arguments"]
    yield {"type": f"{kind}.delta", **where, "delta": arguments}
    yield {"type": f"{kind}.done", **where, "name": item["name"], "arguments": arguments}


_PARTS = {"reasoning": _reasoning, "message": _text, "function_call": _arguments}
"""Functions that return the events of an item's content, by its type."""
