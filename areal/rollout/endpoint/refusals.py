"""Refusals of programs' calls: they are counted, and the first of each kind is logged.

Frameworks swallow refusals, or return their text as if the model had said it. A program's author learns of
them from the run, or not at all.
"""

from __future__ import annotations

import logging
import re

from areal.rollout.endpoint.wire import Refusal

log = logging.getLogger(__name__)

_VALUES = re.compile(r"=.*|\d+", re.DOTALL)
_MAX_KINDS = 100
"""Kinds of refusals that are written to the log."""


class Refusals:
    """The refusals of all episodes of a run.

    Attributes:
        count: how many there were; calls that may succeed later do not count.
    """

    def __init__(self) -> None:
        self.count = 0
        self._known: set[tuple[str, int, str]] = set()

    def record(self, path: str, agent: str, refusal: Refusal) -> None:
        """Count a refusal, and log it if it is the first of its kind."""
        if refusal.retry or refusal.status == 499:
            return
        self.count += 1
        kind = path, refusal.status, _VALUES.sub("", refusal.message)
        if kind not in self._known and len(self._known) < _MAX_KINDS:
            self._known.add(kind)
            log.warning(
                "a call was refused, the first of its kind: %s (%d) to %s by %s",
                refusal.message,
                refusal.status,
                path,
                agent or "a client without a name",
            )
