"""The client of a model behind an OpenAI-compatible endpoint.

>>> endpoint = await EndpointClient.connect("http://localhost:8000/v1#my-model")
"""

from __future__ import annotations

import logging
import os
from typing import Any

import httpx
from tenacity import (
    AsyncRetrying,
    RetryCallState,
    before_sleep_log,
    retry_if_exception,
    stop_after_attempt,
    wait_exponential,
)

from areal.agents.interface import BadRequest, ConversationTooLong
from areal.errors import UserError

log = logging.getLogger(__name__)

_TRIES = 6
"""The pauses between them are 1, 2, 4, 8 and 16 seconds."""
_MAX_PAUSE = 60.0
"""Maximum pause in seconds, even if the endpoint's Retry-After asks for more."""


def is_endpoint(model: str) -> bool:
    """Return whether a model is given by the URL of an endpoint."""
    return model.startswith(("http://", "https://"))


class EndpointClient:
    """Sends requests to an OpenAI-compatible chat endpoint.

    A request that may succeed later (no connection, status 408, 409, 429, 500 and above) is sent again, after
    the pause in the endpoint's ``Retry-After``, or after a pause that doubles each time.

    Args:
        client: a client whose base URL is that of the endpoint (``…/v1/``).
    """

    def __init__(self, client: httpx.AsyncClient, model: str, tries: int = _TRIES) -> None:
        self._client = client
        self.model = model
        self._retrying = AsyncRetrying(
            retry=retry_if_exception(_may_pass),
            wait=_pause,
            stop=stop_after_attempt(tries),
            before_sleep=before_sleep_log(log, logging.WARNING),
            reraise=True,
        )

    @classmethod
    async def connect(cls, url: str, concurrency: int = 128, tries: int = _TRIES) -> EndpointClient:
        """Connect to an endpoint; if it needs a key, the key is in ``OPENAI_API_KEY``.

        Args:
            url: URL of the endpoint, such as ``http://localhost:8000/v1``, followed by ``#`` and the model's
                name unless it serves only one model.

        Raises:
            UserError: the endpoint does not answer, or serves several models and the URL names none.
        """
        base, _, model = url.partition("#")
        key = os.environ.get("OPENAI_API_KEY", "")
        endpoint = cls(
            httpx.AsyncClient(
                base_url=base.rstrip("/") + "/",
                headers={"Authorization": f"Bearer {key}"} if key else {},
                timeout=httpx.Timeout(None, connect=10.0),  # a response may take any time
                limits=httpx.Limits(max_connections=concurrency),
            ),
            model,
            tries,
        )
        if not model:
            try:
                endpoint.model = await endpoint._only_model(base)
            except BaseException:
                await endpoint.close()
                raise
        return endpoint

    async def _only_model(self, base: str) -> str:
        found = await self._request("GET", "models", None)
        names = [str(entry.get("id")) for entry in found.get("data") or []]
        if len(names) != 1:
            listed = ", ".join(names[:8]) or "none"
            raise UserError(f"{base} serves {len(names)} models; choose one with {base}#NAME ({listed})")
        return names[0]

    async def ask(self, body: dict[str, Any]) -> dict[str, Any]:
        """Return a chat completion of the endpoint.

        Raises:
            ConversationTooLong: the messages leave no room for a response.
            BadRequest: the endpoint refuses the request.
            UserError: there is no such model or no access to it, or the endpoint does not respond after all
                tries.
        """
        completion = await self._request("POST", "chat/completions", {"model": self.model, **body})
        if not completion.get("choices"):
            raise UserError(
                f"{self._client.base_url} answered without a message: {str(completion)[:300]}; check that "
                "it is an OpenAI-compatible endpoint"
            )
        return completion

    async def _request(self, method: str, path: str, body: dict[str, Any] | None) -> dict[str, Any]:
        try:
            response: httpx.Response = await self._retrying(self._send, method, path, body)
        except httpx.HTTPError as error:
            raise self._failure(error) from error
        return self._read(response)

    async def _send(self, method: str, path: str, body: dict[str, Any] | None) -> httpx.Response:
        response = await self._client.request(method, path, json=body)
        return response.raise_for_status()

    def _read(self, response: httpx.Response) -> dict[str, Any]:
        try:
            found = response.json()
        except ValueError:
            found = None
        if not isinstance(found, dict):
            text = " ".join(response.text[:100].split())
            raise UserError(
                f"{response.url} does not answer like an OpenAI-compatible endpoint ({text!r}); check the "
                "URL, which usually ends with /v1"
            )
        return found

    def _failure(self, error: httpx.HTTPError) -> Exception:
        if not isinstance(error, httpx.HTTPStatusError):
            return self._silent(f"{type(error).__name__} {error}".strip())
        status, text = error.response.status_code, error.response.text[:300]
        if _may_pass(error):
            return self._silent(f"status {status}: {text}")
        if "context_length_exceeded" in text or "maximum context length" in text:
            return ConversationTooLong(text)
        if status in (401, 403, 404):
            return UserError(
                f"{self._client.base_url} refuses '{self.model}' (status {status}: {text}); check the URL, "
                "the name of the model after #, and OPENAI_API_KEY"
            )
        return BadRequest(f"status {status}: {text}")

    def _silent(self, problem: str) -> UserError:
        return UserError(
            f"the endpoint {self._client.base_url} does not answer ({problem}); check that it is running"
        )

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()


def _may_pass(error: BaseException) -> bool:
    """Return whether a failed request may succeed later."""
    if isinstance(error, httpx.HTTPStatusError):
        status = error.response.status_code
        return status in (408, 409, 429) or status >= 500
    return isinstance(error, httpx.HTTPError)


_doubling = wait_exponential()


def _pause(state: RetryCallState) -> float:
    """Return the pause before the next try, in seconds."""
    error = state.outcome.exception() if state.outcome is not None else None
    wanted = error.response.headers.get("retry-after", "") if isinstance(error, httpx.HTTPStatusError) else ""
    return min(float(wanted), _MAX_PAUSE) if wanted.isdecimal() else _doubling(state)
