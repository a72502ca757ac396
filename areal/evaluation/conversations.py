"""The conversations of an evaluation's episodes: ``conversations/NAME.jsonl`` beside ``NAME.jsonl``.

Each line has the ``problem`` and the ``sample`` of a response, and its ``conversations``. A conversation with
an areal engine has its tokens; one with a model behind an endpoint has only its ``messages``. If a response
has several lines, the last one counts. The file is for reading: no score depends on it, and it may be
deleted.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from areal.agents.interface import Message
from areal.disk import one_line
from areal.images import Image
from areal.trajectory import Trajectory


@dataclass(frozen=True, slots=True)
class Chat:
    """A conversation without known tokens.

    Attributes:
        messages: all messages, including the last response.
        given: number of messages before the model's first response, including any examples.
        player: the player who speaks in it; empty if the environment has one player.
    """

    messages: list[Message]
    given: int
    player: str = ""


Conversation: TypeAlias = Trajectory | Chat
CONVERSATIONS = "conversations"
"""The folder of the conversations."""
_PLACE = re.compile(rb'\{"problem":(\d{1,15}),"sample":(\d{1,15}),')


def conversations_path(responses: Path) -> Path:
    """Return the path of the conversations of a file of responses."""
    return responses.parent / CONVERSATIONS / responses.name


def write_conversations(path: Path, problem: int, sample: int, said: Sequence[Conversation]) -> None:
    """Append the conversations of a response to a file.

    Raises:
        UserError: the file cannot be written.
    """
    data = {"problem": problem, "sample": sample, "conversations": list(map(_plain, said))}
    with one_line(path.parent.parent):
        path.parent.mkdir(exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(data, separators=(",", ":")) + "\n")


def _plain(said: Conversation) -> dict[str, Any]:
    player = {"player": said.player} if said.player else {}
    if isinstance(said, Chat):
        return {"messages": said.messages, "given": said.given, **player}
    spans = [list(span) for value, span in groupby(range(len(said)), said.loss_mask.__getitem__) if value]
    return {
        "tokens": said.tokens.tolist(),
        "sampled": [[span[0], span[-1] + 1] for span in spans],
        "logprobs": [round(value, 4) for value in said.logprobs[said.loss_mask].tolist()],
        "turns": said.turns,
        "rewards": said.rewards,
        **({"images": [image.to_json() for image in said.images]} if said.images else {}),
        **player,
    }


def read_conversations(line: bytes) -> list[Conversation]:
    """Return the conversations in a line of a file; all weights have version 0.

    Raises:
        ValueError: the line is damaged.
    """
    try:
        return [_read(data) for data in json.loads(line)["conversations"]]
    except (AttributeError, LookupError, RecursionError, TypeError) as error:
        raise ValueError(f"no conversations: {line[:80]!r}") from error


def _read(data: dict[str, Any]) -> Conversation:
    if "messages" in data:
        messages = [dict(message) for message in data["messages"]]
        return Chat(messages, int(data["given"]), str(data.get("player", "")))
    tokens = np.asarray(data["tokens"], np.int32)
    mask = np.zeros(len(tokens), bool)
    for begin, end in data["sampled"]:
        mask[begin:end] = True
    logprobs = np.zeros(len(tokens), np.float32)
    logprobs[mask] = data["logprobs"]
    versions = np.where(mask, 0, -1).astype(np.int32)
    said = Trajectory(tokens, mask, logprobs, versions, turns=data["turns"], rewards=data["rewards"])
    said.player = str(data.get("player", ""))
    said.images = [Image.from_json(image) for image in data.get("images", ())]
    return said


def places(path: Path, begin: int = 0) -> Iterator[tuple[int, int, int, int]]:
    """Yield the problem, the sample, the start and the length in bytes of each complete line of a file."""
    with path.open("rb") as file:
        file.seek(begin)
        for line in file:
            if (found := _PLACE.match(line)) and line.endswith(b"\n"):
                yield int(found[1]), int(found[2]), begin, len(line)
            begin += len(line)
