"""Throughput over steps of any length."""

from __future__ import annotations

import pytest
from dummy_batches import batch

from areal.runtime.accounting import StepAccount

NAME = "throughput/tokens_per_s"


def rates(steps: list[tuple[float, int]]) -> list[float]:
    """Return the throughput of steps that last so many seconds, in which so many tokens are generated."""
    data, now, tokens, found = batch(0), 0.0, 0, []
    account = StepAccount(0.0, 0, lambda: now)
    for seconds, more in steps:
        now, tokens = now + seconds, tokens + more
        found.append(account.close(data, 0.0, {}, 0.0, tokens)[NAME])
    return found


def test_long_steps_count_for_themselves():
    assert rates([(20.0, 2000), (10.0, 100), (15.0, 3000)]) == [100, 10, 200]


def test_a_short_step_in_which_nothing_ends_is_no_stop():
    steps = [(0.5, 0 if number % 3 else 150) for number in range(60)]
    found = rates(steps)[20:]
    assert min(found) > 80
    assert max(found) < 120


def test_a_stop_shows_within_the_window():
    assert rates([(1.0, 100)] * 30 + [(1.0, 0)] * 10)[-1] == pytest.approx(0)
    assert rates([(1.0, 100)] * 30 + [(10.0, 0)])[-1] == 0


def test_before_the_window_is_full_all_counts():
    assert rates([(1.0, 100), (1.0, 0), (2.0, 0)]) == [100, 50, 25]
