"""What an episode did when: its calls of the model, of the environment and of tools, and its verifications.

Who runs an episode collects its spans. Who does something that is worth one says so with :func:`span`, and
need not know of the episode; outside of any, nothing is kept. Code of your own may do so, too::

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
    """A stretch of time.

    Attributes:
        kind: what was done: a call of the ``model``, of the environment (``env``), the wait for a worker of
            it before (``env_queue``), a call of a ``tool``, or a verification (``verifier``).
        name: of the environment's method, the tool or the verifier; of the model, the number of the call in
            its episode, from 0.
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
    """Append what is done within to ``spans``: by this task, those that it starts, and their threads."""
    token = _collected.set(spans)
    try:
        yield
    finally:
        _collected.reset(token)


@contextmanager
def span(kind: Kind, name: str, spans: list[Span] | None = None) -> Iterator[None]:
    """Time what is done within, whether it succeeds or not.

    Args:
        spans: what the span is appended to; None: what is being collected, if anything is.
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
    """Return the seconds of all spans of a kind; those of spans at once count each."""
    return round(sum(each.seconds for each in spans if each.kind == kind), 4)
