"""One conversation of an agent with its model, within limits."""

from __future__ import annotations

from collections.abc import Sequence

from areal.agents.interface import Content, ConversationTooLong, Message, Model, Reply, SamplingLimits, Tool
from areal.errors import UserError


class Chat:
    """The messages so far, and what is left of the turns and tokens.

    Args:
        model: who answers.
        opening: the first messages.
        tools: that it may call.
        max_turns: responses.
        max_tokens: sampled tokens of all responses together; None: no limit of its own.
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
        """Whether no turn or no token is left."""
        return self._turns == 0 or self._tokens == 0

    async def ask(self) -> Reply | None:
        """Return the model's response; None: a limit is reached, or the conversation is as long as it can be.

        Raises:
            ConversationTooLong: not even the first response has room.
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
    """Refuse limits that leave nothing; raises UserError."""
    if max_turns < 1 or (max_tokens is not None and max_tokens < 1):
        raise UserError(f"{agent}: max_turns={max_turns} and max_tokens={max_tokens} must be at least 1")
