"""Held-out scores of a run by update, as its metrics have them."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

_SCORE = re.compile(r"eval/.+/avg@\d+")


def score_of(line: Mapping[str, Any]) -> float | None:
    """Return the held-out score that a line of ``metrics.jsonl`` has; of a mixture that of the whole."""
    # Those of a mixture's members come after the whole.
    found = (value for key, value in line.items() if _SCORE.fullmatch(key))
    value = next(found, None)
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def scores_of(lines: Iterable[Mapping[str, Any]]) -> dict[int, float]:
    """Return the held-out score after each update that has one."""
    return {line["step"]: score for line in lines if "step" in line and (score := score_of(line)) is not None}


def best_of(scores: Mapping[int, float]) -> int | None:
    """Return the update with the best score; of equal ones the last, which has learned the most."""
    return max(scores, key=lambda step: (scores[step], step), default=None)
