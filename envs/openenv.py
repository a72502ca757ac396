"""``openenv-v1``: an environment behind an OpenEnv server."""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Real
from typing import Any

import gymnasium
from gymnasium.error import ResetNeeded

from areal.envs.openenv_fields import fixed_values, said_field, shown, shown_fields
from areal.envs.openenv_session import OpenEnvSession, Refused, Told, schemas
from areal.envs.text import UnicodeText
from areal.errors import UserError


class OpenEnv(gymnasium.Env[str, str]):
    r"""Plays an environment of an OpenEnv server; each instance has its own session.

    A response is the value of one field of the action. If the field accepts any text, the whole response
    counts. If it is a number, a boolean, or one of several names, the value is alone or in ``\boxed{}``. A
    response that cannot be read, or whose value the server refuses, costs a turn, and the observation says
    so; with ``unreadable``, it ends the episode. The server gives the reward; a missing reward is 0. For
    episodes with several steps, use the agent ``multi-turn``.

    Args:
        url: address of the server, such as ``http://localhost:8000``.
        says: the field of the action for the response; None: the only suitable one in the server's schema.
        field: the field of the observation to show, or a list of fields; None: the only field, or the only
            text field.
        action: values of other fields in every action.
        task: text at the beginning of the first observation, for servers that do not describe the task.
        options: arguments of every reset besides the seed.
        time_limit: time limit of a call, in seconds.
        wait: seconds that a reset waits for a server that is unreachable or has no free session.
        unreadable: reward of a response that cannot be read or is refused, which then ends the episode; None:
            it costs a turn.

    Attributes:
        notices: the fields in use.

    Raises:
        UserError: there is no OpenEnv server, its fields are ambiguous, or an option is invalid.
        EnvironmentFailure: the server is unreachable or too slow, or its environment raised an exception.
    """

    metadata = {"render_modes": []}  # noqa: RUF012 (Gymnasium's own form)

    def __init__(
        self,
        url: str | None = None,
        says: str | None = None,
        field: str | Sequence[str] | None = None,
        action: dict[str, Any] | None = None,
        task: str = "",
        options: dict[str, Any] | None = None,
        time_limit: float = 120.0,
        wait: float = 30.0,
        unreadable: float | None = None,
        render_mode: str | None = None,
    ) -> None:
        if url is None:
            raise UserError("openenv-v1 needs a server; set env_options.url=http://HOST:PORT")
        if unreadable is not None and not _is_number(unreadable):
            raise UserError(
                f"openenv-v1: env_options.unreadable={unreadable} is not a finite number, such as -1"
            )
        self.observation_space = UnicodeText(2**20)
        self.action_space = UnicodeText(2**20)
        self.render_mode = render_mode
        of_action, of_observation = schemas(url)
        self._rest = {**fixed_values(of_action), **(action or {})}
        self._said = said_field(of_action, says, self._rest)
        self._shown = shown_fields(of_observation, field)
        self._task = task
        self._options = dict(options or {})
        self._unreadable = unreadable
        self._session = OpenEnvSession(url, time_limit, wait)
        self._over: bool | None = None
        shows = ", ".join(self._shown)
        self.notices = (
            f"{url}: the response is the action's {self._said}, and the model sees the observation's {shows}",
        )

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[str, dict[str, Any]]:
        """Begin an episode. If the server's reset accepts a seed, it receives one that follows from
        ``seed``."""
        super().reset(seed=seed)
        told = self._session.reset({"seed": int(self.np_random.integers(2**31)), **self._options})
        self._over = False
        return "\n".join(filter(None, (self._task, self._text(told)))), {}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Send the response to the server."""
        if self._over is not False:
            raise ResetNeeded("call reset before step")
        try:
            value = self._said.read(action)
        except ValueError:
            return self._not_taken(self._said.asked)
        try:
            told = self._session.step(self._said.filled(self._rest, value))
        except Refused as refused:
            if refused.fields - {self._said.name}:
                named = ", ".join(sorted(refused.fields))
                raise UserError(
                    f"openenv-v1: the server refuses an action because of its field {named} ({refused}); set "
                    "it with env_options.action={FIELD: VALUE}"
                ) from refused
            return self._not_taken(f"The server refused that: {refused}. {self._said.asked}".strip())
        self._over = told.done
        cut = told.done and told.observation.get("truncated") is True
        return self._text(told), told.reward, told.done and not cut, cut, _of(told.reward)

    def close(self) -> None:
        """End the session."""
        self._session.close()

    def _not_taken(self, observation: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Return the result of a response that is not an action."""
        if self._unreadable is None:
            return observation, 0.0, False, False, _of(0.0)
        self._over = True
        self._session.leave()
        reward = float(self._unreadable)
        return observation, reward, True, False, _of(reward)

    def _text(self, told: Told) -> str:
        asked = "" if told.done else self._said.asked
        return "\n".join(filter(None, (shown(told.observation, self._shown), asked)))


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


def _of(reward: float) -> dict[str, Any]:
    """Return the entries of info about the reward."""
    return {"reward_parts": {"reward": reward}}
