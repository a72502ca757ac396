"""``textarena-v1``: TextArena's games for one player."""

from __future__ import annotations

from typing import Any

import gymnasium
from gymnasium.error import ResetNeeded

from areal.envs.text import UnicodeText
from areal.errors import UserError, install_hint


class TextArenaEnv(gymnasium.Env[str, str]):
    """Plays a game of TextArena for one player; the reward is the game's, at its end.

    An observation is what the game has said since the last one. Games draw from Python's global generator of
    random numbers, so each is in a process of its own. The agent is ``multi-turn``.

    Args:
        game: TextArena's id of the game. Its form ``-raw``, which leaves the history to the conversation, is
            played, whatever the id ends with.
        options: arguments of the game.

    Raises:
        UserError: TextArena is not installed, has no such game, or the game is not for one player.
    """

    metadata = {"render_modes": [], "isolation": "process"}  # noqa: RUF012 (Gymnasium's own form)

    def __init__(
        self,
        game: str = "GuessTheNumber-v0",
        options: dict[str, Any] | None = None,
        render_mode: str | None = None,
    ) -> None:
        try:
            import textarena
            from textarena.envs.registration import ENV_REGISTRY
        except ModuleNotFoundError as error:
            raise UserError(f"textarena-v1 needs TextArena: {install_hint('textarena')}") from error
        self.observation_space = UnicodeText(2**20)
        self.action_space = UnicodeText(2**20)
        self.render_mode = render_mode
        raw = game.removesuffix("-raw").removesuffix("-train") + "-raw"
        if raw not in ENV_REGISTRY:
            raise UserError(f"textarena-v1: TextArena {textarena.__version__} has no game '{game}'")
        self._game = textarena.make(raw, **(options or {}))
        self._name = game
        self._over: bool | None = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[str, dict[str, Any]]:
        """Begin a game."""
        super().reset(seed=seed)
        try:
            self._game.reset(num_players=1, seed=int(self.np_random.integers(2**31)))
        except (AssertionError, ValueError) as error:
            raise UserError(f"textarena-v1: '{self._name}' is no game for one player: {error}") from error
        self._over = False
        return self._said(), {}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Make a move."""
        if self._over is not False:
            raise ResetNeeded("call reset before step")
        self._over, _ = self._game.step(action)
        if not self._over:
            return self._said(), 0.0, False, False, {"reward_parts": {"game": 0.0}}
        rewards, _ = self._game.close()
        reward = float(rewards[0])
        return self._said(), reward, True, False, {"reward_parts": {"game": reward}}

    def _said(self) -> str:
        """Return what the game has said to the player, whose own moves it repeats."""
        _, messages = self._game.get_observation()
        return "\n".join(text for speaker, text, _ in messages if speaker < 0)
