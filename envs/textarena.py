"""``textarena-v1``: TextArena's games, for one or several players."""

from __future__ import annotations

import re
from typing import Any

from areal.envs.games import GameEnv
from areal.errors import UserError, install_hint

_LISTED = re.compile(
    r"\b(?:available|valid|legal|your) (?:moves|actions|options|targets)\b[^:\n]*:([^\n]*)", re.IGNORECASE
)
_MOVE = re.compile(r"\[[^\[\]\n]+\]")
_MOST = 15
"""Number of players of the largest game."""


class TextArenaEnv(GameEnv):
    """Plays a game of TextArena; at its end, the game gives each player a reward.

    An observation contains the messages of the game and of other players since the player's last move. Games
    use Python's global random generator, so each runs in its own process. Use the agent ``multi-turn``.

    In training, the model plays all sides; in evaluation, it plays one side against ``test_opponent``.

    Args:
        game: TextArena's id of the game. areal always plays the ``-raw`` form, which leaves the history to
            the conversation.
        options: arguments of the game.
        players: number of players; None: the minimum of the game.
        opponent: opponent on the other sides in training: ``self`` (the model), ``random`` (any of the moves
            that the game lists), ``path/to/file.py:function``, or an endpoint, ``URL#MODEL``.
        test_opponent: opponent in evaluation; None: the one in training, or ``random``.

    Raises:
        UserError: TextArena is not installed, does not have this game, or the game does not allow this number
            of players.
    """

    metadata = {"render_modes": [], "isolation": "process"}  # noqa: RUF012 (Gymnasium's own form)

    def __init__(
        self,
        game: str = "GuessTheNumber-v0",
        options: dict[str, Any] | None = None,
        players: int | None = None,
        opponent: str = "self",
        test_opponent: str | None = None,
        render_mode: str | None = None,
    ) -> None:
        super().__init__(_TextArenaGame(game, options or {}, players), opponent, test_opponent, render_mode)


class _TextArenaGame:
    """See :class:`areal.envs.games.Game`."""

    def __init__(self, name: str, options: dict[str, Any], players: int | None) -> None:
        try:
            import textarena
            from textarena.envs.registration import ENV_REGISTRY
        except ModuleNotFoundError as error:
            raise UserError(
                f"textarena-v1 requires TextArena; install it with {install_hint('textarena')}"
            ) from error
        raw = name.removesuffix("-raw").removesuffix("-train") + "-raw"
        if raw not in ENV_REGISTRY:
            raise UserError(f"textarena-v1: TextArena {textarena.__version__} has no game '{name}'")
        self._alone: Any = textarena.SinglePlayerState
        self._game = textarena.make(raw, **options)
        self._count = self._take(name, players)
        self.players = [f"Player {number}" for number in range(self._count)]
        self.ended, self.cut = False, False
        self._heard = ""
        self._paid = True

    def _take(self, name: str, players: int | None) -> int:
        """Return the number of players."""
        wrong = ""
        for count in range(1, _MOST + 1) if players is None else [players]:
            try:
                self._game.reset(num_players=count, seed=0)
            except (AssertionError, ValueError) as error:
                wrong = wrong or str(error)
                continue
            # Some multiplayer games also accept a single player, who would play alone.
            if players is not None or count > 1 or isinstance(self._game.state, self._alone):
                return count
        many = f"up to {_MOST}" if players is None else players
        raise UserError(
            f"textarena-v1: '{name}' is not a game for {many} player{'s' * (players != 1)}: {wrong}"
        )

    @property
    def player(self) -> str:
        return self.players[self._game.state.current_player_id]

    def begin(self, seed: int) -> None:
        self._game.reset(num_players=self._count, seed=seed)
        self.ended, self._paid, self._heard = False, False, ""

    def told(self) -> str:
        player, messages = self._game.get_observation()
        found = []
        for speaker, text, _ in messages:
            if speaker < 0:
                found.append(text)
            elif speaker != player:
                found.append(f"[{self.players[speaker]}] {text}")
        self._heard = "\n".join(found)
        return self._heard

    def moves(self) -> list[str] | None:
        """Return the moves in brackets in the last list that the game has shown."""
        listed = _LISTED.findall(self._heard)
        return _MOVE.findall(listed[-1]) or None if listed else None

    def act(self, said: str) -> None:
        self.ended, _ = self._game.step(said)

    def earned(self) -> dict[str, float]:
        earned = dict.fromkeys(self.players, 0.0)
        if self.ended and not self._paid:
            self._paid = True
            rewards, _ = self._game.close()
            for number, reward in rewards.items():
                earned[self.players[number]] = float(reward)
        return earned
