"""OpenAI's Chat Completions: ``POST /v1/chat/completions``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import AliasChoices, Field

from areal.agents.interface import Message, Reply, SamplingLimits
from areal.rollout.endpoint.fields import look_at_fields, look_at_format
from areal.rollout.endpoint.parsing import (
    MAX_CHOICES,
    ROLES,
    RequestForm,
    Seed,
    call_id,
    function_call,
    function_tool,
    plain_text,
    read,
    role_of,
    shown_tools,
)
from areal.rollout.endpoint.pictures import content_of
from areal.rollout.endpoint.shown import THOUGHT
from areal.rollout.endpoint.stops import stop_strings
from areal.rollout.endpoint.wire import (
    COMMENT,
    ModelRequest,
    ModelResponse,
    Reading,
    Refusal,
    events,
    openai_error,
    openai_error_event,
    openai_usage,
    shown,
    unavailable,
)


class _Request(RequestForm):
    messages: list[dict[str, Any]] = Field(min_length=1)
    response_format: dict[str, Any] | None = None
    n: int | None = Field(None, ge=1, le=MAX_CHOICES)
    stop: str | list[str] | None = None
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    seed: Seed | None = Field(None, validation_alias=AliasChoices("seed", "random_seed"))  # Mistral's name
    logprobs: bool | None = None
    stream_options: dict[str, Any] | None = None


def parse(body: bytes, reading: Reading) -> ModelRequest:
    """Read a request; see :class:`areal.rollout.endpoint.wire.WireFormat`."""
    request: _Request = read(_Request, body)
    look_at_fields(request.model_extra, reading)
    look_at_format("response_format", request.response_format, reading)
    return ModelRequest(
        model=request.model,
        messages=[_message(message, f"messages.{i}") for i, message in enumerate(request.messages)],
        tools=shown_tools(request, _tool, reading),
        limits=SamplingLimits(
            max_tokens=request.max_completion_tokens or request.max_tokens,
            stop=stop_strings(request.stop),
            seed=request.seed,
        ),
        count=request.n or 1,
        logprobs=bool(request.logprobs),
        stream=bool(request.stream),
        usage_event=bool((request.stream_options or {}).get("include_usage")),
    )


def _tool(tool: dict[str, Any], reading: Reading) -> list[dict[str, Any]]:
    function = tool.get("function")
    if tool.get("type") != "function" or not isinstance(function, dict):
        raise unavailable(f"tools: this endpoint supports only functions, not {shown(tool.get('type'))}")
    return [function_tool(function.get("name"), function.get("description"), function.get("parameters"))]


def _message(given: dict[str, Any], location: str) -> Message:
    role = role_of(given, location, (*ROLES, "tool"))
    for field in ("function_call", "audio"):
        if given.get(field) is not None:
            raise Refusal(
                400, f"{location}: {field} is not supported; this endpoint reads only text and tool_calls"
            )
    said = given.get("content") or given.get("refusal")
    read = content_of if role in ("user", "tool") else plain_text
    message: Message = {"role": role, "content": read(said, location)}
    calls = given.get("tool_calls")
    if role == "assistant" and calls:
        if not isinstance(calls, list):
            raise Refusal(400, f"{location}: tool_calls must be a list")
        message["tool_calls"] = [_call(call, location) for call in calls]
    thought = given.get("reasoning_content") or given.get("reasoning")
    if role == "assistant" and isinstance(thought, str):
        message[THOUGHT] = thought
    if role == "tool":
        message["tool_call_id"] = call_id(given.get("tool_call_id"), location)
    if isinstance(given.get("name"), str):
        message["name"] = given["name"]
    return message


def _call(call: Any, location: str) -> dict[str, Any]:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict):
        raise Refusal(400, f"{location}: a tool call needs a function")
    return function_call(call.get("id"), function.get("name"), function.get("arguments"), location)


def render(request: ModelRequest, response: ModelResponse) -> dict[str, Any]:
    """Return the response as one object."""
    choices = []
    for number, reply in enumerate(response.replies):
        message = {**_said(reply), "refusal": None}
        if reply.message.get("tool_calls"):
            message["tool_calls"] = reply.message["tool_calls"]
        logprobs = _logprobs(request, response, number)
        choices.append(
            {"index": number, "message": message, "logprobs": logprobs, "finish_reason": reply.finish}
        )
    return {
        **_head(request, response, "chat.completion"),
        "choices": choices,
        "usage": openai_usage(response),
    }


def stream(request: ModelRequest, response: ModelResponse) -> bytes:
    """Return the response as server-sent events."""
    return events(_chunks(request, response), named=False) + b"data: [DONE]\n\n"


error = openai_error
error_event = openai_error_event
SIGN_OF_LIFE = COMMENT


def _chunks(request: ModelRequest, response: ModelResponse) -> Iterator[dict[str, Any]]:
    head = _head(request, response, "chat.completion.chunk")

    def chunk(number: int, delta: dict[str, Any], **more: Any) -> dict[str, Any]:
        choice = {"index": number, "delta": delta, "logprobs": None, "finish_reason": None, **more}
        return {**head, "choices": [choice]}

    for number, reply in enumerate(response.replies):
        first = {**_said(reply), "refusal": None}
        yield chunk(number, first, logprobs=_logprobs(request, response, number))
        calls = reply.message.get("tool_calls") or ()
        for index, made in enumerate(calls):
            yield chunk(number, {"tool_calls": [{"index": index, **made}]})
        yield chunk(number, {}, finish_reason=reply.finish)
    if request.usage_event:
        yield {**head, "choices": [], "usage": openai_usage(response)}


def _head(request: ModelRequest, response: ModelResponse, kind: str) -> dict[str, Any]:
    return {
        "id": f"chatcmpl-{response.id}",
        "object": kind,
        "created": response.created,
        "model": request.model,
    }


def _said(reply: Reply) -> dict[str, Any]:
    content = reply.message["content"]
    if not content and reply.message.get("tool_calls"):
        content = None
    thought = {"reasoning_content": reply.message[THOUGHT]} if THOUGHT in reply.message else {}
    return {"role": "assistant", "content": content, **thought}


def _logprobs(request: ModelRequest, response: ModelResponse, number: int) -> dict[str, Any] | None:
    return {"content": response.logprobs(number), "refusal": None} if request.logprobs else None
