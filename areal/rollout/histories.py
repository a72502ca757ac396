"""Finds the conversation that a new call continues, from the histories of an episode's calls."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from areal.rollout.conversation import Conversation, TurnEnd
from areal.rollout.messages import Key


@dataclass(slots=True)
class _Node:
    """A history: the turns that end with it, and the messages that followed."""

    turns: list[tuple[Conversation, TurnEnd]] = field(default_factory=list)
    next: dict[Key, _Node] = field(default_factory=dict)


class Histories:
    """The responses of an episode, by the messages before them.

    It is a tree of messages: a lookup takes as many steps as the call has messages, regardless of the number
    of earlier calls.
    """

    def __init__(self) -> None:
        self._root = _Node()

    def add(self, keys: Sequence[Key], conversation: Conversation, end: TurnEnd) -> None:
        """Add a turn of a conversation; ``keys`` are those of its history, with the response last."""
        node = self._root
        for key in keys:
            node = node.next.setdefault(key, _Node())
        node.turns.append((conversation, end))

    def find(self, keys: Sequence[Key]) -> tuple[Conversation, TurnEnd] | None:
        """Return the last turn in a history; of several equal ones, one that can be continued."""
        turns: list[tuple[Conversation, TurnEnd]] = []
        node = self._root
        for key in keys:
            if key not in node.next:
                break
            node = node.next[key]
            turns = node.turns or turns
        return next((turn for turn in turns if turn[0].continues_from(turn[1])), turns[0] if turns else None)


class Texts:
    """The responses of an episode to texts, each by the text that ends with it."""

    def __init__(self) -> None:
        self._turns: list[tuple[str, Conversation, TurnEnd]] = []

    def add(self, text: str, conversation: Conversation, end: TurnEnd) -> None:
        """Add a turn of a conversation; ``text`` is the prompt with the response."""
        self._turns.append((text, conversation, end))

    def find(self, text: str) -> tuple[int, Conversation, TurnEnd] | None:
        """Return the longest text that this one continues; of several equal ones, one that can be continued.

        Returns:
            Its number of characters, and the turn at its end.
        """
        begun = [turn for turn in self._turns if text.startswith(turn[0])]
        if not begun:
            return None
        known, conversation, end = max(
            begun, key=lambda turn: (len(turn[0]), turn[1].continues_from(turn[2]))
        )
        return len(known), conversation, end
