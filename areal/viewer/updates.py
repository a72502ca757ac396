"""The updates of a run and the spans of who worked, as a timeline has them."""

from __future__ import annotations

from dataclasses import dataclass

Span = tuple[float, float, str, int]
"""When it began and ended, what it was, and the update or the version that it belongs to."""
PARTS = ("model", "env", "verifier", "env_queue", "buffer")
"""Of the latency of a rollout, as metrics name them; here the environment's is without its verifier's."""


@dataclass(frozen=True, slots=True)
class Update:
    """An update whose times are known.

    Attributes:
        step: its number.
        start: when the one before it ended.
        taken: when its batch was there.
        end: when it was recorded.
        train: seconds of the learner's work.
        generate: share of the step in which engines generated, on average; None: unknown.
        tokens_per_s: generated tokens a second; None: unknown.
        length: mean tokens of the responses; None: unknown.
        latency: seconds by parts of :data:`PARTS`, and those of the ``other`` parts; None: unknown.
    """

    step: int
    start: float
    taken: float
    end: float
    train: float
    generate: float | None
    tokens_per_s: float | None
    length: float | None
    latency: dict[str, float] | None
