"""What a tracker does for a run. All calls come from one thread, and may raise anything."""

from __future__ import annotations

from typing import Any, Protocol

PROJECT = "areal"
"""Under which name a tracker has the runs, where its own environment gives no other."""


class Tracker(Protocol):
    """Takes what happens in a run.

    Attributes:
        link: where a person sees the run, a URL or a path; known once it has started.
    """

    link: str

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

    def rollouts(self, step: int, rows: list[dict[str, Any]]) -> None:
        """Take a few episodes that update number ``step`` consumed; all rows have the same keys."""
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
