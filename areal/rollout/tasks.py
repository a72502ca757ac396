"""Determines the n-th problem: a seeded order of an environment's problems."""

from __future__ import annotations

import random
from typing import Any

from areal.envs.seeds import HELD_OUT, RUN_STRIDE
from areal.errors import UserError, explained


class TaskSource:
    """An endless sequence of reset arguments.

    Args:
        env: an environment. If ``env.unwrapped`` has ``count(split) -> int | None``, problems are chosen with
            ``options={"index": i, "split": split}``: in a new seeded order each epoch or, if the count is
            None (unlimited), one after the other. Otherwise each task is a new reset seed.

    Raises:
        UserError: the environment has no training problems, or cannot report their number.
    """

    def __init__(self, env: Any, seed: int) -> None:
        self._indexed = _indexed(env)
        self._count = _count(env, "train") if self._indexed else None
        if self._count == 0:
            raise UserError(f"environment '{_name(env)}' has no problems in its train split")
        self._seed = seed
        self._epoch = -1
        self._order: list[int] = []

    def task(self, position: int) -> dict[str, Any]:
        """Return the keyword arguments of ``env.reset`` for the problem at ``position``, from 0."""
        seed = (self._seed * RUN_STRIDE + position) % HELD_OUT
        if not self._indexed:
            return {"seed": seed}
        index = seed if self._count is None else self._index(position, self._count)
        return {"seed": seed, "options": {"index": index, "split": "train"}}

    def _index(self, position: int, count: int) -> int:
        epoch, offset = divmod(position, count)
        if epoch != self._epoch:
            self._order = list(range(count))
            random.Random(f"{self._seed}/{epoch}").shuffle(self._order)
            self._epoch = epoch
        return self._order[offset]


def held_out(env: Any, problems: int) -> list[dict[str, Any]]:
    """Return reset arguments of up to ``problems`` held-out problems, always the same ones.

    Raises:
        UserError: the environment cannot report their number.
    """
    if not _indexed(env):
        return [{"seed": HELD_OUT + i} for i in range(problems)]
    count = _count(env, "test")
    size = problems if count is None else min(problems, count)
    return [{"seed": i, "options": {"index": i, "split": "test"}} for i in range(size)]


def _indexed(env: Any) -> bool:
    return callable(getattr(env.unwrapped, "count", None))


def _count(env: Any, split: str) -> int | None:
    """Return the number of problems in a split; None: unlimited."""
    what = f"environment '{_name(env)}': count({split!r})"
    try:
        count = env.unwrapped.count(split)
    except UserError:
        raise
    except Exception as error:  # an environment may raise anything
        raise UserError(f"{what} raised {explained(error, __file__)}") from error
    if count is not None and (not isinstance(count, int) or count < 0):
        raise UserError(
            f"{what} returned {count!r}; return the number of problems, or None if it is unbounded"
        )
    return count


def _name(env: Any) -> str:
    spec = getattr(env, "spec", None)
    return type(env.unwrapped).__name__ if spec is None else spec.id
