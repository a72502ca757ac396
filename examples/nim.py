"""A game for two players in PettingZoo's form AEC, which the model learns by playing against itself.

areal train --env pettingzoo-v1 --agent multi-turn env_options.env=examples/nim.py:Nim env_options.task= \
    env_options.test_opponent=examples/nim.py:chance
"""

from __future__ import annotations

import random
import re
from typing import Any

import numpy as np
from gymnasium.spaces import Space, Text


class Nim:
    """Players take one, two or three stones in turn; who takes the last one wins. They say how many are left.

    It asks in words that the model that ships with areal understands: what it would answer without the game
    is to take one stone. Whose answer is no legal move loses. The base class ``pettingzoo.AECEnv`` has
    ``last``, and helps with the rest; PettingZoo is not needed for so small a game.

    Args:
        stones: how many there are at most.
    """

    possible_agents = ["first", "second"]  # noqa: RUF012

    def __init__(self, stones: int = 9) -> None:
        self.stones = stones

    def observation_space(self, agent: str) -> Space[Any]:
        """Observations are text."""
        return Text(100)

    def action_space(self, agent: str) -> Space[Any]:
        """Actions are text."""
        return Text(10_000)

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> None:
        """Begin a game: the first player is to act."""
        self.left = random.Random(seed).randint(5, self.stones)
        self.agents = list(self.possible_agents)
        self.agent_selection = "first"
        self.over = False
        self.earned = dict.fromkeys(self.agents, 0.0)

    def last(self, observe: bool = True) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Return what who is to act sees, what it earned since it acted, whether it is out, and its info."""
        seen = f"Compute {self.left} - 1.\nPut the final answer in \\boxed{{}}."
        return seen, self.earned[self.agent_selection], self.over, False, {}

    def step(self, action: str | None) -> None:
        """Take stones; who is out makes a last step of None, and leaves."""
        mover = self.agent_selection
        if action is None:
            self.agents.remove(mover)
            self.agent_selection = next(iter(self.agents), mover)
            return
        self.earned[mover] = 0.0
        other = self.agent_selection = "second" if mover == "first" else "first"
        said = re.search(r"\\boxed\{(\d{1,3})\}", action)
        left = int(said[1]) if said else -1
        legal = max(self.left - 3, 0) <= left < self.left
        self.left = left
        if not legal or left == 0:
            won = 1.0 if legal else -1.0
            self.over, self.earned = True, {mover: won, other: -won}


def chance(messages: list[dict[str, str]], moves: list[str] | None, rng: np.random.Generator) -> str:
    """Play at random: the opponent in evaluation."""
    left = int(messages[-1]["content"].split()[1])
    return f"\\boxed{{{rng.integers(max(left - 3, 0), left)}}}"
