"""Measures how long an engine was busy, from the perspective of those who send it requests."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager


class BusyClock:
    """Counts the seconds in which at least one request is in flight and generation is not paused."""

    def __init__(self) -> None:
        self._requests = 0
        self._since = 0.0
        self._total = 0.0

    def total(self) -> float:
        """Return the number of busy seconds so far."""
        return self._total + (time.monotonic() - self._since if self._requests else 0.0)

    @contextmanager
    def request(self) -> Iterator[None]:
        """Count one request as in flight within the context."""
        if not self._requests:
            self._since = time.monotonic()
        self._requests += 1
        try:
            yield
        finally:
            self._total = self.total()
            self._since = time.monotonic()
            self._requests -= 1

    def paused(self, seconds: float, since: float) -> None:
        """Exclude a pause that is over.

        Args:
            seconds: duration of the pause of generation.
            since: :meth:`total` at some time before the pause; time without requests was not counted.
        """
        self._total -= min(seconds, self.total() - since)
