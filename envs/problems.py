"""The common parts of environments with problems: the choice of a problem, its episode, and its prompt."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, TypeVar

import gymnasium
from gymnasium.error import ResetNeeded

from areal.envs.text import UnicodeText
from areal.errors import UserError

SPLITS = ("train", "test")
_UNBOUNDED = 2**31
"""A reset without an index draws one below this, if the number of problems is unlimited."""

T = TypeVar("T")


class ProblemEnv(gymnasium.Env[str, str], Generic[T]):
    """An environment with one problem per episode; a subclass asks the question and judges the answer.

    If a problem is a conversation (its attribute ``opening`` contains the earlier messages), the observation
    is only the question, and ``info["messages"]`` contains all messages.

    Args:
        name: name of the environment, for error messages.
        problems: problems of the splits ``train`` and ``test``; or a function that returns problem ``index``
            of a split, if their number is unlimited.
        split: the split from which a reset without an index draws.
        longest: maximum length of an observation, in characters.
        render_mode: Gymnasium's argument; no mode is supported.

    Raises:
        UserError: the split does not exist.
    """

    metadata = {"render_modes": []}  # noqa: RUF012 (Gymnasium's own form)

    def __init__(
        self,
        name: str,
        problems: Mapping[str, Sequence[T]] | Callable[[str, int], T],
        split: str,
        longest: int,
        render_mode: str | None,
    ) -> None:
        self.observation_space = UnicodeText(longest)
        self.action_space = UnicodeText(2**20)
        self.render_mode = render_mode
        self._name = name
        self._problems = problems
        self._split = self._known(split)
        self._chosen: T | None = None
        self._turn = 0

    def asked(self, problem: T) -> str:
        """Return the question for the model."""
        raise NotImplementedError

    def count(self, split: str) -> int | None:
        """Return the number of problems in a split; None: unlimited."""
        return None if callable(self._problems) else len(self._problems[self._known(split)])

    @property
    def notices(self) -> tuple[str, ...]:
        """Notes for the user on how the data was read."""
        return getattr(self._problems, "notices", ())

    @property
    def warnings(self) -> tuple[str, ...]:
        """Warnings on possible errors in the data."""
        return getattr(self._problems, "warnings", ())

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[str, dict[str, Any]]:
        """Choose a problem.

        Args:
            seed: makes the choice reproducible.
            options: ``{"index": i, "split": "train" | "test"}``; both keys are optional.

        Raises:
            UserError: the problem does not exist.
        """
        super().reset(seed=seed)
        options = options or {}
        split = self._known(options.get("split", self._split))
        size = self._size(split)
        index = options.get("index")
        index = int(self.np_random.integers(size) if index is None else index)
        if not 0 <= index < size:
            raise UserError(
                f"{self._name}: the {split} split has {size} problems, and {index} is not one of them"
            )
        chosen = self._problems(split, index) if callable(self._problems) else self._problems[split][index]
        self._chosen, self._turn = chosen, 0
        asked = self.asked(chosen)
        info: dict[str, Any] = {"split": split, "index": index}
        if opening := getattr(chosen, "opening", ()):
            said = [*opening, ("user", asked)]
            info["messages"] = [{"role": role, "content": content} for role, content in said]
        return asked, info

    @property
    def problem(self) -> T:
        """The problem of the current episode; raises ResetNeeded if there is none."""
        if self._chosen is None:
            raise ResetNeeded("call reset first")
        return self._chosen

    def _size(self, split: str) -> int:
        count = self.count(split)
        if count == 0:
            raise UserError(f"{self._name}: the data has no problems in its {split} split")
        return _UNBOUNDED if count is None else count

    def _known(self, split: str) -> str:
        if split not in SPLITS:
            raise UserError(f"{self._name}: split={split!r} must be 'train' or 'test'")
        return split


def checked_difficulty(env: str, difficulty: int, known: dict[int, str]) -> int:
    """Return a difficulty; raises UserError if it is invalid."""
    if difficulty not in known:
        texts = "; ".join(f"{n}: {text}" for n, text in known.items())
        raise UserError(f"{env}: difficulty={difficulty!r} must be one of: {texts}")
    return difficulty


def checked_prompt(env: str, prompt: str) -> str:
    """Return a template with ``{problem}``; raises UserError if it is invalid."""
    try:
        shown = prompt.format(problem="\0")
    except (KeyError, IndexError, ValueError) as error:
        raise UserError(
            f"{env}: the prompt {prompt!r} is not a valid template ({error!r}); double its own braces: "
            "{{}}"
        ) from error
    if "\0" not in shown:
        raise UserError(f"{env}: the prompt {prompt!r} does not contain {{problem}}")
    return prompt
