"""The agent for environments of several turns: it responds to each observation until the episode ends."""

from __future__ import annotations

from areal.agents.chat import Chat, checked_limits
from areal.agents.interface import ConversationTooLong, Env, Model

_PATIENCE = 4
"""Number of consecutive empty moves of each player after which a game is ended."""


class MultiTurn:
    """Responds to each observation of the environment, which it receives as a user message.

    If a limit is reached before the environment ends the episode, the episode ends with the rewards so far.
    In a game with several players, each player has its own limits and its own conversation, which contains
    only what is said to this player. A player that has reached a limit moves with an empty text, which the
    game judges like any other move, so that no player escapes a defeat with long responses. If such moves
    have no effect, the episode ends.

    Args:
        max_turns: maximum number of responses in an episode.
        max_tokens: maximum number of sampled tokens in an episode; None: no separate limit.

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
    """Return the model's response; None: a limit is reached.

    Args:
        first: whether this is the first response of the episode, so that a conversation without room is the
            fault of the task.
    """
    try:
        reply = await chat.ask()
    except ConversationTooLong:
        if first:
            raise
        return None
    return None if reply is None else reply.spoken
