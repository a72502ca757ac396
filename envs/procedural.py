"""Procedural problems in two splits.

Nothing is downloaded or stored: problem ``index`` of a split is drawn from a generator with the seed (family,
split, difficulty, index). The splits are disjoint by construction: the hash of a problem's key, which
identifies the problem, decides whether it belongs to the test split, independent of the seed.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable
from typing import TypeVar

TEST_SHARE = 10
"""One in this number of problems belongs to the test split."""

T = TypeVar("T")


def is_test(key: str) -> bool:
    """Return whether a problem belongs to the test split (about one in ten does)."""
    digest = hashlib.sha256(key.encode()).digest()
    return int.from_bytes(digest[:8], "big") % TEST_SHARE == 0


def drawn(seed: str, split: str, draw: Callable[[random.Random], T], key: Callable[[T], str]) -> T:
    """Return the first problem of a split that a seeded generator draws."""
    rng = random.Random(seed)
    while True:
        found = draw(rng)
        if is_test(key(found)) == (split == "test"):
            return found


def check_known(split: str, difficulty: int, difficulties: dict[int, str]) -> None:
    """Raise ValueError for an unknown split or difficulty."""
    if split not in ("train", "test"):
        raise ValueError(f"split must be 'train' or 'test', not {split!r}")
    if difficulty not in difficulties:
        raise ValueError(f"difficulty must be one of {sorted(difficulties)}, not {difficulty!r}")
