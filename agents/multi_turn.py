"""The agent for environments of several turns: it responds to each observation until the episode ends."""

from __future__ import annotations

from areal.agents.chat import Chat, checked_limits
from areal.agents.interface import ConversationTooLong, Env, Model

_PATIENCE = 4
"""Empty moves in a row, for each player, after which a game is given up that does not end by them."""


class MultiTurn:
    """Responds, receives the environment's next observation as a user message, and responds again.

    Where a limit is reached before the environment ends the episode, it ends with what it has earned so far.
    In a game of several players each has a conversation of its own, in which only what is said to this one
    stands, and limits of its own. One that has reached a limit says nothing when it is its turn, an empty
    text, which the game judges as any other move: nobody escapes a defeat by talking for too long. Where
    nothing comes of it, the episode ends.

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
        await env.open()
        chats: dict[str, Chat] = {}
        silent = 0
        while True:
            player = env.player
            if player not in chats:
                chats[player] = Chat(model.player(player) if player else model, env.opening(), *self._limits)
            said = await _said(chats[player], first=len(chats) == 1)
            silent = silent + 1 if said is None else 0
            if said is None and (not player or silent > _PATIENCE * len(chats)):
                return
            step = await env.step(said or "")
            if step.done:
                return
            if env.player in chats:
                chats[env.player].append(step.observation)


async def _said(chat: Chat, first: bool) -> str | None:
    """Return what the model says; None: a limit is reached.

    Args:
        first: nobody else has been asked, so that a conversation without room is the task's own fault.
    """
    try:
        reply = await chat.ask()
    except ConversationTooLong:
        if first:
            raise
        return None
    return None if reply is None else reply.spoken
