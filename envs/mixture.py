"""``mixture-v1``: several environments as one, each with a weight.

The index alone determines the environment of a problem and the problem in it, so there is no state: the
choice is the same on every thread and after the run is resumed.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import gymnasium
from gymnasium.error import ResetNeeded

from areal.envs.seeds import HELD_OUT, RUN_STRIDE
from areal.envs.text import UnicodeText
from areal.errors import UserError, nearest
from areal.registry import env_label, make_env

_DEFAULTS: dict[str, Any] = {"env": None, "weight": 1, "options": {}, "name": None, "after": 0}


@dataclass(frozen=True, slots=True)
class Member:
    """One environment of a mixture.

    Attributes:
        name: its name in metrics and in ``info["env"]``.
        env: the environment.
        weight: its share of the problems is its weight divided by the sum of the weights.
        after: number of problems of a run before it joins (a curriculum).
    """

    name: str
    env: Any
    weight: int
    after: int

    @property
    def counted(self) -> bool:
        """Return whether its problems have indices."""
        return callable(getattr(self.env.unwrapped, "count", None))

    def count(self, split: str) -> int | None:
        """Return the number of problems in a split; None: unbounded."""
        return self.env.unwrapped.count(split) if self.counted else None


class MixtureEnv(gymnasium.Env[str, str]):
    """Several environments as one; ``info["env"]`` names the environment of the problem.

    Args:
        members: a list of ``{"env": ..., "weight": 2, "options": {...}, "name": ..., "after": 0}``; all keys
            except ``env`` are optional. Weights are whole numbers. A member joins after ``after`` problems of
            a run, so that easy environments can come first.
        split: split from which a reset without an index draws, ``train`` or ``test``.

    Raises:
        UserError: there are no members, a member is invalid, or two have the same name.
    """

    metadata = {"render_modes": []}  # noqa: RUF012 (Gymnasium's own form)

    def __init__(
        self, members: Sequence[dict[str, Any]], split: str = "train", render_mode: str | None = None
    ) -> None:
        self.render_mode = render_mode
        self._members = _make_members(members)
        self._split = split
        lengths = [(_length(m.env.observation_space), _length(m.env.action_space)) for m in self._members]
        self.observation_space = UnicodeText(max(seen for seen, _ in lengths))
        self.action_space = UnicodeText(max(said for _, said in lengths))
        self._current: Member | None = None

    @property
    def environments(self) -> dict[str, Any]:
        """Environments of the members, by name."""
        return {member.name: member.env for member in self._members}

    @property
    def notices(self) -> tuple[str, ...]:
        """How the data of the members was read."""
        return tuple(line for m in self._members for line in getattr(m.env.unwrapped, "notices", ()))

    @property
    def warnings(self) -> tuple[str, ...]:
        """Possible problems of the members' data."""
        found = ((m.name, line) for m in self._members for line in getattr(m.env.unwrapped, "warnings", ()))
        return tuple(f"{name}: {line}" for name, line in found)

    def count(self, split: str) -> int | None:
        """Return the number of problems in a split; for ``test``, the number before the first repetition."""
        if split == "train":
            return None
        weights, total = [m.weight for m in self._members], sum(m.weight for m in self._members)
        ends = []
        for place, member in enumerate(self._members):
            if (count := member.count(split)) is not None:
                rounds, rest = divmod(count, member.weight)
                turns = [i for i, who in enumerate(pattern(tuple(weights))) if who == place]
                ends.append(rounds * total + turns[rest])
        return min(ends) if ends else None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[str, dict[str, Any]]:
        """Choose a problem.

        Args:
            seed: makes the choice reproducible.
            options: ``{"index": i, "split": "train" | "test"}``; both are optional.
        """
        super().reset(seed=seed)
        options = options or {}
        split = options.get("split", self._split)
        index = options.get("index")
        index = int(self.np_random.integers(HELD_OUT) if index is None else index)
        joins = tuple(m.after if split == "train" else 0 for m in self._members)
        place, number = turn(index, tuple(m.weight for m in self._members), joins)
        self._current = self._members[place]
        observation, info = self._current.env.reset(**_task(self._current, split, number))
        # The info of a member without splits names no split (areal.authoring.rules).
        whole = {"split": split} if self._current.counted else {}
        return observation, {**info, **whole, "env": self._current.name, "index": index}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Act in the environment of the problem."""
        if self._current is None:
            raise ResetNeeded("call reset before step")
        return self._current.env.step(action)

    def close(self) -> None:
        """Close all environments."""
        for member in self._members:
            member.env.close()


def turn(index: int, weights: tuple[int, ...], joins: tuple[int, ...]) -> tuple[int, int]:
    """Return the member of the problem at an index, and the number of earlier problems of that member.

    Args:
        index: index of the problem.
        weights: weights of the members.
        joins: for each member, the number of problems of a run before its first. If all are larger than 0,
            the first to join begins immediately.
    """
    base, position = index - index % RUN_STRIDE, index % RUN_STRIDE
    joins = tuple(j - min(joins) for j in joins)
    before = [0] * len(weights)
    starts = sorted(set(joins))
    for start, end in zip(starts, [*starts[1:], RUN_STRIDE], strict=True):
        active = pattern(tuple(w if j <= start else 0 for w, j in zip(weights, joins, strict=True)))
        rounds, rest = divmod(min(position, end) - start, len(active))
        for place in range(len(weights)):
            before[place] += rounds * active.count(place) + active[:rest].count(place)
        if position < end:
            return active[rest], base + before[active[rest]]
    raise AssertionError("a position is below the last end")


@lru_cache(maxsize=64)
def pattern(weights: tuple[int, ...]) -> tuple[int, ...]:
    """Return the order of members in one round, whose length is the sum of the weights, evenly spread."""
    credit, turns = [0] * len(weights), []
    for _ in range(sum(weights)):
        credit = [c + w for c, w in zip(credit, weights, strict=True)]
        place = max(range(len(weights)), key=lambda i: (credit[i], -i))
        credit[place] -= sum(weights)
        turns.append(place)
    return tuple(turns)


def _task(member: Member, split: str, number: int) -> dict[str, Any]:
    """Return the reset arguments of a member's ``number``-th problem."""
    if not member.counted:
        return {"seed": number % HELD_OUT + (HELD_OUT if split == "test" else 0)}
    if (count := member.count(split)) is not None:
        if not count:
            raise UserError(f"mixture-v1: '{member.name}' has no problems in its {split} split")
        epoch, place = divmod(number, count)
        number = _order(count, epoch)[place] if split == "train" else place
    return {"seed": number % HELD_OUT, "options": {"index": number, "split": split}}


@lru_cache(maxsize=64)
def _order(count: int, epoch: int) -> list[int]:
    order = list(range(count))
    random.Random(f"mixture/{epoch}").shuffle(order)
    return order


def _make_members(members: Any) -> list[Member]:
    if not isinstance(members, list | tuple) or not members:
        raise UserError("a mixture is a list of members, such as [{env: math-v1, weight: 2}, {env: code-v1}]")
    made = [_make_member(given) for given in members]
    names = [member.name for member in made]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"mixture: two members have the name '{name}'; set `name` of one of them")
    return made


def _make_member(given: Any) -> Member:
    if not isinstance(given, dict) or "env" not in given:
        raise UserError(f"mixture: {given!r} is not a member; write {{env: math-v1, weight: 2}}")
    for key in given:
        if key not in _DEFAULTS:
            raise UserError(f"mixture: a member has no key '{key}'{nearest(key, _DEFAULTS)}")
    whole = {**_DEFAULTS, **given}
    for key, least in (("weight", 1), ("after", 0)):
        if type(whole[key]) is not int or whole[key] < least:
            raise UserError(
                f"mixture: {key}={whole[key]!r} of '{whole['env']}' is not a whole number of at least {least}"
            )
    env = make_env(whole["env"], **whole["options"])
    return Member(whole["name"] or env_label(whole["env"]), env, whole["weight"], whole["after"])


def _length(space: Any) -> int:
    return getattr(space, "max_length", 2**16)
