"""OpenAI's Completions: ``POST /v1/completions``, which continues a text without a chat template."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

from pydantic import Field

from areal.agents.interface import SamplingLimits
from areal.rollout.endpoint.fields import look_at_fields
from areal.rollout.endpoint.parsing import MAX_CHOICES, RequestForm, Seed, read
from areal.rollout.endpoint.stops import stop_strings
from areal.rollout.endpoint.wire import (
    COMMENT,
    ModelRequest,
    ModelResponse,
    Reading,
    events,
    openai_error,
    openai_error_event,
    openai_usage,
    unavailable,
)


class _Request(RequestForm):
    prompt: Any
    n: int | None = Field(None, ge=1, le=MAX_CHOICES)
    stop: str | list[str] | None = None
    max_tokens: int | None = Field(None, ge=1)
    seed: Seed | None = None
    logprobs: Literal[0, 1] | None = None
    stream_options: dict[str, Any] | None = None
    add_special_tokens: Literal[True] | None = None


def parse(body: bytes, reading: Reading) -> ModelRequest:
    """Read a request; see :class:`areal.rollout.endpoint.wire.WireFormat`."""
    request: _Request = read(_Request, body)
    look_at_fields(request.model_extra, reading)
    if request.tools:
        raise unavailable("tools: /v1/completions has no tools; use /v1/chat/completions")
    return ModelRequest(
        model=request.model,
        messages=[],
        prompt=_text(request.prompt),
        limits=SamplingLimits(
            max_tokens=request.max_tokens, stop=stop_strings(request.stop), seed=request.seed
        ),
        count=request.n or 1,
        logprobs=request.logprobs is not None,
        stream=bool(request.stream),
        usage_event=bool((request.stream_options or {}).get("include_usage")),
    )


def _text(given: Any) -> str:
    texts = given if isinstance(given, list) else [given]
    if len(texts) != 1 or not isinstance(texts[0], str):
        raise unavailable(
            "prompt: give one string; send a request for each of several prompts, and do not send token ids"
        )
    return texts[0]


def render(request: ModelRequest, response: ModelResponse) -> dict[str, Any]:
    """Return the response as one object."""
    choices = [
        _choice(number, reply.message["content"], reply.finish, _logprobs(request, response, number))
        for number, reply in enumerate(response.replies)
    ]
    return {**_head(request, response), "choices": choices, "usage": openai_usage(response)}


def stream(request: ModelRequest, response: ModelResponse) -> bytes:
    """Return the response as server-sent events."""
    return events(_chunks(request, response), named=False) + b"data: [DONE]\n\n"


error = openai_error
error_event = openai_error_event
SIGN_OF_LIFE = COMMENT


def _chunks(request: ModelRequest, response: ModelResponse) -> Iterator[dict[str, Any]]:
    head = _head(request, response)
    for number, reply in enumerate(response.replies):
        logprobs = _logprobs(request, response, number)
        yield {**head, "choices": [_choice(number, reply.message["content"], None, logprobs)]}
        yield {**head, "choices": [_choice(number, "", reply.finish, None)]}
    if request.usage_event:
        yield {**head, "choices": [], "usage": openai_usage(response)}


def _choice(number: int, text: str, finish: str | None, logprobs: dict[str, Any] | None) -> dict[str, Any]:
    return {"index": number, "text": text, "logprobs": logprobs, "finish_reason": finish}


def _head(request: ModelRequest, response: ModelResponse) -> dict[str, Any]:
    return {
        "id": f"cmpl-{response.id}",
        "object": "text_completion",
        "created": response.created,
        "model": request.model,
    }


def _logprobs(request: ModelRequest, response: ModelResponse, number: int) -> dict[str, Any] | None:
    """Return the log-probabilities of the sampled tokens; those of other tokens are not known."""
    if not request.logprobs:
        return None
    texts, offset, offsets = response.texts[number], len(request.prompt or ""), []
    for text in texts:
        offsets.append(offset)
        offset += len(text)
    return {
        "tokens": texts,
        "token_logprobs": response.replies[number].logprobs,
        "top_logprobs": None,
        "text_offset": offsets,
    }
