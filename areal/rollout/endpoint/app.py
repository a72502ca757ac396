"""The routes: keys, sizes and forms of requests. It imports the web framework, so it is imported late."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pydantic import BaseModel, Field
from pydantic_core import to_json
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from areal.rollout.endpoint import chat, messages, responses
from areal.rollout.endpoint.parsing import read
from areal.rollout.endpoint.refusals import Refusals
from areal.rollout.endpoint.session import Session
from areal.rollout.endpoint.wire import Refusal, WireFormat, openai_error

_WIRE_FORMATS: dict[str, WireFormat] = {
    "/v1/chat/completions": chat,
    "/v1/responses": responses,
    "/v1/messages": messages,
    "/v1/v1/messages": messages,  # Anthropic's clients put a /v1 of their own behind any address
}
_MODEL = {"id": "areal", "object": "model", "created": 0, "owned_by": "areal", "type": "model"}
_MODEL |= {"display_name": "areal", "created_at": "1970-01-01T00:00:00Z"}
_MODELS = {"object": "list", "data": [_MODEL], "has_more": False, "first_id": "areal", "last_id": "areal"}
"""One list that clients of both vendors can read; calls may name any model."""

SessionOf = Callable[[str], Session | None]
"""The session of a key, if the key is good."""


class _Reward(BaseModel):
    reward: float = Field(allow_inf_nan=False)


def make_app(session_of: SessionOf, refusals: Refusals, max_request_bytes: int) -> Starlette:
    """Return the application; ``session_of`` finds a key's session, ``refusals`` records what is refused.

    Starlette, and not FastAPI on top of it: what that adds (validation, errors, a description of the service)
    has here the forms of the vendors' protocols.
    """

    async def reward(request: Request) -> Response:
        try:
            session = _session(request, session_of)
            given: _Reward = read(_Reward, await _body(request, max_request_bytes))
        except Refusal as refusal:
            return refused(request, refusal, openai_error(refusal))
        session.reward = given.reward
        return _json(given.model_dump())

    async def models(request: Request) -> Response:
        try:
            _session(request, session_of)
        except Refusal as refusal:
            return refused(request, refusal, openai_error(refusal))
        return _json(_MODELS)

    async def unknown(request: Request, error: Any) -> Response:
        known = ", ".join([*list(_WIRE_FORMATS)[:3], "/v1/models", "/v1/reward"])
        path = f"{request.method} {request.url.path}"
        refusal = Refusal(error.status_code, f"{path}: {error.detail}; this endpoint has {known}")
        return refused(request, refusal, openai_error(refusal))

    def refused(request: Request, refusal: Refusal, content: dict[str, Any]) -> Response:
        refusals.record(request.url.path, _agent(request), refusal)
        return _refused(refusal, content)

    def calls(wire: WireFormat) -> Callable[[Request], Any]:
        async def handle(request: Request) -> Response:
            session: Session | None = None
            try:
                session = _session(request, session_of)
                session.account.asked += 1
                body = await _body(request, max_request_bytes)
                retried = request.headers.get("x-stainless-retry-count", "0") != "0"
                asked, ignored = session.read(wire, body)
                refusals.record_ignored(request.url.path, _agent(request), ignored)
                content = await session.serve(wire, asked, body, retried, request.receive)
            except Refusal as refusal:
                if session is not None:
                    session.refused(refusal)
                return refused(request, refusal, wire.error(refusal))
            return Response(content, media_type="text/event-stream" if asked.stream else "application/json")

        return handle

    return Starlette(
        routes=[
            *(Route(path, calls(wire), methods=["POST"]) for path, wire in _WIRE_FORMATS.items()),
            Route("/v1/reward", reward, methods=["POST"]),
            Route("/v1/models", models, methods=["GET"]),
        ],
        exception_handlers={HTTPException: unknown},
    )


def _agent(request: Request) -> str:
    return request.headers.get("user-agent", "") or "a client without a name"


def _session(request: Request, session_of: SessionOf) -> Session:
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    bearer = token.strip() if scheme.lower() == "bearer" else ""
    # A program may send a key of its own besides, from its environment.
    for key in (request.headers.get("x-api-key", ""), bearer):
        if (session := session_of(key)) is not None:
            return session
    raise Refusal(
        401,
        "no such key, or its episode is over; send the key that the episode was given as 'Authorization: "
        "Bearer KEY' or 'x-api-key: KEY'",
        "invalid_api_key",
    )


async def _body(request: Request, max_bytes: int) -> bytes:
    too_large = Refusal(413, f"the request is larger than {max_bytes} bytes")
    if int(request.headers.get("content-length", "0")) > max_bytes:
        raise too_large
    body = bytearray()
    try:
        async for part in request.stream():
            body += part
            if len(body) > max_bytes:
                raise too_large
    except ClientDisconnect:
        raise Refusal(499, "the client is gone") from None
    return bytes(body)


def _json(content: dict[str, Any]) -> Response:
    return Response(to_json(content), media_type="application/json")


def _refused(refusal: Refusal, content: dict[str, Any]) -> Response:
    response = _json(content)
    response.status_code = refusal.status
    if refusal.retry:
        response.headers["retry-after"] = "1"
    elif refusal.status >= 429:
        response.headers["x-should-retry"] = "false"
    return response
