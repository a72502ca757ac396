r"""``guess-v1``: guess a number in several turns, with a hint after each guess.

The best strategy is bisection: ``numbers`` numbers need at most ⌈log₂(numbers + 1)⌉ guesses.
"""

from __future__ import annotations

from typing import Any

import gymnasium
from gymnasium.error import ResetNeeded

from areal.envs.text import UnicodeText
from areal.errors import UserError
from areal.rewards.answers import boxed_answer

HIGHEST = 99


def opening(low: int, high: int) -> str:
    r"""Return the first observation of a game."""
    return f"Guess a number from {low} to {high}.\nPut the final answer in \\boxed{{}}."


def feedback(guess: int, number: int) -> str:
    """Return the hint after a wrong guess."""
    return f"The number is {'greater' if number > guess else 'less'} than {guess}."


class GuessEnv(gymnasium.Env[str, str]):
    r"""Guess a number in ``\boxed{}``, with a hint after each guess; the reward is 1 if it is found, else 0.

    Args:
        numbers: number of possible numbers; the largest is at most 99.
        max_turns: maximum number of guesses.
        low: the smallest possible number; None: a random one in each game, at least 1.

    Raises:
        UserError: a wrong argument.
    """

    metadata = {"render_modes": []}  # noqa: RUF012 (Gymnasium's own form)

    def __init__(
        self, numbers: int = 16, max_turns: int = 5, low: int | None = None, render_mode: str | None = None
    ) -> None:
        if not 2 <= numbers <= HIGHEST or max_turns < 1:
            raise UserError(
                f"guess-v1: numbers={numbers} must be from 2 to {HIGHEST}, and max_turns={max_turns} positive"
            )
        if low is not None and not 1 <= low <= HIGHEST - numbers + 1:
            raise UserError(
                f"guess-v1: {numbers} numbers from low={low} on leave the range 1 to {HIGHEST}; change low"
            )
        self.observation_space = UnicodeText(1000)
        self.action_space = UnicodeText(2**20)
        self.render_mode = render_mode
        self._numbers = numbers
        self._max_turns = max_turns
        self._low = low
        self._number: int | None = None
        self._turn = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[str, dict[str, Any]]:
        """Choose a number; the seed determines it and its range."""
        super().reset(seed=seed)
        drawn = int(self.np_random.integers(1, HIGHEST - self._numbers + 2))
        low = drawn if self._low is None else self._low
        high = low + self._numbers - 1
        self._number = int(self.np_random.integers(low, high + 1))
        self._turn = 0
        return opening(low, high), {"low": low, "high": high}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Take a guess. The episode ends when it is correct, or the guesses are used up."""
        if self._number is None:
            raise ResetNeeded("call reset before step")
        self._turn += 1
        guess = _whole_number(boxed_answer(action))
        right = guess == self._number
        over = right or self._turn == self._max_turns
        observation = "" if over else NO_GUESS if guess is None else feedback(guess, self._number)
        info: dict[str, Any] = {"reward_parts": {"correct": float(right)}}
        if over:
            info["expected"] = self._number
        return observation, float(right), over, False, info


NO_GUESS = "That is not a number. Put a number in \\boxed{}."


def _whole_number(text: str | None) -> int | None:
    text = (text or "").strip()
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else None
