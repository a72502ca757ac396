"""The opening of a conversation: messages of the problem and of the run's settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from areal.agents.interface import Content, Message


@dataclass(frozen=True, slots=True)
class Opening:
    """The opening of every conversation of a run.

    Attributes:
        system: a system message, in place of the problem's own; None: the problem's, if there is one.
        examples: alternating messages of user and assistant, after the system message and before the problem.
    """

    system: str | None = None
    examples: tuple[Message, ...] = ()

    def messages(self, observation: Content, info: Mapping[str, Any]) -> list[Message]:
        """Return the opening messages of an episode; the last one is the observation, as a user message.

        Args:
            info: if it has ``messages``, they are the problem as a conversation, in place of the text.
        """
        given = list(info.get("messages") or [{"role": "user", "content": observation}])
        turns = [message for message in given if message["role"] != "system"]
        system = [message for message in given if message["role"] == "system"]
        if self.system is not None:
            system = [{"role": "system", "content": self.system}]
        return [*system, *self.examples, *turns]


def wrong_messages(messages: Any) -> str:
    """Return what is wrong with an environment's messages; empty if nothing is."""
    if not isinstance(messages, Sequence) or not messages or isinstance(messages, str):
        return "is not a list of messages"
    for message in messages:
        if not isinstance(message, Mapping) or not _is_content(message.get("content")):
            return f"has {message!r}, which is not a message with a role and with text or parts as content"
        if message.get("role") not in ("system", "user", "assistant"):
            return f"has the role {message.get('role')!r}; the role must be system, user or assistant"
    return "" if messages[-1]["role"] == "user" else "does not end with a message of the user"


def _is_content(content: Any) -> bool:
    if isinstance(content, list):
        return all(isinstance(part, Mapping) and part.get("type") in ("text", "image") for part in content)
    return isinstance(content, str)


def wrong_tools(tools: Any) -> str:
    """Return what is wrong with an environment's tools; empty if nothing is."""
    if not isinstance(tools, Sequence) or isinstance(tools, str):
        return "is not a list of tools"
    for tool in tools:
        function = tool.get("function") if isinstance(tool, Mapping) else None
        if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
            return f"has {tool!r}, which is not a tool in OpenAI's format"
    return ""
