"""Opponents: players that do not learn, for the sides of a game that the model does not play."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import httpx
import numpy as np

from areal.errors import UserError
from areal.registry import load_object
from areal.thoughts import after_thought

Opponent = Callable[[list[dict[str, str]], list[str] | None, np.random.Generator], str]
"""Receives its conversation so far (messages with ``role`` and ``content``; ``user`` is the game,
``assistant`` the opponent itself), the legal moves if the game lists them, and a random generator; returns
its move."""


def find_opponent(name: str) -> Opponent | None:
    """Return an opponent; None: the model itself plays that side.

    Args:
        name: ``self``; ``random``, which chooses any of the moves that the game lists;
            ``path/to/file.py:function`` or ``module:function``, an :data:`Opponent`; or the URL of an
            OpenAI-compatible endpoint, followed by ``#`` and the model's name. The endpoint's key, if it
            needs one, is in ``OPENAI_API_KEY``.

    Raises:
        UserError: the name is none of these.
    """
    if name == "self":
        return None
    if name == "random":
        return at_random
    if name.startswith(("http://", "https://")):
        url, _, model = name.partition("#")
        if not model:
            raise UserError(f"the opponent {name} does not name a model; give {url}#MODEL")
        return _Endpoint(url, model)
    if ":" not in name:
        raise UserError(
            f"the opponent '{name}' is unknown; give self, random, path/to/file.py:function or URL#MODEL"
        )
    found = load_object(name)
    if not callable(found):
        raise UserError(f"the opponent '{name}' is not a function")
    given: Opponent = found
    return given


def at_random(messages: list[dict[str, str]], moves: list[str] | None, rng: np.random.Generator) -> str:
    """Return a random move.

    Raises:
        UserError: the game does not list them.
    """
    if not moves:
        raise UserError(
            "a random opponent needs the list of moves, which this game does not give; set "
            "env_options.test_opponent (path/to/file.py:function or URL#MODEL) for evaluation, or "
            "evaluation.problems=0 to turn evaluation off"
        )
    return moves[int(rng.integers(len(moves)))]


class Listener:
    """An opponent in one game, with its conversation."""

    def __init__(self, opponent: Opponent, rng: np.random.Generator) -> None:
        self._opponent = opponent
        self._rng = rng
        self._messages: list[dict[str, str]] = []

    def answer(self, told: str, moves: list[str] | None) -> str:
        """Return the opponent's answer to an observation.

        Raises:
            TypeError: the opponent returned no text.
        """
        self._messages.append({"role": "user", "content": told})
        said: Any = self._opponent([dict(message) for message in self._messages], moves, self._rng)
        if not isinstance(said, str):
            raise TypeError(f"the opponent returned a {type(said).__name__}; return its move as text, a str")
        self._messages.append({"role": "assistant", "content": said})
        return said


class _Endpoint:
    """The model of an endpoint as an opponent; its thoughts are not part of its answer."""

    def __init__(self, url: str, model: str) -> None:
        self._url = url.rstrip("/") + "/chat/completions"
        self._model = model

    def __call__(
        self, messages: list[dict[str, str]], moves: list[str] | None, rng: np.random.Generator
    ) -> str:
        key = os.environ.get("OPENAI_API_KEY", "")
        response = httpx.post(
            self._url,
            json={"model": self._model, "messages": messages, "seed": int(rng.integers(2**31))},
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=httpx.Timeout(None, connect=10.0),  # rollout.env_time_limit ends the call
        )
        if 400 <= response.status_code < 500 and response.status_code not in (408, 409, 429):
            raise UserError(
                f"the opponent at {self._url} refused: {response.status_code} {response.text[:300]}"
            )
        response.raise_for_status()
        said = response.json()["choices"][0]["message"].get("content") or ""
        return after_thought(str(said)).strip()
