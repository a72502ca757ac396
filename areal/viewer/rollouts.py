"""The batch of an update as text: each response with its reward and the weights that sampled it."""

from __future__ import annotations

import itertools
import json
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from areal.config import load_config
from areal.errors import UserError
from areal.images import Image, size_of
from areal.models import load_tokenizer, resolve_model
from areal.models.folder import read_json
from areal.telemetry.run_directory import CONFIG, RunDirectory
from areal.trajectory import Episode, Group, Trajectory

Decode = Callable[[list[int]], str]
Order = Literal["recorded", "worst", "best"]
_NO_SESSIONS = (
    "{path} is not a file of sessions; give a file that `areal serve --record` has written, or a run "
    "directory"
)


@dataclass(frozen=True, slots=True)
class Rollout:
    """An episode of a batch.

    Attributes:
        step: number of the update that consumed it.
        group: number of its group.
        number: its number among the episodes of its group, from 1.
        size: number of episodes in the group.
        mean: mean reward of the group.
        episode: the episode itself.
    """

    step: int
    group: int
    number: int
    size: int
    mean: float
    episode: Episode

    @property
    def versions(self) -> tuple[int, int]:
        """The oldest and the newest version of the weights that sampled in it."""
        sampled = [t.versions[t.loss_mask] for t in self.episode.trajectories]
        return int(min(v.min() for v in sampled)), int(max(v.max() for v in sampled))

    @property
    def staleness(self) -> int:
        """Number of updates by which its oldest token is older than the learner."""
        return self.step - 1 - self.versions[0]

    def to_json(self, decode: Decode) -> dict[str, Any]:
        """Return plain data, with the text of each conversation in parts."""
        episode = self.episode
        return {
            "step": self.step,
            "group": self.group,
            "number": self.number,
            "reward": episode.reward,
            "reward_parts": episode.reward_parts,
            "players": episode.players,
            "env": episode.env,
            "task": episode.task,
            "finish": episode.finish,
            "failure": episode.failure,
            "expected": episode.expected,
            "staleness": self.staleness,
            "conversations": [
                [part.to_json() for part in parts_of(trajectory, decode)]
                for trajectory in episode.trajectories
            ],
            "speakers": [trajectory.player for trajectory in episode.trajectories],
        }


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a conversation from a single author.

    Attributes:
        text: its text.
        version: version of the weights that sampled it; None: the model did not write it.
        tokens: number of its tokens.
    """

    text: str
    version: int | None
    tokens: int

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        return {"text": self.text, "version": self.version, "tokens": self.tokens}


def read_rollouts(run: RunDirectory, step: int | None = None, order: Order = "recorded") -> list[Rollout]:
    """Return the batch of an update.

    Args:
        run: the run.
        step: number of the update; None: the last one.
        order: in the order of the record, or by reward.

    Raises:
        UserError: the update does not exist, or its record is damaged.
    """
    recorded = run.recorded_steps()
    if not recorded:
        raise UserError(f"{run.path} has not completed an update yet")
    if step is None:
        step = recorded[-1]
    if step not in recorded:
        raise UserError(
            f"update {step} of {run.path} is not recorded; the record has updates {recorded[0]} to "
            f"{recorded[-1]}"
        )
    try:
        groups = [Group.from_json(line) for line in run.read_rollouts(step)]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"the record of update {step} of {run.path} is damaged") from error
    found = [rollout for group in groups for rollout in rollouts_of(group, step)]
    return in_order(found, order)


def in_order(rollouts: list[Rollout], order: Order) -> list[Rollout]:
    """Return rollouts in the order of the record, or by reward."""
    if order == "recorded":
        return rollouts
    return sorted(rollouts, key=lambda rollout: rollout.episode.reward, reverse=order == "best")


def read_sessions(path: Path) -> tuple[list[Rollout], Decode]:
    """Return the sessions in a file of ``areal serve --record``, and a function that decodes their tokens.

    Raises:
        UserError: it is not such a file, or its model no longer has a tokenizer.
    """
    found: list[Rollout] = []
    model = model_of_sessions(path)
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file):
                found += session_of(line, number)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(_NO_SESSIONS.format(path=path)) from error
    return found, decoder_in(model)


def model_of_sessions(path: Path) -> str:
    """Return the model of the sessions in a file of ``areal serve --record``.

    Raises:
        UserError: it is not such a file, or has no session yet.
    """
    try:
        with path.open(encoding="utf-8") as file:
            first = file.readline()
        if not first.strip():
            raise UserError(f"{path} has no session yet; a session is written when it ends")
        data = json.loads(first)
        Group.from_json(data)
        return str(data["model"])
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(_NO_SESSIONS.format(path=path)) from error


def session_of(line: bytes, number: int) -> Iterator[Rollout]:
    """Yield the session in a line; its number in the file is that of its group."""
    yield from rollouts_of(replace(Group.from_json(json.loads(line)), id=number), step=1)


def rollouts_of(group: Group, step: int) -> Iterator[Rollout]:
    """Yield the episodes of a group that update number ``step`` consumed."""
    mean = statistics.fmean(episode.reward for episode in group.episodes)
    for number, episode in enumerate(group.episodes, 1):
        yield Rollout(step, group.id, number, len(group.episodes), mean, episode)


def decoder_of(run: RunDirectory) -> Decode:
    """Return a function that converts a run's tokens to text, including special ones.

    Raises:
        UserError: there is no tokenizer, neither in the run nor at the source of its model.
    """
    kept = [run.model, *sorted(run.checkpoints.glob("step-*/model"), reverse=True)]
    own = next((str(path) for path in kept if (path / "tokenizer_config.json").is_file()), "")
    return decoder_in(own or resolve_model(load_config(run.path / CONFIG).model))


def decoder_in(folder: str) -> Decode:
    """Return a function that converts a model's tokens to text, given its folder or hub id.

    Raises:
        UserError: it has no tokenizer.
    """
    if (file := Path(folder) / "tokenizer.json").is_file():
        from tokenizers import Tokenizer

        read_json(file)  # for a damaged file, that library would raise a bare Exception
        fast = Tokenizer.from_file(str(file))  # importing transformers would take seconds
        return lambda ids: str(fast.decode(ids, skip_special_tokens=False))
    tokenizer = load_tokenizer(folder)
    return lambda ids: str(tokenizer.decode(ids, skip_special_tokens=False))


def label(image: Image) -> str:
    """Return the text that represents an image."""
    width, height = size_of(image.png)
    return f"[image {width}×{height}]"


def parts_of(trajectory: Trajectory, decode: Decode) -> list[Part]:
    """Split a conversation where the author or the version of the weights changes.

    A character of several tokens belongs to the part in which it ends. An image replaces its placeholders.
    """
    found = []
    marks = list(zip(trajectory.loss_mask.tolist(), trajectory.versions.tolist(), strict=True))
    for sampled, stretch in itertools.groupby(range(len(marks)), key=lambda i: marks[i][0]):
        indices = list(stretch)
        ids, done = trajectory.tokens[indices].tolist(), 0
        text = decode(ids)
        for image in trajectory.images:
            if indices[0] <= image.start <= indices[-1]:
                begin = image.start - indices[0]
                text = text.replace(decode(ids[begin : begin + image.tokens]), label(image), 1)
        for version, same in itertools.groupby(indices, key=lambda i: marks[i][1]):
            part = list(same)
            upto = part[-1] + 1 - indices[0]
            end = len(text) if upto == len(ids) else len(decode(ids[:upto]).rstrip("\ufffd"))
            found.append(Part(text[done:end], version if sampled else None, len(part)))
            done = end
    return found
