"""Counts what programs requested and did not get, and logs the first of each kind.

Frameworks swallow refusals, or return their text as if it came from the model. The author of a program learns
of them, and of ignored settings, from the run or not at all.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence

from areal.rollout.endpoint.wire import Refusal

log = logging.getLogger(__name__)

_VALUES = re.compile(r"=.*|\d+", re.DOTALL)
_MAX_KINDS = 100
"""Maximum number of kinds that are logged, separately for refusals and for ignored settings."""


class Refusals:
    """The refusals of all episodes of a run.

    Attributes:
        count: number of refusals; calls that may succeed later, or whose client has gone, do not count.
        ignored: number of calls that were served without a setting that they requested.
    """

    def __init__(self) -> None:
        self.count = 0
        self.ignored = 0
        self._known: set[tuple[str, int, str]] = set()
        self._known_settings: set[tuple[str, str]] = set()

    def record(self, path: str, agent: str, refusal: Refusal) -> None:
        """Count a refusal, and log it if it is the first of its kind."""
        if not refusal.is_final:
            return
        self.count += 1
        kind = path, refusal.status, _VALUES.sub("", refusal.message)
        if kind not in self._known and len(self._known) < _MAX_KINDS:
            self._known.add(kind)
            log.warning(
                "refused a request, the first of its kind: %s (%d) to %s by %s",
                refusal.message,
                refusal.status,
                path,
                agent,
            )

    def record_ignored(self, path: str, agent: str, settings: Sequence[str]) -> None:
        """Count a call with ignored ``settings`` (each as NAME=VALUE), if there are any; log each new one."""
        self.ignored += bool(settings)
        for setting in settings:
            kind = path, _VALUES.sub("", setting)
            if kind not in self._known_settings and len(self._known_settings) < _MAX_KINDS:
                self._known_settings.add(kind)
                log.warning(
                    "ignored %s, in this and all further requests, because the run decides how responses "
                    "are sampled; requested at %s by %s (agent_options.settings=refuse refuses such "
                    "requests)",
                    setting,
                    path,
                    agent,
                )
