"""The interface of a tracker. All calls come from one thread, and may raise anything."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from areal.trajectory import Group

PROJECT = "areal"
"""Project name of the runs, unless the tracker's own environment gives another one."""


EVERY = 10
"""Number of updates between two samples of rollouts."""
_SAMPLED = 4
"""Number of groups from which a sample has an episode."""
_LONGEST = 4000
"""Maximum characters of an episode in a sample."""


@dataclass(frozen=True, slots=True)
class Consumed:
    """The batch of an update.

    Attributes:
        step: number of the update.
        groups: all groups.
        decode: converts tokens to text.
    """

    step: int
    groups: list[Group]
    decode: Callable[[list[int]], str]

    def sample(self) -> list[dict[str, Any]]:
        """Return one episode of each of the first groups, as rows with equal keys; the last value is text."""
        rows = []
        for group in self.groups[:_SAMPLED]:
            episode = group.episodes[0]
            text = "\n\n".join(self.decode(part.tokens.tolist()) for part in episode.trajectories)
            known = {"update": self.step, "group": group.id, "reward": episode.reward}
            rows.append({**known, "text": text[:_LONGEST]})
        return rows


class Tracker(Protocol):
    """Receives the events of a run.

    Attributes:
        link: where a person sees the run, a URL or a path; known after its start.
        every: number of updates between two calls of ``rollouts``, starting with the first update.
    """

    link: str
    every: int = EVERY

    def start(self, config: dict[str, Any], run_id: str | None, version: int) -> str:
        """Begin or resume a run.

        Args:
            config: the configuration, nested, as plain data.
            run_id: the result of this method when the run began; None: the run is new.
            version: the update after which the run resumes; later ones may exist, and are repeated.

        Returns:
            The tracker's id of the run.
        """
        ...

    def log(self, step: int, metrics: dict[str, float]) -> None:
        """Receive metrics of update number ``step``. Those of evaluations may come late."""
        ...

    def rollouts(self, consumed: Consumed) -> None:
        """Receive rollouts from the batch of an update; the tracker chooses how many to keep."""
        ...

    def finish(self, succeeded: bool) -> None:
        """End the run when everything is written or sent."""
        ...


def markdown(rows: list[dict[str, Any]]) -> str:
    """Return rollouts as Markdown: a line of numbers for each, and its last value, a text, unchanged."""
    parts = []
    for row in rows:
        *known, (_, text) = row.items()
        line = ", ".join(f"{key} {value:.4g}" for key, value in known)
        indented = "".join(f"\n    {part}" for part in str(text).splitlines())
        parts.append(f"**{line}**\n{indented}\n")
    return "\n".join(parts)
