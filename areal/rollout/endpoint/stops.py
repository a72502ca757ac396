"""Stop strings of single calls: the program does not see them, the model did say them.

A response that a stop string ended is given out without it. When the program sends it back, the words that
were sampled stand in its place: there, and nowhere else, however alike what is said elsewhere may be.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from hashlib import blake2b

from areal.agents.interface import Message, Reply
from areal.rollout.endpoint.call import Call, Refusal
from areal.rollout.messages import key, normal


def stop_strings(stop: str | list[str] | None) -> tuple[str, ...]:
    """Read stop strings.

    Raises:
        Refusal: an empty one.
    """
    found = (stop,) if isinstance(stop, str) else tuple(stop or ())
    if "" in found:
        raise Refusal(400, "stop: an empty string would end every response at once; leave it out")
    return found


def stop_place(call: Call, reply: Reply) -> tuple[int, str] | None:
    """Where in a reply the first of the call's own stop strings begins, and which it is, if one is there."""
    if reply.finish != "stop":
        return None
    found = [(place, text) for text in call.limits.stop if (place := reply.text.find(text)) >= 0]
    return min(found, default=None)


class CutReplies:
    """The responses of an episode that a stop string ended, by the histories that they end."""

    def __init__(self) -> None:
        self._whole: dict[tuple[bytes, bytes], str] = {}

    def cut(self, call: Call, messages: Sequence[Message], reply: Reply) -> Reply:
        """Return a response as the program sees it; ``messages``, as sampled, are its history."""
        found = stop_place(call, reply)
        if found is None and not self._whole:
            return reply
        shown = (
            reply if found is None else replace(reply, message=_with(reply.message, reply.text[: found[0]]))
        )
        place = b""
        for message in messages:
            place = _digest(place, message)
        where = place, _digest(b"", shown.message)
        if found is None:  # the same words at the same place: the later response is meant
            self._whole.pop(where, None)
        else:
            self._whole[where] = reply.text
        return shown

    def restore(self, messages: Sequence[Message]) -> list[Message]:
        """Return a history with its responses as they were sampled."""
        if not self._whole:
            return list(messages)
        restored: list[Message] = []
        place = b""
        for message in messages:
            if message["role"] == "assistant":
                whole = self._whole.get((place, _digest(b"", message)))
                message = message if whole is None else _with(message, whole)
            place = _digest(place, message)
            restored.append(message)
        return restored


def _with(message: Message, content: str) -> Message:
    return {**message, "content": content}


def _digest(before: bytes, message: Message) -> bytes:
    """The place of a message behind others."""
    return blake2b(before + repr(key(normal(message))).encode(), digest_size=16).digest()
