"""What flows: a trajectory, the group it belongs to, and the batch that the learner takes.

Each object is plain data. Lengths are in tokens; times are seconds since the epoch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal

import numpy as np

Finish = Literal["eos", "stop", "length", "abort"]
"""How a generation ended: by the model's end of sequence, a stop string, a length limit, or given up."""


@dataclass(slots=True)
class Trajectory:
    """One conversation as the learner sees it: what was sampled, by which weights, and what it earned.

    Attributes:
        tokens: int32 ``[T]``, prompt, sampled and observation tokens in order.
        loss_mask: bool ``[T]``, true exactly on the tokens that the policy sampled.
        logprobs: float32 ``[T]``, log-probability of each sampled token under the behaviour policy, after
            temperature, as sampled; 0 where the mask is false.
        versions: int32 ``[T]``, the weight version that sampled each token; -1 where the mask is false.
        reward: the sum of all rewards of the episode.
        reward_parts: its named components; they sum to ``reward``.
        task: the reset options (and seed) that name the problem.
        finish: how the last generation ended; never ``abort``: an episode with such a part has failed.
        turns: the index of the first sampled token of each turn.
        started, ended: when the episode began and ended.
    """

    tokens: np.ndarray
    loss_mask: np.ndarray
    logprobs: np.ndarray
    versions: np.ndarray
    reward: float
    reward_parts: dict[str, float] = field(default_factory=dict)
    task: dict[str, Any] = field(default_factory=dict)
    finish: Finish = "eos"
    turns: list[int] = field(default_factory=list)
    started: float = 0.0
    ended: float = 0.0

    def __post_init__(self) -> None:
        length = len(self.tokens)
        for name in ("loss_mask", "logprobs", "versions"):
            if len(getattr(self, name)) != length:
                raise ValueError(f"{name} has length {len(getattr(self, name))}, tokens have {length}")

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def sampled(self) -> int:
        """How many tokens the policy sampled."""
        return int(np.count_nonzero(self.loss_mask))

    @property
    def oldest_version(self) -> int:
        """The oldest weight version that sampled a token of this trajectory."""
        return int(self.versions[self.loss_mask].min())

    def to_json(self) -> dict[str, Any]:
        """Plain data; floats keep every bit."""
        return {
            name: value.tolist() if isinstance(value, np.ndarray) else value
            for name, value in ((f.name, getattr(self, f.name)) for f in fields(self))
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Trajectory:
        """Read what :meth:`to_json` wrote."""
        arrays: dict[str, Any] = {
            name: np.asarray(data[name], dtype=dtype) for name, dtype in _ARRAYS.items()
        }
        return cls(**{**data, **arrays})


_ARRAYS = {"tokens": np.int32, "loss_mask": np.bool_, "logprobs": np.float32, "versions": np.int32}


@dataclass(slots=True)
class Group:
    """The n trajectories of one problem (GRPO's group): admitted, finished and consumed together.

    Attributes:
        id: admission number, from 0, never reused.
        version: the weight version at admission; the group may be consumed at versions up to
            ``version + max_staleness``.
        trajectories: all n of them.
    """

    id: int
    version: int
    trajectories: list[Trajectory]

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "id": self.id,
            "version": self.version,
            "trajectories": [t.to_json() for t in self.trajectories],
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Group:
        """Read what :meth:`to_json` wrote."""
        return cls(data["id"], data["version"], [Trajectory.from_json(t) for t in data["trajectories"]])


@dataclass(slots=True)
class Batch:
    """What the learner takes for one update.

    Attributes:
        version: the learner's version at the moment of consumption (the number of finished updates).
        groups: B complete groups, in admission order.
    """

    version: int
    groups: list[Group]

    @property
    def trajectories(self) -> list[Trajectory]:
        """All trajectories, group after group."""
        return [t for group in self.groups for t in group.trajectories]

    @property
    def staleness(self) -> Sequence[int]:
        """For each trajectory: the learner's version less the oldest version that sampled in it."""
        return [self.version - t.oldest_version for t in self.trajectories]
