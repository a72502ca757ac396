r"""``guess-v1``: a number is to be guessed in several turns; each guess is said to be too low or too high.

The best player halves what is left: ``numbers`` numbers need at most ⌈log₂(numbers + 1)⌉ guesses.
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
    r"""Return how the game begins."""
    return f"Guess a number from {low} to {high}.\nPut the final answer in \\boxed{{}}."


def feedback(guess: int, number: int) -> str:
    """Return what is said to a wrong guess."""
    return f"The number is {'greater' if number > guess else 'less'} than {guess}."


class GuessEnv(gymnasium.Env[str, str]):
    r"""Guess a number in ``\boxed{}``, with a hint after each guess: 1 if found, else 0.

    Args:
        numbers: how many numbers it may be; they end at 99 at most.
        max_turns: guesses.
        low: the least of them; None: anywhere from 1 on, another one in each game.

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
            raise UserError(f"guess-v1: {numbers} numbers from low={low} on are not all from 1 to {HIGHEST}")
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
        """Think of a number; the seed says which, and of which range."""
        super().reset(seed=seed)
        drawn = int(self.np_random.integers(1, HIGHEST - self._numbers + 2))
        low = drawn if self._low is None else self._low
        high = low + self._numbers - 1
        self._number = int(self.np_random.integers(low, high + 1))
        self._turn = 0
        return opening(low, high), {"low": low, "high": high}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Take a guess. The game is over when it is right, or the guesses are used up."""
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


NO_GUESS = "That is no number. Put a number in \\boxed{}."


def _whole_number(text: str | None) -> int | None:
    text = (text or "").strip()
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else None
