"""Time spans of an episode: its calls of the model, the environment and tools, and its verifications.

The code that runs an episode collects its spans. The code that the episode calls records them with
:func:`span`, and does not need to know the episode. Outside of an episode, nothing is recorded. Your code can
record spans, too::

    with span("tool", "search"):
        ...
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Literal, NamedTuple

Kind = Literal["model", "env", "env_queue", "tool", "verifier"]


class Span(NamedTuple):
    """A time span.

    Attributes:
        kind: what was done: a call of the ``model``, of the environment (``env``), the wait for its worker
            before that (``env_queue``), a call of a ``tool``, or a verification (``verifier``).
        name: name of the environment's method, the tool or the verifier; for the model, the number of the
            call in its episode, from 0.
        begun: when it began, in seconds since the epoch.
        seconds: how long it took.
    """

    kind: Kind
    name: str
    begun: float
    seconds: float


_collected: ContextVar[list[Span] | None] = ContextVar("collected", default=None)


@contextmanager
def collect(spans: list[Span]) -> Iterator[None]:
    """Append the spans within the block to ``spans``, including those of tasks and threads started there."""
    token = _collected.set(spans)
    try:
        yield
    finally:
        _collected.reset(token)


@contextmanager
def span(kind: Kind, name: str, spans: list[Span] | None = None) -> Iterator[None]:
    """Record the block as a span, whether it succeeds or not.

    Args:
        spans: the list to which the span is appended; None: the active collection, if there is one.
    """
    begun, since = time.time(), time.monotonic()
    try:
        yield
    finally:
        add([Span(kind, name, round(begun, 6), round(time.monotonic() - since, 6))], spans)


def add(found: Sequence[Span], spans: list[Span] | None = None) -> None:
    """Append spans as :func:`span` does, such as those of another process."""
    spans = _collected.get() if spans is None else spans
    if spans is not None:
        spans += found


def total(spans: Sequence[Span], kind: Kind) -> float:
    """Return the total seconds of all spans of a kind; concurrent spans all count."""
    return round(sum(each.seconds for each in spans if each.kind == kind), 4)
