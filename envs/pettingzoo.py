"""``pettingzoo-v1``: games of several players with PettingZoo's AEC interface, as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from areal.envs.adapted import takes_turns
from areal.envs.games import GameEnv
from areal.envs.words import action_names, describer
from areal.errors import UserError
from areal.registry import load_object
from areal.rewards.answers import boxed_answer

_WHO = "pettingzoo-v1"


class PettingZooEnv(GameEnv):
    r"""Plays a game whose players act in turn, as in PettingZoo's AEC environments.

    Text observations are shown as they are, others as ``describe`` returns them, or in Python's notation. An
    action in a ``Text`` space is the player's response; a discrete action has a name, which the player puts
    in ``\boxed{}``. A player that names no legal action (``action_mask`` of the observation or of its info)
    forfeits. The game then ends, and this player earns ``forfeit``. The others keep what they have earned so
    far according to the game's ``rewards`` or, if it has none, what it has reported at their turns. Use the
    agent ``multi-turn``.

    In training, the model plays all sides; in evaluation, it plays one side against ``test_opponent``.

    Args:
        env: ``path/to/file.py:NAME`` or ``module:NAME`` of a class or function that creates the game, such as
            ``pettingzoo.classic.tictactoe_v3:env``.
        options: keyword arguments of the game.
        actions: names of the game's discrete actions, in order; None: their numbers.
        describe: ``path/to/file.py:function`` or ``module:function``; the function receives an observation
            and the game (``unwrapped``; ``agent_selection`` is the player who sees it), and returns text.
        task: text at the start of each player's first observation, before the player's name; empty: the
            observation contains neither.
        forfeit: reward of a player who names no legal action.
        opponent: opponent on the other sides in training: ``self`` (the model), ``random`` (any legal
            action), ``path/to/file.py:function``, or an endpoint, ``URL#MODEL``.
        test_opponent: opponent in evaluation; None: the one in training, or ``random``.

    Raises:
        UserError: the game or a function does not exist, or the actions are neither discrete nor text.
    """

    def __init__(
        self,
        env: str,
        options: dict[str, Any] | None = None,
        actions: Sequence[str] | None = None,
        describe: str | None = None,
        task: str = "Play this game to win.",
        forfeit: float = -1.0,
        opponent: str = "self",
        test_opponent: str | None = None,
        render_mode: str | None = None,
    ) -> None:
        if ":" not in env:
            raise UserError(f"{_WHO}: env={env} is not of the form path/to/file.py:NAME or module:NAME")
        make = load_object(env)
        made = make(**(options or {})) if callable(make) else make
        if not takes_turns(made):
            raise UserError(
                f"{_WHO}: '{env}' creates a {type(made).__name__}, which is not a game with PettingZoo's "
                "AEC interface (reset, step, last and possible_agents); parallel_to_aec converts a "
                "parallel one"
            )
        if asked := (getattr(made, "metadata", None) or {}).get("isolation"):
            self.metadata = {**self.metadata, "isolation": asked}
        game = _AecGame(env, made, actions, describe, task, forfeit)
        super().__init__(game, opponent, test_opponent, render_mode)
        self._close = getattr(made, "close", None)

    def close(self) -> None:
        """Close the game, if it has a method for that."""
        if callable(self._close):
            self._close()


class _AecGame:
    """See :class:`areal.envs.games.Game`."""

    def __init__(
        self,
        name: str,
        env: Any,
        actions: Sequence[str] | None,
        describe: str | None,
        task: str,
        forfeit: float,
    ) -> None:
        self._env = env
        self._describe = None if describe is None else describer(_WHO, describe)
        self._task = task
        self._forfeit = forfeit
        self.players = [str(agent) for agent in env.possible_agents]
        # Agents may have different actions, for example players with roles.
        self._actions = {
            str(agent): action_names(_WHO, name, env.action_space(agent), actions)
            for agent in env.possible_agents
        }
        self.ended = self.cut = False
        self._due: dict[str, float] = {}
        # Rewards that each player has already received, and that the game reports again at the player's next
        # turn.
        self._early: dict[str, float] = {}
        self._greeted: set[str] = set()
        self._legal: list[str] | None = None
        self._last = ""

    @property
    def player(self) -> str:
        return str(self._env.agent_selection) if self._env.agents else self._last

    def begin(self, seed: int) -> None:
        self._env.reset(seed=seed)
        self.ended = self.cut = False
        self._due, self._early = dict.fromkeys(self.players, 0.0), dict.fromkeys(self.players, 0.0)
        self._greeted, self._last = set(), self.players[0]
        self._advance()

    def told(self) -> str:
        if self.ended or self.cut:
            return ""
        player = self.player
        observation, _, _, _, info = self._env.last()
        names = self._actions[player]
        self._legal = None if names is None else _legal(names, observation, info)
        greets = self._task and player not in self._greeted
        lines = [f"{self._task}\nYou are {player}."] if greets else []
        self._greeted.add(player)
        lines.append(self._shown(observation))
        if self._legal is not None:
            lines.append(f"Put one of these in \\boxed{{}}: {', '.join(self._legal)}.")
        return "\n".join(lines)

    def moves(self) -> list[str] | None:
        return None if self._legal is None else [f"\\boxed{{{name}}}" for name in self._legal]

    def act(self, said: str) -> None:
        player, names = self.player, self._actions[self.player]
        chosen: Any = said
        if names is not None:
            named = (boxed_answer(said) or "").strip().lower()
            if named not in (self._legal or ()):
                self._due[player] += self._forfeit
                self.ended, self._last = True, player
                return
            chosen = names[named]
        self._last = player
        self._env.step(chosen)
        self._pay_early()
        self._advance()

    def earned(self) -> dict[str, float]:
        found, self._due = self._due, dict.fromkeys(self.players, 0.0)
        return found

    def _pay_early(self) -> None:
        """Give players the reward of a move immediately, because some of them may never act again.

        PettingZoo's ``rewards`` are those of the last step only.
        """
        rewards = getattr(self._env, "rewards", None)
        if not isinstance(rewards, Mapping):
            return
        for agent in self._env.possible_agents:
            reward = float(rewards.get(agent, 0.0))
            self._due[str(agent)] += reward
            self._early[str(agent)] += reward

    def _advance(self) -> None:
        """Collect the rewards of the next player since its last action; remove players who have ended."""
        env, cut = self._env, False
        while env.agents:
            agent = env.agent_selection
            _, reward, terminated, truncated, _ = env.last(observe=False)
            self._due[str(agent)] += float(reward) - self._early[str(agent)]
            self._early[str(agent)] = 0.0
            if not (terminated or truncated):
                return
            cut = bool(truncated) and not terminated
            env.step(None)
            if agent in env.agents:
                raise TypeError(
                    f"step(None) of the player {agent}, who has ended, did not remove it from agents; "
                    "remove it, as PettingZoo's _was_dead_step does"
                )
        self.ended, self.cut = not cut, cut

    def _shown(self, observation: Any) -> str:
        if self._describe is not None:
            text = self._describe(observation, getattr(self._env, "unwrapped", self._env))
            if not isinstance(text, str):
                raise TypeError(f"describe returned a {type(text).__name__}; return text, a str")
            return text
        if isinstance(observation, Mapping) and "action_mask" in observation and "observation" in observation:
            observation = observation["observation"]  # the legal actions are listed beside it
        return str(observation)


def _legal(names: dict[str, int], observation: Any, info: Any) -> list[str]:
    """Return the names of the actions that the mask allows, or of all actions."""
    for place in (observation, info):
        if isinstance(place, Mapping) and place.get("action_mask") is not None:
            mask = np.asarray(place["action_mask"]).astype(bool)
            return [name for name, allowed in zip(names, mask, strict=True) if allowed]
    return list(names)
