"""The routes: keys, sizes and forms of requests. This module imports the web framework, so import it late."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from pydantic import BaseModel, Field
from pydantic_core import to_json
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from areal.rollout.endpoint import chat, completions, messages, responses
from areal.rollout.endpoint.parsing import read
from areal.rollout.endpoint.refusals import Refusals
from areal.rollout.endpoint.session import Parse, Session
from areal.rollout.endpoint.slow import SlowResponse
from areal.rollout.endpoint.wire import CLIENT_GONE, Refusal, WireFormat

_PREFIXES = ("/v1", "/v1/v1")
"""Prefix of all paths, because Anthropic's clients append their own /v1 to any address."""
_WIRE_FORMATS: dict[str, WireFormat] = {
    "/chat/completions": chat,
    "/completions": completions,
    "/responses": responses,
    "/messages": messages,
}
_COUNTS: dict[str, Parse] = {
    "/messages/count_tokens": messages.parse_counted,
    "/responses/input_tokens": responses.parse_counted,
}
_MODEL = {"id": "areal", "object": "model", "created": 0, "owned_by": "areal", "type": "model"}
_MODEL |= {"display_name": "areal", "created_at": "1970-01-01T00:00:00Z"}
_MODELS = {"object": "list", "data": [_MODEL], "has_more": False, "first_id": "areal", "last_id": "areal"}
"""A list of models that clients of both vendors can read; calls may name any model."""

SessionOf = Callable[[str], Session | None]
"""Returns the session of a key, if the key is valid."""


class _Reward(BaseModel):
    reward: float = Field(allow_inf_nan=False)


def make_app(
    session_of: SessionOf, refusals: Refusals, max_request_bytes: int, sign_every: float
) -> Starlette:
    """Return the application; ``session_of`` finds the session of a key, and ``refusals`` records refusals.

    While a response takes longer than ``sign_every`` seconds, a keep-alive is sent at this interval.

    The application uses Starlette instead of FastAPI: the features that FastAPI adds (validation, errors, a
    description of the service) must have the forms of the vendors' protocols here.
    """

    async def reward(request: Request) -> Response:
        session = _session(request, session_of)
        given: _Reward = read(_Reward, await _body(request, max_request_bytes))
        session.reward = given.reward
        return _json(given.model_dump())

    async def models(request: Request) -> Response:
        _session(request, session_of)
        return _json(_MODELS)

    async def model(request: Request) -> Response:
        _session(request, session_of)
        return _json(_MODEL | {"id": request.path_params["id"]})

    async def kept(request: Request) -> Response:
        written = _session(request, session_of).kept(request.path_params["id"])
        return Response(written, media_type="application/json")

    def counts(parse: Parse) -> Callable[[Request], Any]:
        async def handle(request: Request) -> Response:
            session = _session(request, session_of)
            count, ignored = await session.count(parse, await _body(request, max_request_bytes))
            refusals.record_ignored(request.url.path, _agent(request), ignored)
            return _json({"object": "response.input_tokens", "input_tokens": count})

        return handle

    async def there(request: Request) -> Response:
        """Answer clients that check for a server before they have a key."""
        return Response()

    async def unknown(request: Request, error: Any) -> Response:
        known = ", ".join(f"/v1{path}" for path in (*_WIRE_FORMATS, "/models", "/reward"))
        path = f"{request.method} {request.url.path}"
        refusal = Refusal(error.status_code, f"{path}: {error.detail}; this endpoint has {known}")
        return await refused(request, refusal)

    async def refused(request: Request, error: Any, form: WireFormat | None = None) -> Response:
        """Respond with a Refusal, in the form of a protocol; None: the protocol of the client."""
        refusals.record(request.url.path, _agent(request), error)
        form = form or (messages if "anthropic-version" in request.headers else chat)
        return _refused(error, form.error(error))

    def calls(wire: WireFormat) -> Callable[[Request], Any]:
        async def handle(request: Request) -> Response:
            try:
                session = _session(request, session_of)
            except Refusal as refusal:
                return await refused(request, refusal, wire)
            session.account.asked += 1
            try:
                return await answered(request, session)
            except Refusal as refusal:
                session.refused(refusal)
                return await refused(request, refusal, wire)

        async def answered(request: Request, session: Session) -> Response:
            body = await _body(request, max_request_bytes)
            retried = request.headers.get("x-stainless-retry-count", "0") != "0"
            asked, ignored = await session.read(wire, body)
            refusals.record_ignored(request.url.path, _agent(request), ignored)
            answering = asyncio.create_task(session.serve(wire, asked, body, retried, request.receive))
            try:
                await asyncio.wait({answering}, timeout=sign_every)
            except asyncio.CancelledError:
                answering.cancel()
                raise
            if answering.done():
                media_type = "text/event-stream" if asked.stream else "application/json"
                return Response(answering.result(), media_type=media_type)

            def note(refusal: Refusal) -> None:
                session.refused(refusal)
                refusals.record(request.url.path, _agent(request), refusal)

            return SlowResponse(answering, wire if asked.stream else None, sign_every, note)

        return handle

    posted = {path: calls(wire) for path, wire in _WIRE_FORMATS.items()} | {"/reward": reward}
    posted |= {path: counts(parse) for path, parse in _COUNTS.items()}
    got = {"/models": models, "/models/{id:path}": model, "/responses/{id}": kept}
    return Starlette(
        routes=[
            Route(prefix + path, handle, methods=[method])
            for prefix in _PREFIXES
            for method, paths in (("POST", posted), ("GET", got))
            for path, handle in paths.items()
        ]
        + [Route(path, there, methods=["GET"]) for path in ("/", "/health")],
        exception_handlers={HTTPException: unknown, Refusal: refused},
    )


def _agent(request: Request) -> str:
    return request.headers.get("user-agent", "") or "an unnamed client"


def _session(request: Request, session_of: SessionOf) -> Session:
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    bearer = token.strip() if scheme.lower() == "bearer" else ""
    # A program may also send its own key, from its environment.
    for key in (request.headers.get("x-api-key", ""), bearer):
        if (session := session_of(key)) is not None:
            return session
    raise Refusal(
        401,
        "the key is unknown, or its episode has ended; send the key of the episode as 'Authorization: "
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
        raise Refusal(CLIENT_GONE, "the client has disconnected") from None
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
