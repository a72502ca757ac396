"""Where the histories of an episode's calls part: the conversation that a new one goes on from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from areal.rollout.conversation import Conversation, Cut
from areal.rollout.messages import Key


@dataclass(slots=True)
class _Node:
    """A history: the responses that it ends with, and the messages that came next."""

    ends: list[tuple[Conversation, Cut]] = field(default_factory=list)
    next: dict[Key, _Node] = field(default_factory=dict)


class Histories:
    """The responses of an episode by what led up to them.

    A tree of messages: a call is looked up in as many steps as it has messages, however many calls there
    were before.
    """

    def __init__(self) -> None:
        self._root = _Node()

    def add(self, keys: Sequence[Key], talk: Conversation, cut: Cut) -> None:
        """Note a response of ``talk``; ``keys`` are those of its history, itself the last one."""
        node = self._root
        for key in keys:
            node = node.next.setdefault(key, _Node())
        node.ends.append((talk, cut))

    def find(self, keys: Sequence[Key]) -> tuple[Conversation, Cut] | None:
        """Return the last response in a history; where several are the same, one that can go on."""
        ends: list[tuple[Conversation, Cut]] = []
        node = self._root
        for key in keys:
            if key not in node.next:
                break
            node = node.next[key]
            ends = node.ends or ends
        return next((end for end in ends if end[0].goes_on_from(end[1])), ends[0] if ends else None)
