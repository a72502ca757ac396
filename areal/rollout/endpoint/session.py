"""One episode on the endpoint: the calls with its key, those in flight, and their responses."""

from __future__ import annotations

import asyncio
import hashlib
import time
import uuid
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

from pydantic_core import to_json

from areal.agents.interface import (
    Account,
    BadRequest,
    ConversationTooLong,
    Message,
    Reply,
    Settings,
)
from areal.rollout.endpoint.shown import ShownReplies
from areal.rollout.endpoint.wire import (
    CLIENT_GONE,
    ModelRequest,
    ModelResponse,
    Reading,
    Refusal,
    ServedModel,
    WireFormat,
)
from areal.rollout.engine import GenerationAborted
from areal.rollout.seeds import derive

_TOO_LONG, _SPENT = _EXHAUSTED = "context_length_exceeded", "insufficient_quota"
"""OpenAI's terms for an exhausted quota."""
_PICTURE = b"image"
"""Text that every part with an image contains, in all protocols."""

Parse = Callable[[bytes, Reading], ModelRequest]
"""Reads the body of a request."""
Texts = Callable[[list[int]], list[str]]
"""Returns the text of each token."""


class Session:
    """Responds to the calls of one episode until it is closed.

    An SDK that lost a response in transit calls again and says so (``retried``). It receives the recorded
    response: with a second sample, the first would be trained on although the program never saw it.

    Args:
        texts: returns the texts of tokens, for calls that request log-probabilities.
        max_completions: maximum number of samples; further calls are refused permanently.
        settings: how to treat requests for a distribution other than that of the run.
        max_sampling: maximum number of concurrent samples; more wait, so that no program monopolizes the
            engine.
        max_in_flight: maximum number of concurrent calls; more are refused, and may be repeated later.

    Attributes:
        reward: the reward that the program has set for the episode; the last one counts.
        failure: the first error that is neither the program's fault nor temporary; the episode fails with it.
    """

    def __init__(
        self,
        model: ServedModel,
        texts: Texts,
        temperature: float,
        max_completions: int,
        settings: Settings = "ignore",
        max_sampling: int = 64,
        max_in_flight: int = 1024,
    ) -> None:
        self.reward: float | None = None
        self.failure: BaseException | None = None
        self.account = Account()
        self._over: Refusal | None = None
        self._model = model
        self._texts = texts
        self._temperature = temperature
        self._left = max_completions
        self._settings = settings
        self._max_in_flight = max_in_flight
        self._slots = asyncio.Semaphore(max_sampling)
        self._in_flight: set[asyncio.Task[bytes]] = set()
        self._sent: dict[tuple[WireFormat, bytes], bytes] = {}
        self._unanswered: Counter[tuple[WireFormat, bytes]] = Counter()
        self._responses: dict[str, list[Message]] = {}
        self._kept: dict[str, bytes] = {}
        self._items: dict[str, dict[str, Any]] = {}
        self._shown = ShownReplies()

    async def read(self, wire: WireFormat, body: bytes) -> tuple[ModelRequest, list[str]]:
        """Return a request, and its ignored settings, each as NAME=VALUE.

        Raises:
            Refusal: the request is invalid, or something in it is refused.
        """
        reading = self._reading()
        return await self._parsed(wire.parse, body, reading), reading.ignored

    async def count(self, parse: Parse, body: bytes) -> tuple[int, list[str]]:
        """Return the number of tokens of a request's prompt, and the ignored settings, as :meth:`read` does.

        Raises:
            Refusal: the request is invalid, or something in it is refused.
        """
        reading = self._reading()
        request = await self._parsed(parse, body, reading)
        try:
            messages, _ = self._history(request)
            return self._model.count_tokens(messages, tools=request.tools), reading.ignored
        except BadRequest as error:
            raise Refusal(400, str(error)) from error

    def kept(self, response: str) -> bytes:
        """Return a response of OpenAI's Responses as JSON, by its id; raises Refusal if it does not exist."""
        if response not in self._kept:
            raise Refusal(404, f"the response {response!r} does not belong to this episode")
        return self._kept[response]

    async def _parsed(self, parse: Parse, body: bytes, reading: Reading) -> ModelRequest:
        """Read a request; on a thread if it has images, so that the calls of other episodes continue."""
        if _PICTURE in body:
            return await asyncio.to_thread(parse, body, reading)
        return parse(body, reading)

    def _reading(self) -> Reading:
        return Reading(self._temperature, self._settings == "ignore", self._items)

    async def serve(
        self,
        wire: WireFormat,
        request: ModelRequest,
        body: bytes,
        retried: bool,
        gone: Callable[[], Awaitable[Any]],
    ) -> bytes:
        """Return the response to a request, in the form in which it is sent.

        Args:
            body: the body that was read as ``request``.
            retried: whether the SDK says that it repeats the call.
            gone: returns when the client has disconnected; the call is then cancelled.

        Raises:
            Refusal: the call is refused.
        """
        same = wire, hashlib.blake2b(body).digest()
        if retried:
            if same in self._sent and self._unanswered[same] <= 0:
                return self._sent[same]
            # The retry may arrive before we know that the client has abandoned the first call.
            self._unanswered[same] -= 1
        try:
            self._sent[same] = await self._until(self._respond(wire, request), gone)
        except BaseException:
            self._unanswered[same] += 1
            raise
        return self._sent[same]

    def refused(self, refusal: Refusal) -> None:
        """Record that a call is refused, if it is refused for good."""
        if not refusal.is_final:
            return
        account = self.account
        account.refused += 1
        account.refusal = account.refusal or refusal.message
        if refusal.by_program:
            account.unavailable = account.unavailable or refusal.message
        if refusal.code in _EXHAUSTED:
            account.exhausted = account.exhausted or refusal.message

    async def close(self, abandoned: bool = False) -> None:
        """Cancel the calls in flight; nothing is recorded afterwards.

        Args:
            abandoned: whether the program was cancelled or killed, so that its calls in flight are nobody's
                fault.
        """
        self._over = Refusal(CLIENT_GONE if abandoned else 401, "the episode of this key has ended")
        for task in self._in_flight:
            task.cancel()
        if self._in_flight:
            await asyncio.wait(self._in_flight)

    async def _until(self, work: Any, gone: Callable[[], Awaitable[Any]]) -> bytes:
        """Do the work, unless the client disconnects or the episode ends; then nothing is recorded."""
        if self._over or len(self._in_flight) >= self._max_in_flight:
            work.close()
            raise self._over or self._flooded()
        task = asyncio.create_task(work)
        watch = asyncio.ensure_future(gone())
        self._in_flight.add(task)
        try:
            await asyncio.wait({task, watch}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            watch.cancel()
            if not task.done():
                task.cancel()
                await asyncio.wait({task})
            self._in_flight.discard(task)
        if task.cancelled():
            raise self._over or Refusal(CLIENT_GONE, "the client has disconnected")
        error = task.exception()
        if error is None:
            return task.result()
        raise self._refusal(error)

    def _flooded(self) -> Refusal:
        text = f"{self._max_in_flight} requests of this episode are in flight; try again"
        return Refusal(429, text, retry=True)

    def _refusal(self, error: BaseException) -> Refusal:
        if isinstance(error, Refusal):
            return error
        if isinstance(error, BadRequest):
            return Refusal(400, str(error))
        if isinstance(error, ConversationTooLong):
            # Clients of both vendors recognize it by these words, and by "maximum context length" in the
            # message.
            return Refusal(400, f"prompt is too long: {error}", _TOO_LONG)
        if isinstance(error, GenerationAborted):
            self.account.aborted += 1
            return Refusal(503, f"{error}; try again", retry=True)
        self.failure = self.failure or error
        return Refusal(500, f"the request failed with {error!r}, and so did the episode")

    async def _respond(self, wire: WireFormat, request: ModelRequest) -> bytes:
        if request.count > self._left:
            raise Refusal(429, "this episode has used all of its completions", _SPENT)
        messages, conversation = self._history(request)
        self._left -= request.count
        try:
            replies = await self._replies(messages, request)
        except BaseException:
            self._left += request.count
            raise
        self.account.completions += request.count
        response = ModelResponse(uuid.uuid4().hex, int(time.time()), replies)
        if request.logprobs:
            response = replace(response, texts=[self._texts(reply.ids) for reply in replies])
        response = replace(
            response, replies=[self._shown.show(request, messages, reply) for reply in replies]
        )
        rendered = wire.render(request, response)
        written = to_json(rendered)
        if rendered.get("object") == "response":  # programs may refer to it and to its items by id
            self._responses[rendered["id"]] = [*conversation, replies[0].message]
            self._kept[rendered["id"]] = written
            self._items |= {item["id"]: item for item in rendered["output"]}
        return wire.stream(request, response) if request.stream else written

    async def _replies(self, messages: list[Message], request: ModelRequest) -> list[Reply]:
        if request.count == 1:
            return [await self._reply(messages, request)]
        replies = [asyncio.ensure_future(self._reply(messages, request, i)) for i in range(request.count)]
        try:
            return await asyncio.gather(*replies)
        finally:
            for reply in replies:
                reply.cancel()
            await asyncio.wait(replies)

    async def _reply(self, messages: list[Message], request: ModelRequest, number: int = 0) -> Reply:
        limits = request.limits
        if limits.seed is not None and number > 0:  # with the same seed, all completions would be equal
            limits = replace(limits, seed=derive(limits.seed, number))
        async with self._slots:
            if request.prompt is not None:
                return await self._model.complete(request.prompt, limits=limits)
            return await self._model.chat(messages, tools=request.tools, limits=limits)

    def _history(self, request: ModelRequest) -> tuple[list[Message], list[Message]]:
        """Return all messages, with responses as they were sampled, and only those of the conversation.

        Leading system messages are joined, because chat templates expect one. OpenAI's instructions are among
        them, but only apply to one response.
        """
        earlier: list[Message] = []
        if request.previous is not None:
            if request.previous not in self._responses:
                raise Refusal(
                    400, f"previous_response_id={request.previous!r} does not belong to this episode"
                )
            earlier = self._responses[request.previous]
        given = [*earlier, *request.messages]
        begin = next((i for i, message in enumerate(given) if message["role"] != "system"), len(given))
        leading = [message["content"] for message in given[:begin]]
        if request.system is not None:
            leading.insert(0, request.system)
        system: list[Message] = [{"role": "system", "content": "\n\n".join(leading)}] if leading else []
        messages = self._shown.restore([*system, *given[begin:]])
        return messages, [*given[:begin], *messages[len(system) :]]
