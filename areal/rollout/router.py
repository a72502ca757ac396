"""Chooses the engine of a request if there are several.

A conversation stays with its engine, whose prefix cache knows it. It begins where others with the same key
begin, at the key's home. Consistent hashing assigns homes (Karger et al. 1997): an engine that joins or
leaves only changes the homes that it takes or gives up. An engine with clearly more than its share of
requests in flight gets no more: consistent hashing with bounded loads (Mirrokni, Thorup, Zadimoghaddam 2016,
arXiv:1608.01350). The request then goes to the next engine on the ring, where requests with the same key meet
again, and if that one is also full, to the least busy of all. No engine therefore ever gets more than
:func:`max_in_flight`, and all engines have work even if all requests have the same key.

The cost of a request hardly depends on the number of engines: it is a search in a sorted list.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from hashlib import blake2b

_SLACK = 1.25
"""Maximum load of an engine, as a multiple of its share."""
_DIGESTS = 8
"""Number of digests of each engine; each gives 8 points on the ring. Fewer points give less equal shares."""
_SPREAD, _MASK = 0x9E3779B97F4A7C15, 2**64 - 1


def max_in_flight(requests: int, engines: int) -> int:
    """Return the maximum number of requests in flight on one engine."""
    return min(requests, math.ceil(_SLACK * requests / engines))


class Router:
    """Tracks the engines and the requests in flight on each, and chooses among them.

    Args:
        engines: names of the engines. Routers with the same names, in any order and process, assign the same
            home to a key.

    Attributes:
        in_flight: number of requests of each engine.
    """

    def __init__(self, engines: Iterable[str] = ()) -> None:
        self.in_flight: dict[str, int] = {}
        self._total = 0
        self._ring: list[int] = []
        self._owners: dict[int, str] = {}  # owners of the points on the ring
        self._levels: dict[int, dict[str, None]] = {}  # engines by load, the earliest first
        self._least = 0
        self.add(*engines)

    def add(self, *engines: str) -> None:
        """Add engines, which have no requests in flight."""
        for engine in engines:
            if engine in self.in_flight:
                raise ValueError(f"engine '{engine}' already exists")
            self.in_flight[engine] = 0
            self._owners |= dict.fromkeys(_points(engine), engine)
            self._levels.setdefault(0, {})[engine] = None
            self._least = 0
        self._ring = sorted(self._owners)

    def remove(self, engine: str) -> None:
        """Remove an engine; its requests in flight are no longer counted."""
        load = self.in_flight.pop(engine)
        self._total -= load
        for point in _points(engine):
            del self._owners[point]
        self._ring = sorted(self._owners)
        self._leave_level(engine, load)

    def home(self, key: int) -> str:
        """Return the engine that gets requests with this key while it has room."""
        return next(self._from_home(key))

    def start(self, key: int, last: str = "") -> str:
        """Choose the engine for a request, and count the request as in flight on it.

        Args:
            key: the same for requests with the same beginning.
            last: the conversation's last engine, which is chosen if it has room; empty: none.
        """
        bound = max_in_flight(self._total + 1, len(self.in_flight))
        if self.in_flight.get(last, bound) < bound:
            engine = last
        else:
            least = next(iter(self._levels[self._least]))
            engine = next((e for e in self._from_home(key) if self.in_flight[e] < bound), least)
        self._total += 1
        self._set_load(engine, self.in_flight[engine] + 1)
        return engine

    def finish(self, engine: str) -> None:
        """Count a request of an engine as over, unless the engine was removed."""
        if engine in self.in_flight:
            self._total -= 1
            self._set_load(engine, self.in_flight[engine] - 1)

    def _from_home(self, key: int) -> Iterator[str]:
        """Yield the home of a key, and the next engine on the ring, if there is another."""
        count = len(self._ring)
        start = bisect_left(self._ring, key * _SPREAD & _MASK)
        home = self._owners[self._ring[start % count]]
        yield home
        for i in range(start + 1, start + count):
            if (engine := self._owners[self._ring[i % count]]) != home:
                yield engine
                return

    def _set_load(self, engine: str, load: int) -> None:
        self._levels.setdefault(load, {})[engine] = None
        self._least = min(self._least, load)
        previous, self.in_flight[engine] = self.in_flight[engine], load
        self._leave_level(engine, previous)

    def _leave_level(self, engine: str, load: int) -> None:
        del self._levels[load][engine]
        if not self._levels[load]:
            del self._levels[load]
        if self._least not in self._levels:  # loads change by one at a time, so this is rarely a search
            self._least = min(self._levels, default=0)


def _points(engine: str) -> Iterator[int]:
    """Yield an engine's places on the ring, the same in every process."""
    for i in range(_DIGESTS):
        digest = blake2b(f"{engine}/{i}".encode()).digest()
        yield from (int.from_bytes(digest[j : j + 8]) for j in range(0, len(digest), 8))
