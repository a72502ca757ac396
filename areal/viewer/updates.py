"""The updates of a run and the spans of its parts, for a timeline."""

from __future__ import annotations

from dataclasses import dataclass

Span = tuple[float, float, str, int]
"""Start, end, kind, and the update or the version of a span."""
PARTS = ("model", "env", "verifier", "env_queue", "buffer")
"""Parts of a rollout's latency, as in the metrics; here, the environment's excludes its verifier's."""


@dataclass(frozen=True, slots=True)
class Update:
    """An update with known times.

    Attributes:
        step: its number.
        start: when the previous one ended.
        taken: when its batch was available.
        end: when it was recorded.
        train: seconds of the learner's work.
        generate: mean share of the step in which engines generated; None: unknown.
        tokens_per_s: generated tokens per second; None: unknown.
        length: mean number of tokens of the responses; None: unknown.
        latency: seconds by part of :data:`PARTS`, and of the ``other`` parts; None: unknown.
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
