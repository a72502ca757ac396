"""Limits and counts the restarts of the parts of a run."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

from areal.errors import WorkerLost

HOUR = 3600.0


class Restarts:
    """Counts restarts of each part of a run.

    Args:
        limit: maximum restarts of one part within an hour.
        clock: returns seconds.

    Attributes:
        total: number of restarts so far, of all parts.
    """

    def __init__(self, limit: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.total = 0
        self._limit, self._clock = limit, clock
        self._losses: dict[str, deque[tuple[float, WorkerLost]]] = {}

    def allow(self, part: str, loss: WorkerLost) -> None:
        """Count a restart of a lost part.

        Args:
            part: its name, which is also that of its replacement.
            loss: how it was lost.

        Raises:
            WorkerLost: the part was restarted too often within the last hour. The error has the class of the
                first loss in that hour and explains that one, which usually explains the others.
        """
        now = self._clock()
        losses = self._losses.setdefault(part, deque())
        while losses and losses[0][0] <= now - HOUR:
            losses.popleft()
        losses.append((now, loss))
        if len(losses) <= self._limit:
            self.total += 1
            return
        first = losses[0][1]
        if self._limit == 0:
            raise first
        times = f"{self._limit} time{'s' * (self._limit != 1)}"
        raise type(first)(
            f"{first}; {part} was restarted {times} within an hour (run.max_restarts={self._limit}), and "
            "this was the first cause"
        ) from loss
