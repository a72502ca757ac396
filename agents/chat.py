"""A conversation of an agent with its model, within limits."""

from __future__ import annotations

from collections.abc import Sequence

from areal.agents.interface import Content, ConversationTooLong, Message, Model, Reply, SamplingLimits, Tool
from areal.errors import UserError


class Chat:
    """The messages so far, and the remaining turns and tokens.

    Args:
        model: the model that answers.
        opening: the first messages.
        tools: the tools that the model may call.
        max_turns: maximum number of responses.
        max_tokens: maximum number of sampled tokens of all responses together; None: no separate limit.
    """

    def __init__(
        self,
        model: Model,
        opening: Sequence[Message],
        max_turns: int,
        max_tokens: int | None,
        tools: Sequence[Tool] = (),
    ) -> None:
        self.messages = list(opening)
        self._model = model
        self._tools = tools
        self._turns = max_turns
        self._tokens = max_tokens
        self._asked = False

    @property
    def over(self) -> bool:
        """Whether the turns or the tokens are used up."""
        return self._turns == 0 or self._tokens == 0

    async def ask(self) -> Reply | None:
        """Return the model's response; None: a limit is reached, or the conversation has no more room.

        Raises:
            ConversationTooLong: there is no room even for the first response.
        """
        if self.over:
            return None
        limits = None if self._tokens is None else SamplingLimits(max_tokens=self._tokens)
        try:
            reply = await self._model.chat(self.messages, tools=self._tools, limits=limits)
        except ConversationTooLong:
            if not self._asked:
                raise
            return None
        self._asked = True
        self._turns -= 1
        if self._tokens is not None:
            self._tokens -= len(reply.ids)
        self.messages.append(reply.message)
        return reply

    def append(self, content: Content) -> None:
        """Append a user's message for the model to respond to."""
        self.messages.append({"role": "user", "content": content})


def checked_limits(agent: str, max_turns: int, max_tokens: int | None) -> None:
    """Check limits; raises UserError if one leaves no room for a response."""
    if max_turns < 1 or (max_tokens is not None and max_tokens < 1):
        raise UserError(f"{agent}: max_turns={max_turns} and max_tokens={max_tokens} must be at least 1")
