"""A model learns not to make its program crash: benchmarks/crashing.py, for a few updates."""

from __future__ import annotations

import statistics
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from crashing import measure


@pytest.mark.long
def test_responses_that_crash_a_program_become_rare():
    """``measure`` checks that each crash is an episode worth 0, and part of the reward shown."""
    found = measure("crashing", seed=0, steps=40)
    begun, ended = statistics.fmean(found["crashes"][:3]), statistics.fmean(found["crashes"][-5:])
    assert begun > 0.3
    assert ended < begun / 2
