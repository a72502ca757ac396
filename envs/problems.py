"""What environments of problems share: the choice of one, its episode, and its prompt."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, TypeVar

import gymnasium
import numpy as np
from gymnasium.error import ResetNeeded

from areal.envs.text import UnicodeText
from areal.errors import UserError

SPLITS = ("train", "test")
_UNBOUNDED = 2**31
"""A reset without an index draws one below this, where there are problems without end."""

T = TypeVar("T")


class Problems(Generic[T]):
    """The problems of an environment, in the splits ``train`` and ``test``.

    Args:
        env: the environment's name, for complaints.
        draw: returns problem ``index`` of a split, where they are procedural.
        listed: the problems of both splits; None: ``draw`` makes them, without end.
        split: where a choice without an index draws from.

    Raises:
        UserError: no such split.
    """

    def __init__(
        self, env: str, draw: Callable[[str, int], T], listed: Mapping[str, Sequence[T]] | None, split: str
    ) -> None:
        self._env = env
        self._draw = draw
        self._listed = listed
        self._default = self._known(split)

    def count(self, split: str) -> int | None:
        """Return how many problems a split has; None: no end to them."""
        return None if self._listed is None else len(self._listed[self._known(split)])

    @property
    def notices(self) -> tuple[str, ...]:
        """How their data was read, for the user to see."""
        return getattr(self._listed, "notices", ())

    @property
    def warnings(self) -> tuple[str, ...]:
        """What may be wrong with their data."""
        return getattr(self._listed, "warnings", ())

    def choose(self, options: dict[str, Any] | None, rng: np.random.Generator) -> tuple[T, dict[str, Any]]:
        """Return a problem and where it comes from.

        Args:
            options: ``{"index": i, "split": "train" | "test"}``; either may be left out.
            rng: draws the index that is left out.

        Raises:
            UserError: no such problem.
        """
        options = options or {}
        split = self._known(options.get("split", self._default))
        index = options.get("index")
        index = int(rng.integers(self._size(split)) if index is None else index)
        if not 0 <= index < self._size(split):
            size = self._size(split)
            raise UserError(f"{self._env}: no problem {index} in the {split} split: it has {size}")
        found = self._draw(split, index) if self._listed is None else self._listed[split][index]
        return found, {"split": split, "index": index}

    def _size(self, split: str) -> int:
        count = self.count(split)
        if count == 0:
            raise UserError(f"{self._env}: the data has no problem in its {split} split")
        return _UNBOUNDED if count is None else count

    def _known(self, split: str) -> str:
        if split not in SPLITS:
            raise UserError(f"{self._env}: split={split!r} is neither 'train' nor 'test'")
        return split


class ProblemEnv(gymnasium.Env[str, str], Generic[T]):
    """An environment whose episodes are about one problem each; a subclass says what is asked, and judges.

    Where a problem is a conversation (its attribute ``opening`` has what was said before), the observation is
    the question alone, and ``info["messages"]`` all of it.

    Args:
        problems: where they come from.
        longest: characters of an observation.
        render_mode: of Gymnasium; there is none.
    """

    metadata = {"render_modes": []}  # noqa: RUF012 (Gymnasium's own form)

    def __init__(self, problems: Problems[T], longest: int, render_mode: str | None) -> None:
        self.observation_space = UnicodeText(longest)
        self.action_space = UnicodeText(2**20)
        self.render_mode = render_mode
        self._problems = problems
        self._chosen: T | None = None
        self._turn = 0

    def asked(self, problem: T) -> str:
        """Return what the model is asked."""
        raise NotImplementedError

    def count(self, split: str) -> int | None:
        """Return how many problems a split has; None: no end to them."""
        return self._problems.count(split)

    @property
    def notices(self) -> tuple[str, ...]:
        """How the data was read, for the user to see."""
        return self._problems.notices

    @property
    def warnings(self) -> tuple[str, ...]:
        """What may be wrong with the data."""
        return self._problems.warnings

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[str, dict[str, Any]]:
        """Choose a problem.

        Args:
            seed: makes the choice reproducible.
            options: ``{"index": i, "split": "train" | "test"}``; either may be left out.

        Raises:
            UserError: no such problem.
        """
        super().reset(seed=seed)
        self._chosen, info = self._problems.choose(options, self.np_random)
        self._turn = 0
        asked = self.asked(self._chosen)
        if opening := getattr(self._chosen, "opening", ()):
            said = [*opening, ("user", asked)]
            info["messages"] = [{"role": role, "content": content} for role, content in said]
        return asked, info

    @property
    def problem(self) -> T:
        """The problem of this episode.

        Raises:
            ResetNeeded: there is none yet.
        """
        if self._chosen is None:
            raise ResetNeeded("call reset first")
        return self._chosen


def checked_difficulty(env: str, difficulty: int, known: dict[int, str]) -> int:
    """Return a difficulty; raises UserError if it is none."""
    if difficulty not in known:
        texts = "; ".join(f"{n}: {text}" for n, text in known.items())
        raise UserError(f"{env}: difficulty={difficulty!r} is none of these: {texts}")
    return difficulty


def checked_prompt(env: str, prompt: str) -> str:
    """Return a template with ``{problem}``; raises UserError if it is none."""
    try:
        shown = prompt.format(problem="\0")
    except (KeyError, IndexError, ValueError) as error:
        raise UserError(
            f"{env}: the prompt {prompt!r} is no template ({error!r}); double its own braces: {{{{}}}}"
        ) from error
    if "\0" not in shown:
        raise UserError(f"{env}: the prompt {prompt!r} does not contain {{problem}}")
    return prompt
