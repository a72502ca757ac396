"""What a tracker does for a run. All calls come from one thread, and may raise anything."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from areal.trajectory import Group

PROJECT = "areal"
"""Under which name a tracker has the runs, where its own environment gives no other."""


EVERY = 10
"""Updates from one sample of rollouts to the next."""
_SAMPLED = 4
"""Groups of which a sample has an episode."""
_LONGEST = 4000
"""Characters of an episode in it."""


@dataclass(frozen=True, slots=True)
class Consumed:
    """What an update learned from.

    Attributes:
        step: number of the update.
        groups: all of them.
        decode: makes text of tokens.
    """

    step: int
    groups: list[Group]
    decode: Callable[[list[int]], str]

    def sample(self) -> list[dict[str, Any]]:
        """Return an episode each of the first groups, as rows with the same keys; the last is a text."""
        rows = []
        for group in self.groups[:_SAMPLED]:
            episode = group.episodes[0]
            text = "\n\n".join(self.decode(part.tokens.tolist()) for part in episode.trajectories)
            known = {"update": self.step, "group": group.id, "reward": episode.reward}
            rows.append({**known, "text": text[:_LONGEST]})
        return rows


class Tracker(Protocol):
    """Takes what happens in a run.

    Attributes:
        link: where a person sees the run, a URL or a path; known once it has started.
        every: updates from one call of ``rollouts`` to the next; the first update is one of them.
    """

    link: str
    every: int = EVERY

    def start(self, config: dict[str, Any], run_id: str | None, version: int) -> str:
        """Begin a run, or go on with one.

        Args:
            config: the configuration, nested, as plain data.
            run_id: what this returned when the run began; None: the run is new.
            version: the update that the run goes on after; later ones may be there, and are made again.

        Returns:
            The tracker's name for the run.
        """
        ...

    def log(self, step: int, metrics: dict[str, float]) -> None:
        """Take metrics of update number ``step``. An evaluation's may come after those of later updates."""
        ...

    def rollouts(self, consumed: Consumed) -> None:
        """Take rollouts of what an update learned from, as many as make sense here."""
        ...

    def finish(self, succeeded: bool) -> None:
        """End the run, once all that was given is written or sent."""
        ...


def markdown(rows: list[dict[str, Any]]) -> str:
    """Return rollouts as Markdown: a line of numbers for each, and its last value, a text, as it stands."""
    parts = []
    for row in rows:
        *known, (_, text) = row.items()
        line = ", ".join(f"{key} {value:.4g}" for key, value in known)
        indented = "".join(f"\n    {part}" for part in str(text).splitlines())
        parts.append(f"**{line}**\n{indented}\n")
    return "\n".join(parts)
