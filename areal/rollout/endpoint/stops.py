"""Stop strings of single calls: the model samples them, and the program does not see them.

A response that a stop string ended is given out without it. When the program sends it back, the words that
were sampled stand in its place: there, and nowhere else, however alike what is said elsewhere may be.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from hashlib import blake2b

from areal.agents.interface import Message, Reply
from areal.rollout.endpoint.wire import ModelRequest, Refusal
from areal.rollout.messages import key, normal


def stop_strings(stop: str | list[str] | None) -> tuple[str, ...]:
    """Read stop strings; an empty one is refused."""
    found = (stop,) if isinstance(stop, str) else tuple(stop or ())
    if "" in found:
        raise Refusal(400, "stop: an empty string would end every response at once; leave it out")
    return found


def stop_position(request: ModelRequest, reply: Reply) -> tuple[int, str] | None:
    """Return where the first of the request's own stop strings begins in a reply, and which it is, if any."""
    if reply.finish != "stop":
        return None
    found = [(position, text) for text in request.limits.stop if (position := reply.text.find(text)) >= 0]
    return min(found, default=None)


class CutReplies:
    """The responses of an episode that a stop string ended, by the histories that they end."""

    def __init__(self) -> None:
        self._whole: dict[tuple[bytes, bytes], str] = {}

    def cut(self, request: ModelRequest, messages: Sequence[Message], reply: Reply) -> Reply:
        """Return a response as the program sees it; ``messages``, as sampled, are its history."""
        found = stop_position(request, reply)
        if found is None and not self._whole:
            return reply
        shown = (
            reply if found is None else replace(reply, message=_with(reply.message, reply.text[: found[0]]))
        )
        prefix = b""
        for message in messages:
            prefix = _digest(prefix, message)
        place = prefix, _digest(b"", shown.message)
        if found is None:  # the same words after the same history: the later response is meant
            self._whole.pop(place, None)
        else:
            self._whole[place] = reply.text
        return shown

    def restore(self, messages: Sequence[Message]) -> list[Message]:
        """Return a history with its responses as they were sampled."""
        if not self._whole:
            return list(messages)
        restored: list[Message] = []
        prefix = b""
        for message in messages:
            if message["role"] == "assistant":
                whole = self._whole.get((prefix, _digest(b"", message)))
                message = message if whole is None else _with(message, whole)
            prefix = _digest(prefix, message)
            restored.append(message)
        return restored


def _with(message: Message, content: str) -> Message:
    return {**message, "content": content}


def _digest(before: bytes, message: Message) -> bytes:
    """Return a digest of a message and of all before it."""
    return blake2b(before + repr(key(normal(message))).encode(), digest_size=16).digest()
