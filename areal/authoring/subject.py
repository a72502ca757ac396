"""The environment under check; every call of it is timed and named."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from areal.authoring.watch import CallWatch
from areal.rollout.tasks import TaskSource

FILLERS = ("?", "zzz")
"""Actions that answer no problem."""
PROBLEMS = 16
"""Number of problems that a rule examines."""
_MAX_STEPS = 20


class Broken(Exception):
    """A rule is broken; the message explains how, and how to fix it."""


class NoText(Broken):
    """The environment cannot serve a language model, so no other rule can be checked."""


class Unknown(Exception):
    """A rule cannot be checked; the message says what is missing."""


@dataclass(frozen=True, slots=True)
class FixedActionEpisode:
    """An episode in which every action is the same."""

    observation: Any
    info: dict[str, Any]
    steps: list[tuple[Any, Any, bool, bool, dict[str, Any]]]

    @property
    def reward(self) -> float:
        """Sum of the rewards."""
        return sum(float(step[1]) for step in self.steps)

    @property
    def over(self) -> bool:
        """Whether the episode ended on its own."""
        return bool(self.steps[-1][2] or self.steps[-1][3])


class Subject:
    """The environment under check, and how to call it.

    Attributes:
        env: the instance that most rules examine; the first rule creates it.
        solves: whether it has ``solution()``.
        turns: number of steps of the longest episode so far.
    """

    env: Any
    solves: bool
    turns: int

    def __init__(self, make: Callable[[], Any], watch: CallWatch) -> None:
        self._make = make
        self.watch = watch
        self.turns = 0
        self._warnings: list[str] = []

    def warn(self, message: str) -> None:
        """Record a warning, which is not a failure."""
        self._warnings.append(message)

    def warned(self) -> list[str]:
        """Return the warnings since the last call."""
        said, self._warnings = self._warnings, []
        return said

    def make(self) -> Any:
        """Return a new environment."""
        return self.watch.call("the constructor", self._make)

    def tasks(self, number: int = PROBLEMS) -> list[dict[str, Any]]:
        """Return the reset arguments of training problems."""
        source = TaskSource(self.env, 0)
        return [source.task(i) for i in range(number)]

    def reset(self, env: Any, task: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """Reset an environment."""
        return self.watch.call(f"reset({arguments(task)})", env.reset, **task)

    def step(self, env: Any, action: str) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Step an environment."""
        return self.watch.call(f"step({short(action)})", env.step, action)

    def run_episode(self, env: Any, task: dict[str, Any], action: str | None) -> FixedActionEpisode:
        """Run an episode that repeats one action; None: the solution."""
        observation, info = self.reset(env, task)
        steps: list[Any] = []
        while len(steps) < _MAX_STEPS and not (steps and (steps[-1][2] or steps[-1][3])):
            said = self.watch.call("solution()", env.unwrapped.solution) if action is None else action
            steps.append(self.step(env, said))
        self.turns = max(self.turns, len(steps))
        return FixedActionEpisode(observation, info, steps)


def arguments(task: dict[str, Any]) -> str:
    """Return keyword arguments as the text of a call."""
    return ", ".join(f"{name}={value!r}" for name, value in task.items())


def short(value: Any) -> str:
    """Return a value as shortened ASCII text."""
    text = ascii(value)
    return text if len(text) <= 60 else f"{text[:40]}… ({len(text)} characters)"
