"""The data that a run passes on: trajectories, their episodes and groups, and the batches of the learner.

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
"""How a generation ended: with the end-of-sequence token, a stop string, a length limit, or an abort."""


@dataclass(slots=True)
class Trajectory:
    """One conversation as the learner sees it: its tokens, and which weights sampled them.

    Attributes:
        tokens: int32 ``[T]``, prompt, sampled and observation tokens in order.
        loss_mask: bool ``[T]``, true exactly for the tokens that the policy sampled in this trajectory. In a
            response, it is false for tokens that were inserted to end the thought.
        logprobs: float32 ``[T]``, log-probability of each sampled token under the behavior policy, after
            temperature, as sampled; 0 where the mask is false.
        versions: int32 ``[T]``, the weight version that sampled each token; -1 where the mask is false.
        finish: how the last generation ended; never ``abort``, because such an episode has failed.
        turns: the index of the first sampled token of each turn.
        calls: for each turn, its number among all turns of the episode, in the order in which they began.
        rewards: for each turn, the reward between its end and the end of the next turn.
        player: the player that the model acts for; empty if the environment has one player.
        images: the pictures that the model saw, in the order of their placeholders among the tokens.
        thoughts: for each turn, the thought of its response; None if its prompt or the chat template excludes
            thoughts. Empty if thoughts are unknown.
        experts: uint8 or uint16 ``[R, layers, k]``, the experts to which the engine routed each of the first
            R ≤ T tokens when it first computed them; the last token may have none, because nothing depends on
            it. None: not recorded.
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
        """Number of tokens that the policy sampled."""
        return int(np.count_nonzero(self.loss_mask))

    @property
    def responses(self) -> np.ndarray:
        """Bool ``[T]``, true for all tokens of responses: sampled ones, and those inserted between them."""
        mask = self.loss_mask.copy()
        for begin, end in pairwise([*self.turns, len(self)]):
            mask[begin : begin + 1 + int(np.flatnonzero(self.loss_mask[begin:end])[-1])] = True
        return mask

    @property
    def oldest_version(self) -> int:
        """The oldest weight version that sampled a token of this trajectory."""
        return int(self.versions[self.loss_mask].min())

    def to_json(self) -> dict[str, Any]:
        """Return plain data, in which floats keep every bit."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        experts = values.pop("experts")
        data = {name: v.tolist() if isinstance(v, np.ndarray) else v for name, v in values.items()}
        data["images"] = [image.to_json() for image in self.images]
        # They are hundreds of numbers per token.
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
    """Return an array as compact plain data: its bytes, compressed, in base64."""
    content = base64.b64encode(zlib.compress(array.tobytes(), level=1)).decode()
    return {"dtype": str(array.dtype), "shape": list(array.shape), "zlib": content}


def unpacked_array(data: dict[str, Any]) -> np.ndarray:
    """Read what :func:`packed_array` wrote."""
    content = zlib.decompress(base64.b64decode(data["zlib"]))
    return np.frombuffer(content, data["dtype"]).reshape(data["shape"])


_ARRAYS = {"tokens": np.int32, "loss_mask": np.bool_, "logprobs": np.float32, "versions": np.int32}


@dataclass(slots=True)
class Episode:
    """One attempt at a problem: its trajectories and the reward that they share.

    In a game with several players, each player has its own trajectories and reward.

    Attributes:
        trajectories: at least one; several if there were sub-agents, or if the chat template rewrote earlier
            turns.
        reward: the sum of all rewards.
        reward_parts: its named parts, which sum to ``reward``.
        task: the reset options (and seed) that name the problem.
        started, ended: when it began and ended.
        env: the environment of a mixture to which it belongs; empty outside of mixtures.
        actions: what the agent did in the environment, in order.
        unfinished: whether the agent acted in the environment, and stopped before the environment ended the
            episode.
        expected: the correct answer, for people who read the rollout, if the environment provides it.
        failure: the error of its agent, for which the episode has the reward 0; empty if there was none.
        players: the reward of each player, if there are several; they sum to ``reward``.
        seconds: where the time was spent: in calls of the ``model`` and of the environment (``env``), in the
            ``verifier`` within them, and waiting for a worker of the environment (``env_queue``). Concurrent
            calls all count.
        spans: what it did and when, ordered by end time.
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
        """Rewards of the players who acted in it; a single player has the name ""."""
        if not self.players:
            return {"": self.reward}
        acted = {t.player for t in self.trajectories}
        return {name: reward for name, reward in self.players.items() if name in acted}

    @property
    def sampled(self) -> int:
        """Number of tokens that the policy sampled."""
        return sum(t.sampled for t in self.trajectories)

    @property
    def finish(self) -> Finish:
        """How the last generation of its last trajectory ended."""
        return self.trajectories[-1].finish

    def to_json(self) -> dict[str, Any]:
        """Return plain data, in which floats keep every bit."""
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
    """The n episodes of one problem (a group of GRPO), which are admitted, finished and consumed together.

    Attributes:
        id: the number of its admission, from 0; never reused.
        version: the weight version at admission; the group may be consumed at versions up to
            ``version + max_staleness``.
        episodes: all n of them.
    """

    id: int
    version: int
    episodes: list[Episode]

    @property
    def trajectories(self) -> list[Trajectory]:
        """All trajectories, in the order of the episodes."""
        return [t for episode in self.episodes for t in episode.trajectories]

    def to_json(self) -> dict[str, Any]:
        """Return plain data, in which an image that several episodes show is stored once."""
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
    """Yield the images in episodes that are plain data."""
    for episode in episodes:
        for trajectory in episode["trajectories"]:
            yield from trajectory.get("images", ())


@dataclass(frozen=True, slots=True)
class TokenValues:
    """The values that an update computed for the sampled tokens of a trajectory.

    Attributes:
        group: number of its group.
        number: number of its episode in the group, from 1.
        conversation: its index among the trajectories of the episode, from 0.
        values: float32 ``[K]`` by name: ``advantage``, ``entropy`` in nats, and the ratios ``prox/behav``
            and ``theta/prox``, or ``theta/behav`` if the objective is naive (docs/objectives.md).
    """

    group: int
    number: int
    conversation: int
    values: dict[str, np.ndarray]

    def to_json(self) -> dict[str, Any]:
        """Return plain data, rounded to five decimal places."""
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
    """The groups that the learner consumes in one update.

    Attributes:
        version: the learner's version at the moment of consumption (the number of finished updates).
        groups: B complete groups, in admission order.
    """

    version: int
    groups: list[Group]

    @property
    def episodes(self) -> list[Episode]:
        """All episodes, in the order of the groups."""
        return [episode for group in self.groups for episode in group.episodes]

    @property
    def trajectories(self) -> list[Trajectory]:
        """All trajectories, in the order of the groups."""
        return [t for group in self.groups for t in group.trajectories]

    @property
    def staleness(self) -> Sequence[int]:
        """For each trajectory, the version of the learner minus the oldest version that sampled in it."""
        return [self.version - t.oldest_version for t in self.trajectories]
