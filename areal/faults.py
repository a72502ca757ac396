"""How often the infrastructure failed in this process, by kind, since it started.

What is counted here was repeated, or made an episode fail; none of it became a reward.
"""

from __future__ import annotations

import threading
from collections import Counter
from typing import Literal

Kind = Literal["sandbox_faults", "verifier_faults", "env_faults"]
"""Runs in a sandbox, and checks by a verifier, that ended for reasons of the infrastructure; calls of an
environment that took too long, or whose process or server was lost."""

KINDS: tuple[Kind, ...] = ("sandbox_faults", "verifier_faults", "env_faults")

_counter: Counter[str] = Counter()
_lock = threading.Lock()


def count(kind: Kind) -> None:
    """Count one failure."""
    with _lock:
        _counter[kind] += 1


def counts() -> dict[str, int]:
    """Return how many there were of each kind."""
    with _lock:
        return {kind: _counter[kind] for kind in KINDS}
