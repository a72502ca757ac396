"""Games with several players as one environment: turns, rewards, and opponents."""

from __future__ import annotations

from typing import Any, Protocol

import gymnasium
from gymnasium.error import ResetNeeded

from areal.envs.opponents import Listener, Opponent, find_opponent
from areal.envs.seeds import HELD_OUT
from areal.envs.text import UnicodeText

_TRIES = 100
"""Maximum number of games that are started until the model can act in one."""


class Game(Protocol):
    """A game whose players act one after another.

    Attributes:
        players: their names.
        ended, cut: whether it has ended, by its rules or by a limit; nobody acts then.
        player: the player whose turn it is.
    """

    players: list[str]

    @property
    def ended(self) -> bool: ...  # noqa: D102

    @property
    def cut(self) -> bool: ...  # noqa: D102

    @property
    def player(self) -> str: ...  # noqa: D102

    def begin(self, seed: int) -> None:
        """Begin a game."""

    def told(self) -> str:
        """Return what the current player has not been told yet; after the end, the remaining messages."""

    def moves(self) -> list[str] | None:
        """Return the legal moves of the current player, who has just been told something; None: unknown."""

    def act(self, said: str) -> None:
        """Make the move of the current player."""

    def earned(self) -> dict[str, float]:
        """Return what each player earned since the last call of this method."""


class GameEnv(gymnasium.Env[str, str]):
    """Plays a game with the model as all players, or as one player against opponents that do not learn.

    ``info["player"]`` of ``reset`` and ``step`` names the player who acts next. The observation is for this
    player only. ``info["rewards"]`` of ``step`` has the reward of each player that the model plays. A game
    for one player has neither.

    On held-out problems, the model plays one side, which follows from the seed, and each side equally often,
    because playing against itself would not show any progress.

    Args:
        game: the game.
        opponent: the player of the other sides in training: ``self`` (the model), or an opponent as in
            :func:`areal.envs.opponents.find_opponent`.
        test_opponent: the same on held-out problems; None: the one in training, and ``random`` for ``self``.
    """

    metadata = {"render_modes": []}  # noqa: RUF012 (Gymnasium's own form)

    def __init__(
        self,
        game: Game,
        opponent: str = "self",
        test_opponent: str | None = None,
        render_mode: str | None = None,
    ) -> None:
        self.observation_space = UnicodeText(2**20)
        self.action_space = UnicodeText(2**20)
        self.render_mode = render_mode
        self._game = game
        if test_opponent is None:
            test_opponent = "random" if opponent == "self" else opponent
        self._opponents = {False: find_opponent(opponent), True: find_opponent(test_opponent)}
        self._others: dict[str, Listener] = {}
        self._over: bool | None = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[str, dict[str, Any]]:
        """Begin a game; opponents make their first moves. If these end the game, another one begins.

        Raises:
            RuntimeError: too many consecutive games ended in this way.
        """
        super().reset(seed=seed)
        players = self._game.players
        opponent: Opponent | None = self._opponents[seed is not None and seed >= HELD_OUT]
        number = int(self.np_random.integers(2**31)) if seed is None else seed
        for _ in range(_TRIES):
            self._others = {}
            if opponent is not None and len(players) > 1:
                others = [name for name in players if name != players[number % len(players)]]
                self._others = {name: Listener(opponent, self.np_random) for name in others}
            self._game.begin(int(self.np_random.integers(2**31)))
            self._answer()
            if not (self._game.ended or self._game.cut):
                self._over = False
                return self._game.told(), self._info()
        raise RuntimeError(f"{_TRIES} consecutive games ended before the model could act")

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Make a move, and the moves of opponents up to the model's next turn."""
        if self._over is not False:
            raise ResetNeeded("call reset before step")
        self._game.act(action)
        self._answer()
        ended, cut = self._game.ended, self._game.cut
        self._over = ended or cut
        earned = {name: x for name, x in self._game.earned().items() if name not in self._others}
        reward = sum(earned.values())
        info = self._info()
        if len(self._game.players) == 1:
            info["reward_parts"] = {"game": reward}
        else:
            info["rewards"] = earned
        return self._game.told(), reward, ended, cut and not ended, info

    def _answer(self) -> None:
        """Let opponents act until it is the model's turn, or the game ends."""
        game = self._game
        while not (game.ended or game.cut) and game.player in self._others:
            game.act(self._others[game.player].answer(game.told(), game.moves()))

    def _info(self) -> dict[str, Any]:
        return {} if len(self._game.players) == 1 else {"player": self._game.player}
