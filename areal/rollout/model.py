"""The common parts of models in an episode: the history of ``generate``, rewards, and sampling settings."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Self

from areal.agents.interface import Content, Message, Reply, SamplingLimits, Tool
from areal.rollout.engine import Sampling
from areal.rollout.seeds import derive


class EpisodeModel(ABC):
    """An :class:`areal.agents.interface.Model` in one episode.

    Args:
        game: if several players share an episode, the model of the whole episode.

    Attributes:
        sees: whether it accepts images, as far as is known.
        reward: reward of the episode, or of a player for the models in ``players``.
        parts: its named components.
        players: the models of several players, by name.
    """

    sees = True

    def __init__(self, sampling: Sampling, game: EpisodeModel | None = None) -> None:
        self._sampling = sampling
        self._messages: list[Message] = []
        self._calls = 0
        self._game = game or self
        self.reward = 0.0
        self.parts: dict[str, float] = {}
        self.players: dict[str, Self] = {}

    def player(self, name: str) -> Self:
        """Return the model of one of several players; see :class:`areal.agents.interface.Model`."""
        if name not in self.players:
            self.players[name] = self._new_player()
        return self.players[name]

    @abstractmethod
    def _new_player(self) -> Self:
        """Return a model for the same episode, without a conversation."""

    def _next_call(self) -> int:
        """Return the number of a new call; the calls of all players are counted together."""
        number = self._game._calls
        self._game._calls = number + 1
        if self is not self._game:
            self._calls += 1
        return number

    def set_opening(self, messages: Sequence[Message]) -> None:
        """Start the conversation of ``generate`` with these messages, before its first observation."""
        if not self._calls:
            self._messages = list(messages)

    async def generate(self, observation: Content) -> str:
        """Append ``observation`` as a user message, sample the response and return it without its thought.

        Raises:
            ConversationTooLong: there is no room for a response.
            GenerationAborted: the engine aborted the response.
        """
        messages = [*self._messages, {"role": "user", "content": observation}]
        reply = await self.chat(messages)
        self._messages = [*messages, reply.message]
        return reply.spoken

    @abstractmethod
    async def chat(
        self, messages: Sequence[Message], *, tools: Sequence[Tool] = (), limits: SamplingLimits | None = None
    ) -> Reply:
        """Respond to a whole history; see :class:`areal.agents.interface.Model`."""

    def credit_players(self, rewards: Mapping[str, float]) -> None:
        """Add the players' new rewards to their rewards, and to the reward of the episode."""
        for name, reward in rewards.items():
            self.player(name).credit(reward)
        self.reward = sum(player.reward for player in self.players.values())
        self.parts = {"reward": self.reward}

    def credit(self, reward: float, parts: dict[str, float] | None = None) -> None:
        """Add a reward, and its named parts, to those of the episode."""
        self.reward += reward
        for name, value in ({"reward": reward} if parts is None else parts).items():
            self.parts[name] = self.parts.get(name, 0.0) + value

    def set_reward(self, reward: float) -> None:
        """Set the reward of the whole episode and of each player, in place of all earlier rewards."""
        for player in self.players.values():
            player.set_reward(reward)
        self.credit(reward - self.reward)
        self.reward, self.parts = reward, {"reward": reward}

    def _narrowed(self, call: int, limits: SamplingLimits) -> Sampling:
        """Return the sampling of the episode's ``call``-th call."""
        sampling, seed = self._sampling, self._sampling.seed
        if limits.seed is not None:
            seed = limits.seed
        elif seed is not None and call > 0:  # with the same seed, turns would be sampled with the same noise
            seed = derive(seed, call)
        wanted = sampling.max_tokens if limits.max_tokens is None else limits.max_tokens
        stop = (*sampling.stop, *limits.stop)
        return replace(sampling, max_tokens=min(sampling.max_tokens, wanted), stop=stop, seed=seed)
