"""Maps responses as programs see them to the sampled responses, for when programs send them back.

A program sees a response without its thought, which is sent separately, and without the stop string that
ended it. If the program sends the response back, the sampled text replaces it in that place, and nowhere
else, even if other messages look similar. A response with tool calls is recognized by the ids of its calls,
so it is restored at any place, even if the program drops the text beside the calls.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from hashlib import blake2b

from areal.agents.interface import Message, Reply
from areal.rollout.endpoint.stops import stop_position
from areal.rollout.endpoint.wire import ModelRequest
from areal.rollout.messages import key, normal
from areal.thoughts import split_thought

THOUGHT = "thought"
"""Key of the thought of a message, if it is separate from the content."""


class ShownReplies:
    """The sampled responses of an episode, by what programs send back."""

    def __init__(self) -> None:
        # By the earlier history and the message as shown; for each, by its thought, the latest last.
        self._at: dict[tuple[bytes, bytes], dict[str, str]] = {}
        # By the ids of their calls: the message as shown, and the sampled content.
        self._calling: dict[tuple[str, ...], tuple[Message, str]] = {}

    def show(self, request: ModelRequest, messages: Sequence[Message], reply: Reply) -> Reply:
        """Return a response as the program sees it; ``messages`` is its history, as sampled."""
        whole = reply.message["content"]
        stop = stop_position(request, reply)
        content = whole if stop is None else whole[: stop[0]]
        thought, words = split_thought(content, min(reply.thought, len(content)))
        shown: Message = {**reply.message, "content": words}
        if request.prompt is not None:  # text that is sent back is text like any other
            return replace(reply, message=shown)
        if ids := _call_ids(shown):
            self._calling[ids] = shown, whole
        if words != whole or self._at:
            prefix = b""
            for message in messages:
                prefix = _digest(prefix, message)
            alike = self._at.setdefault((prefix, _digest(b"", shown)), {})
            alike.pop(thought, None)  # the same text after the same history refers to the later response
            alike[thought] = whole
        return replace(reply, message={**shown, **({THOUGHT: thought} if thought else {})})

    def restore(self, messages: Sequence[Message]) -> list[Message]:
        """Return a history with its responses as sampled."""
        restored: list[Message] = []
        prefix = b""
        for given in messages:
            message = {name: value for name, value in given.items() if name != THOUGHT}
            if message["role"] == "assistant":
                whole = self._whole(message, given.get(THOUGHT, ""), prefix)
                message = message if whole is None else {**message, "content": whole}
            if self._at:
                prefix = _digest(prefix, message)
            restored.append(message)
        return restored

    def _whole(self, message: Message, thought: str, prefix: bytes) -> str | None:
        shown, whole = self._calling.get(_call_ids(message), (None, ""))
        if shown is not None:
            (_, words, calls, _), (_, shown_words, shown_calls, _) = key(normal(message)), key(normal(shown))
            if calls == shown_calls and words in ("", shown_words):
                return whole
        alike = self._at.get((prefix, _digest(b"", message))) if self._at else None
        return None if alike is None else alike.get(thought, list(alike.values())[-1])


def _call_ids(message: Message) -> tuple[str, ...]:
    return tuple(str(call.get("id")) for call in message.get("tool_calls") or ())


def _digest(before: bytes, message: Message) -> bytes:
    """Return a digest of a message and of all earlier ones."""
    return blake2b(before + repr(key(normal(message))).encode(), digest_size=16).digest()
