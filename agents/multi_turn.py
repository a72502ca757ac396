"""The agent for environments of several turns: it responds to each observation until the episode ends."""

from __future__ import annotations

from areal.agents.chat import Chat, checked_limits
from areal.agents.interface import Env, Model


class MultiTurn:
    """Responds, receives the environment's next observation as a user message, and responds again.

    Where a limit is reached before the environment ends the episode, it ends with what it has earned so far.

    Args:
        max_turns: responses of an episode.
        max_tokens: sampled tokens of an episode; None: no limit of its own.

    Raises:
        UserError: a limit below 1.
    """

    def __init__(self, max_turns: int = 16, max_tokens: int | None = None) -> None:
        checked_limits("multi-turn", max_turns, max_tokens)
        self._limits = max_turns, max_tokens

    async def run(self, env: Env, model: Model) -> None:
        """Run one episode."""
        chat = Chat(model, await env.open(), *self._limits)
        while (reply := await chat.ask()) is not None:
            step = await env.step(reply.text)
            if step.done:
                return
            chat.append(step.observation)
