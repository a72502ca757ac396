"""The held-out scores of a run by update, from its metrics."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

SCORE = re.compile(r"eval/(?P<env>.+)/avg@(?P<samples>\d+)")
"""Pattern of the names of held-out scores in the metrics."""


def finite(line: Mapping[str, Any], key: str) -> float | None:
    """Return the value of a name in a line of ``metrics.jsonl``, if it is a finite number."""
    value = line.get(key)
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def score_key(line: Mapping[str, Any]) -> str:
    """Return the name of a line's score; for a mixture, that of the whole; empty: there is none."""
    return next(filter(SCORE.fullmatch, line), "")


def score_of(line: Mapping[str, Any]) -> float | None:
    """Return the held-out score in a line of ``metrics.jsonl``; for a mixture, that of the whole."""
    return finite(line, score_key(line))


def scores_of(lines: Iterable[Mapping[str, Any]]) -> dict[int, float]:
    """Return the held-out score after each update that has one."""
    return {line["step"]: score for line in lines if "step" in line and (score := score_of(line)) is not None}


def best_of(scores: Mapping[int, float]) -> int | None:
    """Return the update with the best score; of several, the last one, which has learned the most."""
    return max(scores, key=lambda step: (scores[step], step), default=None)
