r"""``reasoning-gym-v1``: the procedural data sets of reasoning-gym, with their own scorers."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any, TypeAlias

from areal.envs.problems import ProblemEnv
from areal.errors import UserError, install_hint
from areal.rewards.answers import boxed_answer

PROMPT = "{question}\nPut the final answer in \\boxed{{}}."
_TRIES = 60
"""Maximum number of draws for a question; each belongs to the split with probability 1/2."""

Question: TypeAlias = dict[str, Any]


class ReasoningGymEnv(ProblemEnv[Question]):
    r"""A question of a reasoning-gym data set; its scorer rewards the content of ``\boxed{}``.

    Args:
        dataset: name of the data set, such as ``chain_sum`` or ``countdown``.
        size: number of questions in each split; the hash of a question's text determines its split.
        split: the split from which a reset without an index draws, ``train`` or ``test``.
        options: settings of the data set.

    Raises:
        UserError: reasoning-gym is not installed, does not have this data set, or refuses the options.
    """

    def __init__(
        self,
        dataset: str = "chain_sum",
        size: int = 10_000,
        split: str = "train",
        options: dict[str, Any] | None = None,
        render_mode: str | None = None,
    ) -> None:
        load = partial(_load, dataset, size, options=options or {})
        self._scorer = load(0)
        sets = {name: _Questions(load, size, seed) for seed, name in enumerate(("train", "test"))}
        super().__init__("reasoning-gym-v1", sets, split, 2**16, render_mode)

    def asked(self, problem: Question) -> str:
        """Return the prompt with the question."""
        return PROMPT.format(question=problem["question"])

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Judge an answer and end the episode."""
        reward = float(self._scorer.score_answer(boxed_answer(action), self.problem))
        expected = self.problem["answer"]
        return "", reward, True, False, {"reward_parts": {"correct": reward}, "expected": expected}


class _Questions(Sequence[Question]):
    """The questions of a split (0 or 1): each comes from the next seeds, until one belongs to the split.

    ``load`` returns the data set of a seed; half of all questions belong to each split.
    """

    def __init__(self, load: Callable[[int], Any], size: int, split: int) -> None:
        self._load = cache(load)
        self._size = size
        self._split = split

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, index: Any) -> Any:
        for turn in range(_TRIES):
            found = self._load(self._split + 2 * turn)[index]
            if hashlib.sha256(found["question"].encode()).digest()[0] % 2 == self._split:
                return found
        raise UserError(
            f"reasoning-gym-v1: {_TRIES} attempts found no question {index} of this split, because the data "
            "set has too few; choose other options"
        )


def _load(dataset: str, size: int, seed: int, options: dict[str, Any]) -> Any:
    try:
        import reasoning_gym
    except ModuleNotFoundError as error:
        if error.name != "reasoning_gym":
            raise
        raise UserError(
            f"reasoning-gym-v1 requires reasoning-gym; install it with {install_hint('reasoning-gym')}"
        ) from error
    try:
        return reasoning_gym.create_dataset(dataset, seed=seed, size=size, **options)
    except (ValueError, TypeError, AssertionError) as error:
        raise UserError(f"reasoning-gym-v1: the data set '{dataset}' cannot be created: {error}") from error
