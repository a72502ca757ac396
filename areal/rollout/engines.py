"""Several engines as one :class:`areal.rollout.engine.Engine`.

Requests that begin alike (members of a group, turns of a conversation) go to one engine, whose prefix cache
knows their beginning, unless it has clearly more than its share in flight: consistent hashing with bounded
loads (Mirrokni, Thorup, Zadimoghaddam 2016, arXiv:1608.01350), with the least busy engine in place of the
next one on the ring. So no engine is ever given more than :func:`max_in_flight`, even if all requests begin
alike.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from typing import Any

from areal.errors import EngineLost
from areal.rollout.engine import Completion, Engine, Sampling
from areal.waiting import wait_all

_BEGINNING = 64
"""Tokens by which requests are held to begin alike."""
_SLACK = 1.25
"""How many times its share an engine may have in flight."""


def max_in_flight(requests: int, engines: int) -> int:
    """Return how many of so many requests in flight one engine has at most."""
    return min(requests, math.ceil(_SLACK * requests / engines))


def choose(ids: Sequence[int], in_flight: Sequence[int]) -> int:
    """Return which engine gets a request.

    Args:
        ids: its tokens.
        in_flight: requests of each engine.
    """
    count = len(in_flight)
    home = hash(tuple(ids[:_BEGINNING])) % count  # of integers: the same in every process
    if in_flight[home] < max_in_flight(sum(in_flight) + 1, count):
        return home
    return min(range(count), key=lambda engine: in_flight[engine])


class Engines:
    """Spreads requests over several engines, which all have the same model.

    One that has died ends the run as a lone one does: its error comes from every call from then on.

    Args:
        engines: two or more.

    Attributes:
        in_flight: requests of each engine.
        requests: how many each has been given so far.
    """

    def __init__(self, engines: Sequence[Engine]) -> None:
        self._engines = list(engines)
        self._error: EngineLost | None = None
        self.in_flight = [0] * len(self._engines)
        self.requests = [0] * len(self._engines)

    @property
    def version(self) -> int:
        """The version of the weights that all of them have."""
        return min(engine.version for engine in self._engines)

    @property
    def busy_seconds(self) -> float:
        """Seconds so far in which they were generating, in the mean."""
        return sum(engine.busy_seconds for engine in self._engines) / len(self._engines)

    async def generate(self, ids: list[int], sampling: Sampling) -> Completion:
        """Continue ``ids`` on one of them; see :class:`areal.rollout.engine.Engine`."""
        self._check()
        which = choose(ids, self.in_flight)
        self.in_flight[which] += 1
        self.requests[which] += 1
        try:
            return await self._engines[which].generate(ids, sampling)
        except EngineLost as error:
            self._error = error
            raise
        finally:
            self.in_flight[which] -= 1

    async def connect(self, init_infos: list[dict[str, Any]]) -> None:
        """Open the end of each engine."""
        pairs = zip(self._engines, init_infos, strict=True)
        await wait_all(*(engine.connect([info]) for engine, info in pairs))

    async def load(self, version: int) -> dict[str, float]:
        """Load in all at once: each stops for its own load only.

        Returns:
            The metrics of :meth:`areal.rollout.engine.Engine.load`, each from the engine where it is worst.
        """
        self._check()
        found = await wait_all(*(engine.load(version) for engine in self._engines))
        return {name: max(metrics[name] for metrics in found) for name in found[0]}

    async def close(self) -> None:
        """Stop all, also if one fails to; raises what the first failed of."""
        results = await asyncio.gather(*(e.close() for e in self._engines), return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result

    def _check(self) -> None:
        if self._error is not None:
            raise self._error.with_traceback(None)  # else it grows with each raise, and so does the log
