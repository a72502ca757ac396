"""Counts of the infrastructure failures in this process since it started, by kind.

A counted failure led to a retry or to a failed episode, never to a reward.
"""

from __future__ import annotations

import threading
from collections import Counter
from typing import Literal

Kind = Literal["sandbox_faults", "verifier_faults", "env_faults"]
"""Sandbox runs and verifier checks that the infrastructure ended; environment calls that took too long, or
whose process or server was lost."""

KINDS: tuple[Kind, ...] = ("sandbox_faults", "verifier_faults", "env_faults")

_counter: Counter[str] = Counter()
_lock = threading.Lock()


def count(kind: Kind) -> None:
    """Count one failure."""
    with _lock:
        _counter[kind] += 1


def counts() -> dict[str, int]:
    """Return the number of failures of each kind."""
    with _lock:
        return {kind: _counter[kind] for kind in KINDS}
