"""Which problem is the n-th: a seeded order over an environment's problems."""

from __future__ import annotations

import random
from typing import Any

_STRIDE = 2**25
"""Each seed of a run draws its unbounded problems from a range of its own; areal.envs.mixture knows."""
_HELD_OUT = 2**31
"""Environments without splits are evaluated on reset seeds from here on, which training never uses."""


class TaskSource:
    """An endless sequence of reset arguments.

    Args:
        env: an environment. If ``env.unwrapped`` has ``count(split) -> int | None``, problems are chosen
            with ``options={"index": i, "split": split}``: in a new seeded order each epoch, or, where the
            count is None (unbounded), one after the other. Else each task is a new reset seed.
        seed: of the order.
    """

    def __init__(self, env: Any, seed: int) -> None:
        self._indexed = _indexed(env)
        self._count = env.unwrapped.count("train") if self._indexed else None
        self._seed = seed
        self._epoch = -1
        self._order: list[int] = []

    def task(self, position: int) -> dict[str, Any]:
        """Return the keyword arguments of ``env.reset`` for the problem at ``position``, from 0."""
        seed = (self._seed * _STRIDE + position) % _HELD_OUT
        if not self._indexed:
            return {"seed": seed}
        index = seed if self._count is None else self._index(position, self._count)
        return {"seed": seed, "options": {"index": index, "split": "train"}}

    def _index(self, position: int, count: int) -> int:
        epoch, place = divmod(position, count)
        if epoch != self._epoch:
            self._order = list(range(count))
            random.Random(f"{self._seed}/{epoch}").shuffle(self._order)
            self._epoch = epoch
        return self._order[place]


def held_out(env: Any, problems: int) -> list[dict[str, Any]]:
    """Return reset arguments of up to ``problems`` held-out problems: the same ones every time."""
    if not _indexed(env):
        return [{"seed": _HELD_OUT + i} for i in range(problems)]
    count = env.unwrapped.count("test")
    size = problems if count is None else min(problems, count)
    return [{"seed": i, "options": {"index": i, "split": "test"}} for i in range(size)]


def _indexed(env: Any) -> bool:
    return callable(getattr(env.unwrapped, "count", None))
