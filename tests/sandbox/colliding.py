"""Integers whose hashes all differ, and share their way through a hash table of CPython."""

from __future__ import annotations

import numpy as np

_SHIFT = 5
"""Bits of a hash that each further step takes into account; after the last ones, the way is a fixed cycle."""


def colliding(bits: int, filled: float = 0.5, more: float = 0.14, arc: float = 1 / 8) -> list[int]:
    """Return members for a table of ``2**bits`` places.

    Args:
        bits: of the number of places.
        filled: the share of the places that the first members take, one beside the other.
        more: the share of members whose ways lead through the filled part, and from there into one cycle.
        arc: the part of the cycle in which they arrive.
    """
    size = 1 << bits
    rank = np.empty(size, np.int64)
    place = 0
    for step in range(size):
        rank[place] = step
        place = (5 * place + 1) % size
    rng = np.random.default_rng(0)
    found: list[int] = []
    while len(found) < more * size:
        found += _arriving(rng, bits, int(filled * size), rank < arc * size)
    return [*range(int(filled * size)), *found[: int(more * size)]]


def _arriving(rng: np.random.Generator, bits: int, filled: int, good: np.ndarray) -> list[int]:
    """Return some members whose ways avoid the empty part until they arrive where it is good."""
    mask = np.uint64((1 << bits) - 1)
    hashes = rng.integers(0, filled - 10, 1 << 19, dtype=np.uint64)
    places, known, step = hashes.copy(), bits, 1
    while _SHIFT * step < 61:
        fresh = min(_SHIFT, 60 - known)
        tried = hashes | rng.integers(0, 1 << fresh, len(hashes), dtype=np.uint64) << np.uint64(known)
        after = (places * np.uint64(5) + (tried >> np.uint64(_SHIFT * step)) + np.uint64(1)) & mask
        kept = after < filled - 10
        # As many again by other bits, as long as there are any.
        hashes, places = tried[kept], after[kept]
        if fresh:
            hashes, places = np.tile(hashes, 2), np.tile(places, 2)
        known, step = known + fresh, step + 1
    after = (places * np.uint64(5) + np.uint64(1)) & mask
    return np.unique(hashes[good[after.astype(np.int64)]]).tolist()
