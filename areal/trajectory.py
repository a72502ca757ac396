"""What flows: trajectories, the episode that they belong to, its group, and the batch of the learner.

Each object is plain data. Lengths are in tokens; times are seconds since the epoch.
"""

from __future__ import annotations

import base64
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields
from itertools import pairwise
from typing import Any, Literal

import numpy as np

from areal.images import Image
from areal.spans import Span
from areal.thoughts import Thought

Finish = Literal["eos", "stop", "length", "abort"]
"""How a generation ended: by the model's end of sequence, a stop string, a length limit, or given up."""


@dataclass(slots=True)
class Trajectory:
    """One conversation as the learner sees it: what was sampled, by which weights.

    Attributes:
        tokens: int32 ``[T]``, prompt, sampled and observation tokens in order.
        loss_mask: bool ``[T]``, true exactly on the tokens that the policy sampled for this trajectory; in a
            response it is false on what was put in to end its thought.
        logprobs: float32 ``[T]``, log-probability of each sampled token under the behaviour policy, after
            temperature, as sampled; 0 where the mask is false.
        versions: int32 ``[T]``, the weight version that sampled each token; -1 where the mask is false.
        finish: how the last generation ended; never ``abort``: an episode with such a part has failed.
        turns: the index of the first sampled token of each turn.
        calls: of each turn, its number among all turns of the episode, in the order in which they began.
        rewards: of each turn, the reward between its end and the end of the next turn.
        player: who speaks in it; empty where the environment has one player.
        images: the pictures that the model saw, in the order of their placeholders among the tokens.
        thoughts: of each turn, what its response thought; None where its prompt, or the chat template, rules
            thoughts out. Empty if it is not known.
        experts: uint8 or uint16 ``[R, layers, k]``, those that the engine sent each of the first R ≤ T tokens
            to when it first computed them; nothing follows from the last one, so that it may have none. None:
            they are not recorded.
    """

    tokens: np.ndarray
    loss_mask: np.ndarray
    logprobs: np.ndarray
    versions: np.ndarray
    finish: Finish = "eos"
    turns: list[int] = field(default_factory=list)
    calls: list[int] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)
    player: str = ""
    images: list[Image] = field(default_factory=list)
    thoughts: list[Thought | None] = field(default_factory=list)
    experts: np.ndarray | None = None

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
    def responses(self) -> np.ndarray:
        """Bool ``[T]``, true on all tokens of responses: sampled ones, and what was put in between them."""
        mask = self.loss_mask.copy()
        for begin, end in pairwise([*self.turns, len(self)]):
            mask[begin : begin + 1 + int(np.flatnonzero(self.loss_mask[begin:end])[-1])] = True
        return mask

    @property
    def oldest_version(self) -> int:
        """The oldest weight version that sampled a token of this trajectory."""
        return int(self.versions[self.loss_mask].min())

    def to_json(self) -> dict[str, Any]:
        """Plain data; floats keep every bit."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        experts = values.pop("experts")
        data = {name: v.tolist() if isinstance(v, np.ndarray) else v for name, v in values.items()}
        data["images"] = [image.to_json() for image in self.images]
        # They are hundreds of numbers a token.
        return data if experts is None else {**data, "experts": packed_array(experts)}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Trajectory:
        """Read what :meth:`to_json` wrote."""
        arrays: dict[str, Any] = {
            name: np.asarray(data[name], dtype=dtype) for name, dtype in _ARRAYS.items()
        }
        if "experts" in data:
            arrays["experts"] = unpacked_array(data["experts"])
        thoughts = [thought and Thought(*thought) for thought in data.get("thoughts", ())]
        images = [Image.from_json(image) for image in data.get("images", ())]
        return cls(**{**data, **arrays, "images": images, "thoughts": thoughts})


def packed_array(array: np.ndarray) -> dict[str, Any]:
    """Return an array as plain data, small: its bytes compressed, in base64."""
    content = base64.b64encode(zlib.compress(array.tobytes(), level=1)).decode()
    return {"dtype": str(array.dtype), "shape": list(array.shape), "zlib": content}


def unpacked_array(data: dict[str, Any]) -> np.ndarray:
    """Read what :func:`packed_array` made."""
    content = zlib.decompress(base64.b64decode(data["zlib"]))
    return np.frombuffer(content, data["dtype"]).reshape(data["shape"])


_ARRAYS = {"tokens": np.int32, "loss_mask": np.bool_, "logprobs": np.float32, "versions": np.int32}


@dataclass(slots=True)
class Episode:
    """One attempt at a problem: its trajectories and the reward that they share.

    In a game of several players each has trajectories and a reward of its own.

    Attributes:
        trajectories: at least one; several if there were sub-agents, or if a chat template rewrote history.
        reward: the sum of all rewards.
        reward_parts: its named components; they sum to ``reward``.
        task: the reset options (and seed) that name the problem.
        started, ended: when it began and ended.
        env: which environment of a mixture it is of; empty if it is of none.
        actions: what the agent did in the environment, in order.
        unfinished: the agent acted in the environment, and stopped before the environment ended the episode.
        expected: what would have been right, where the environment says so, for people who read it.
        failure: the error of its agent, whose episode then has the reward 0; empty if there was none.
        players: what each player earned, where there are several; they sum to ``reward``.
        seconds: where its time went: in calls of the ``model`` and of the environment (``env``), within them
            in its ``verifier``, and waiting for a worker of the environment (``env_queue``). Calls at once
            count each.
        spans: what it did when, in the order in which it ended.
    """

    trajectories: list[Trajectory]
    reward: float
    reward_parts: dict[str, float] = field(default_factory=dict)
    task: dict[str, Any] = field(default_factory=dict)
    started: float = 0.0
    ended: float = 0.0
    env: str = ""
    actions: list[str] = field(default_factory=list)
    unfinished: bool = False
    expected: str = ""
    failure: str = ""
    players: dict[str, float] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    spans: list[Span] = field(default_factory=list)

    @property
    def returns(self) -> dict[str, float]:
        """What those earned who acted in it: each player, or the only one, whose name is empty."""
        if not self.players:
            return {"": self.reward}
        acted = {t.player for t in self.trajectories}
        return {name: reward for name, reward in self.players.items() if name in acted}

    @property
    def sampled(self) -> int:
        """How many tokens the policy sampled."""
        return sum(t.sampled for t in self.trajectories)

    @property
    def finish(self) -> Finish:
        """How the last generation of its last trajectory ended."""
        return self.trajectories[-1].finish

    def to_json(self) -> dict[str, Any]:
        """Plain data; floats keep every bit."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return {**values, "trajectories": [t.to_json() for t in self.trajectories]}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Episode:
        """Read what :meth:`to_json` wrote."""
        trajectories = [Trajectory.from_json(t) for t in data["trajectories"]]
        spans = [Span(*values) for values in data.get("spans", ())]
        return cls(**{**data, "trajectories": trajectories, "spans": spans})


@dataclass(slots=True)
class Group:
    """The n episodes of one problem (GRPO's group): admitted, finished and consumed together.

    Attributes:
        id: admission number, from 0, never reused.
        version: the weight version at admission; the group may be consumed at versions up to
            ``version + max_staleness``.
        episodes: all n of them.
    """

    id: int
    version: int
    episodes: list[Episode]

    @property
    def trajectories(self) -> list[Trajectory]:
        """All trajectories, episode after episode."""
        return [t for episode in self.episodes for t in episode.trajectories]

    def to_json(self) -> dict[str, Any]:
        """Plain data; a picture that several episodes show is there once."""
        episodes, pictures = [e.to_json() for e in self.episodes], dict[str, int]()
        for image in _images_of(episodes):
            image["png"] = pictures.setdefault(image["png"], len(pictures))
        data = {"id": self.id, "version": self.version, "episodes": episodes}
        return {**data, "pictures": [*pictures]} if pictures else data

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Group:
        """Read what :meth:`to_json` wrote."""
        for image in _images_of(data["episodes"]):
            if isinstance(image["png"], int):
                image["png"] = data["pictures"][image["png"]]
        return cls(data["id"], data["version"], [Episode.from_json(e) for e in data["episodes"]])


def _images_of(episodes: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield the images of episodes that are plain data."""
    for episode in episodes:
        for trajectory in episode["trajectories"]:
            yield from trajectory.get("images", ())


@dataclass(frozen=True, slots=True)
class TokenValues:
    """What an update computed of the sampled tokens of a trajectory, when it was trained on them.

    Attributes:
        group: number of its group.
        number: place of its episode in the group, from 1.
        conversation: its place among the trajectories of the episode, from 0.
        values: float32 ``[K]`` by name: ``advantage``, ``entropy`` in nats, and the ratios ``prox/behav``
            and ``theta/prox``, or ``theta/behav`` if the objective is naive (docs/objectives.md).
    """

    group: int
    number: int
    conversation: int
    values: dict[str, np.ndarray]

    def to_json(self) -> dict[str, Any]:
        """Plain data, rounded to five digits behind the point."""
        values = {name: column.astype(float).round(5).tolist() for name, column in self.values.items()}
        place = {"group": self.group, "number": self.number, "conversation": self.conversation}
        return {**place, "values": values}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> TokenValues:
        """Read what :meth:`to_json` wrote."""
        values = {name: np.asarray(column, dtype=np.float32) for name, column in data["values"].items()}
        return cls(data["group"], data["number"], data["conversation"], values)


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
    def episodes(self) -> list[Episode]:
        """All episodes, group after group."""
        return [episode for group in self.groups for episode in group.episodes]

    @property
    def trajectories(self) -> list[Trajectory]:
        """All trajectories, group after group."""
        return [t for group in self.groups for t in group.trajectories]

    @property
    def staleness(self) -> Sequence[int]:
        """For each trajectory: the learner's version less the oldest version that sampled in it."""
        return [self.version - t.oldest_version for t in self.trajectories]
