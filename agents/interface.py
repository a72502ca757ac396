"""What an agent sees: an environment to act in and a model to ask. An agent is any object with ``run``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True, slots=True)
class Step:
    """What ``env.step`` returned; ``done`` is terminated or truncated."""

    observation: str
    reward: float
    terminated: bool
    truncated: bool
    info: dict[str, Any]

    @property
    def done(self) -> bool:
        """Whether the episode is over."""
        return self.terminated or self.truncated


class Env(Protocol):
    """One episode of a Gymnasium environment; calls run on a thread, so they may block on a verifier."""

    async def reset(self) -> str:
        """Begin, and return the first observation."""
        ...

    async def step(self, action: str) -> Step:
        """Act."""
        ...


class Model(Protocol):
    """The model in one conversation; everything it says is recorded and trained on."""

    async def generate(self, observation: str) -> str:
        """Say ``observation`` as the user, and return the model's answer as text."""
        ...


class Agent(Protocol):
    """How a model acts in an environment. One object plays many episodes at once: keep no state on it."""

    async def run(self, env: Env, model: Model) -> None:
        """Play one episode to its end."""
        ...
