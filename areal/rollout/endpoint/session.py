"""One episode on the endpoint: the calls that its key made, those under way, and what they were answered."""

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

from areal.agents.interface import BadRequest, ConversationTooLong, Message, Model, Reply
from areal.rollout.endpoint.call import Answer, Call, Refusal, Wire, stop_place
from areal.rollout.recorder import GenerationAborted

SAMPLED_AT_ONCE = 64
"""Answers that one episode samples at once; more wait, so that no program takes the engine for itself."""
WAITING = 1024
"""Calls of one episode that may be under way; more are refused, and may come again."""

Texts = Callable[[list[int]], list[str]]
"""The text of each token."""


class Session:
    """Answers the calls of one episode until it is closed.

    An SDK that lost an answer on the way asks again and says so (``retried``). It gets the answer that was
    recorded: sampled again, the first would be a trajectory that led nowhere and is trained on all the same.

    Args:
        model: the episode's recorder.
        texts: of tokens, for calls that want log-probabilities.
        temperature: of the run.
        most_answers: so many are sampled; then calls are refused for good.

    Attributes:
        reward: what the program said that the episode is worth; the last word counts.
        failure: the first error that was neither the program's nor passes by: the episode failed of it.
    """

    def __init__(self, model: Model, texts: Texts, temperature: float, most_answers: int) -> None:
        self.reward: float | None = None
        self.failure: BaseException | None = None
        self._over = False
        self._model = model
        self._texts = texts
        self._temperature = temperature
        self._left = most_answers
        self._slots = asyncio.Semaphore(SAMPLED_AT_ONCE)
        self._under_way: set[asyncio.Task[bytes]] = set()
        self._sent: dict[tuple[Wire, bytes], bytes] = {}
        self._unanswered: Counter[tuple[Wire, bytes]] = Counter()
        self._responses: dict[str, list[Message]] = {}
        self._whole: dict[str, str] = {}

    async def serve(
        self, wire: Wire, body: bytes, retried: bool, gone: Callable[[], Awaitable[Any]]
    ) -> tuple[bytes, bool]:
        """Answer one request.

        Args:
            wire: its protocol.
            body: of the request.
            retried: whether the SDK says that it makes the call once more.
            gone: returns when the client is no longer there; the call is then given up.

        Returns:
            The body of the answer, and whether it is a stream of events.

        Raises:
            Refusal: there is no answer.
        """
        call = wire.parse(body, self._temperature)
        same = wire, hashlib.blake2b(body).digest()
        if retried:
            if same in self._sent and self._unanswered[same] <= 0:
                return self._sent[same], call.stream
            # It may come before we know that the client gave up the first.
            self._unanswered[same] -= 1
        try:
            self._sent[same] = await self._until(self._answer(wire, call), gone)
        except BaseException:
            self._unanswered[same] += 1
            raise
        return self._sent[same], call.stream

    async def close(self) -> None:
        """Give up the calls under way; the recorder is let alone from here on."""
        self._over = True
        for task in self._under_way:
            task.cancel()
        if self._under_way:
            await asyncio.wait(self._under_way)

    async def _until(self, work: Any, gone: Callable[[], Awaitable[Any]]) -> bytes:
        """Do the work, unless the client goes or the episode ends; what is given up leaves nothing."""
        if self._over or len(self._under_way) >= WAITING:
            work.close()
            raise _over() if self._over else _flooded()
        task = asyncio.create_task(work)
        watch = asyncio.ensure_future(gone())
        self._under_way.add(task)
        try:
            await asyncio.wait({task, watch}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            watch.cancel()
            if not task.done():
                task.cancel()
                await asyncio.wait({task})
            self._under_way.discard(task)
        if task.cancelled():
            raise _over()
        error = task.exception()
        if error is None:
            return task.result()
        raise self._refusal(error)

    def _refusal(self, error: BaseException) -> Refusal:
        if isinstance(error, Refusal):
            return error
        if isinstance(error, BadRequest):
            return Refusal(400, str(error))
        if isinstance(error, ConversationTooLong):
            return Refusal(400, str(error), "context_length_exceeded")
        if isinstance(error, GenerationAborted):
            return Refusal(503, f"{error}; call again", retry=True)
        self.failure = self.failure or error
        return Refusal(500, f"the call failed of {error!r}, and so has the episode")

    async def _answer(self, wire: Wire, call: Call) -> bytes:
        if call.count > self._left:
            raise Refusal(429, "this episode has had all the answers that it may have", "insufficient_quota")
        self._left -= call.count
        messages = self._history(call)
        try:
            replies = await self._replies(messages, call)
        except BaseException:
            self._left += call.count
            raise
        answer = Answer(uuid.uuid4().hex, int(time.time()), replies)
        if call.logprobs:
            answer = replace(answer, texts=[self._texts(reply.ids) for reply in replies])
        talk = messages[call.system is not None :]  # instructions are for one response (OpenAI)
        self._responses[f"resp_{answer.id}"] = [*talk, replies[0].message]
        return wire.stream(call, answer) if call.stream else to_json(wire.render(call, answer))

    async def _replies(self, messages: list[Message], call: Call) -> list[Reply]:
        if call.count == 1:
            return [await self._reply(messages, call)]
        replies = [asyncio.ensure_future(self._reply(messages, call)) for _ in range(call.count)]
        try:
            return await asyncio.gather(*replies)
        finally:
            for reply in replies:
                reply.cancel()
            await asyncio.wait(replies)

    async def _reply(self, messages: list[Message], call: Call) -> Reply:
        async with self._slots:
            reply = await self._model.chat(messages, tools=call.tools, limits=call.limits)
        place = stop_place(call, reply)
        if place is None:
            return reply
        shown = reply.text[: place[0]]
        self._whole[shown] = reply.text
        return replace(reply, message={**reply.message, "content": shown})

    def _history(self, call: Call) -> list[Message]:
        """The whole conversation, with answers as the model gave them."""
        earlier: list[Message] = []
        if call.previous is not None:
            if call.previous not in self._responses:
                raise Refusal(400, f"previous_response_id={call.previous!r} is none of this episode's")
            earlier = self._responses[call.previous]
        system: list[Message] = [] if call.system is None else [{"role": "system", "content": call.system}]
        return [*system, *map(self._as_sampled, [*earlier, *call.messages])]

    def _as_sampled(self, message: Message) -> Message:
        """A program sees an answer without the string that stopped it; the model did say that string."""
        whole = self._whole.get(message["content"]) if message["role"] == "assistant" else None
        return message if whole is None else {**message, "content": whole}


def _over() -> Refusal:
    return Refusal(401, "the episode of this key is over")


def _flooded() -> Refusal:
    return Refusal(429, f"{WAITING} calls of this episode are under way; call again", retry=True)
