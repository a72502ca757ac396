"""The common parts of the list of rollouts of a run and that of the responses of an evaluation.

All foreign text passes through :func:`areal.telemetry.plain.plain` here before it is sent.
"""

from __future__ import annotations

import math
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from areal.errors import UserError
from areal.telemetry.plain import plain
from areal.trajectory import Trajectory
from areal.viewer.index import Index, Query
from areal.viewer.rollouts import Decode, label
from areal.viewer.tokens import pieces

_SEARCHED = 1000
"""Maximum number of rollouts whose texts are searched for one answer."""
EXCERPT = 200
"""Maximum characters of a response in a list."""


class Entry(Protocol):
    """A rollout or a response with all its data."""

    def text(self) -> str:
        """Return the text of all its conversations."""
        ...

    def excerpt(self) -> str:
        """Return the beginning of its last response."""
        ...

    def whole(self) -> dict[str, Any]:
        """Return all its data as plain data."""
        ...


Read = Callable[[dict[str, Any]], Entry]
"""Reads an entry by its row in the index."""


class Listing(ABC):
    """Entries that can be listed, filtered, searched, and read one by one.

    Args:
        name: its name on the page.
        index: the index of the entries.
    """

    def __init__(self, name: str, index: Index) -> None:
        self.name = name
        self.index = index
        self._decode: Decode | None = None
        self._decoding = threading.Lock()

    @abstractmethod
    def reader(self) -> Read:
        """Return a reader of entries for one answer."""

    @abstractmethod
    def make_decoder(self) -> Decode:
        """Return a function that converts tokens to text; raises UserError if there is no tokenizer."""

    @abstractmethod
    def state(self) -> dict[str, Any]:
        """Return the current state."""

    @abstractmethod
    def settings(self) -> dict[str, str]:
        """Return each setting and its value, as text."""

    @property
    def decode(self) -> Decode:
        """Converts tokens to text.

        Raises:
            UserError: there is no tokenizer.
        """
        with self._decoding:
            if self._decode is None:
                self._decode = self.make_decoder()
            return self._decode

    def find(
        self, query: Query, limit: int, skip: int = 0, text: str = "", searched: int = _SEARCHED
    ) -> dict[str, Any]:
        """Return rollouts for a list.

        Args:
            query: selects the rollouts.
            limit: maximum number of rollouts.
            skip: number of rollouts to skip at the start.
            text: text that the conversations must contain, ignoring case.
            searched: maximum number of rollouts whose texts are searched.

        Returns:
            ``rows``; ``count``, the number of all rollouts that match the query; ``next``, the number to skip
            next time, null at the end; ``left``, the number of records that are not in the index yet; and the
            names for filters.
        """
        few = query.steps[1] - query.steps[0] < 8
        left = self.index.update(0.3, query.steps if few else None)
        looked_at, count = self.index.find(query, searched if text else limit, skip)
        rows: list[dict[str, Any]] = []
        done = 0
        read = self.reader()
        wanted = text.casefold()
        while done < len(looked_at) and len(rows) < limit:
            row = looked_at[done]
            done += 1
            found = read(row)
            if not text or wanted in found.text().casefold():
                rows.append({**plain_data(row), "excerpt": found.excerpt()})
        return {
            "rows": rows,
            "count": count,
            "next": skip + done if looked_at and skip + done < count else None,
            "left": left,
            **self.index.facts(),
        }

    def step(self, step: int) -> list[tuple[dict[str, Any], dict[str, Any]]]:
        """Return each rollout of an update, or each response to a benchmark, as in a list and complete."""
        self.index.update(0, (step, step))
        read = self.reader()
        found = []
        for row in self.index.find(Query((step, step)), -1)[0]:
            entry = read(row)
            found.append(({**plain_data(row), "excerpt": entry.excerpt()}, entry.whole()))
        return found

    def group(self, step: int, group: int, number: int | None = None) -> dict[str, Any]:
        """Return the rollouts of a group with all their tokens, or one of them.

        Raises:
            UserError: there are none.
        """
        self.index.update(0, (step, step))
        rows = self.index.group(step, group)
        if number is not None:
            rows = [row for row in rows if row["number"] == number]
        if not rows:
            raise UserError(f"{self.name} has no {self.called(step, group, number)}")
        read = self.reader()
        return {"rollouts": [read(row).whole() for row in rows]}

    @abstractmethod
    def called(self, step: int, group: int, number: int | None) -> str:
        """Return the name of a group, or of one rollout of it."""


def text_of(trajectories: Sequence[Trajectory], decode: Decode) -> str:
    """Return the text of several conversations."""
    return "\n".join(plain(decode(said.tokens.tolist())) for said in trajectories)


def excerpt_of(trajectory: Trajectory, decode: Decode) -> str:
    """Return the beginning of the last response of a conversation."""
    begin = trajectory.turns[-1] if trajectory.turns else int(trajectory.loss_mask.argmax())
    said = trajectory.tokens[begin:][trajectory.responses[begin:]][: EXCERPT * 2]
    return plain(decode(said.tolist()))[:EXCERPT]


def plain_conversation(trajectory: Trajectory, decode: Decode) -> dict[str, Any]:
    """Return a conversation with the text and the values of each token."""
    ids = trajectory.tokens.tolist()
    texts = list(map(plain, pieces(ids, decode)))
    for image in trajectory.images:
        texts[image.start : image.start + image.tokens] = [label(image)] + [""] * (image.tokens - 1)
    return {
        "texts": texts,
        "ids": ids,
        "versions": trajectory.versions.tolist(),
        "logprobs": plain_data([round(x, 5) for x in trajectory.logprobs.tolist()]),
        "sampled": trajectory.loss_mask.astype(int).tolist(),
        "turns": trajectory.turns,
        "rewards": plain_data(trajectory.rewards),
        "player": plain(trajectory.player),
        "calls": trajectory.calls,
    }


def plain_data(value: Any) -> Any:
    """Return plain data with all texts made safe to show; infinities and NaN become null."""
    if isinstance(value, str):
        return plain(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {plain(str(key)): plain_data(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain_data(item) for item in value]
    return value


def flat_settings(value: Any, name: str = "") -> dict[str, str]:
    """Return nested settings by their full names, as text."""
    if not isinstance(value, dict) or not value:
        return {plain(name): "" if value is None else plain(str(value))}
    found: dict[str, str] = {}
    for key, item in value.items():
        found |= flat_settings(item, f"{name}.{key}" if name else str(key))
    return found
