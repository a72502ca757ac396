"""A part of a run is started again so often within an hour, and no more."""

from __future__ import annotations

import pytest

from areal.errors import EngineLost, LearnerLost
from areal.runtime.restarts import HOUR, Restarts


def test_past_the_budget_the_first_cause_ends_the_run():
    now = [0.0]
    restarts = Restarts(2, lambda: now[0])
    for i in range(2):
        now[0] += 60
        restarts.allow("engine 0", EngineLost(f"cause {i}"))
    restarts.allow("engine 1", EngineLost("of another part"))
    restarts.allow("the learner", LearnerLost("of another part"))
    with pytest.raises(EngineLost, match=r"^cause 0; engine 0 was restarted 2 times within an hour"):
        restarts.allow("engine 0", EngineLost("cause 2"))
    assert restarts.total == 4


def test_what_is_an_hour_old_is_forgotten():
    now = [0.0]
    restarts = Restarts(1, lambda: now[0])
    for i in range(3):
        restarts.allow("engine 0", EngineLost(f"cause {i}"))
        now[0] += HOUR
    now[0] -= 1
    with pytest.raises(EngineLost, match=r"^cause 2; .* 1 time within"):
        restarts.allow("engine 0", EngineLost("cause 3"))


def test_without_a_budget_the_first_loss_is_raised_as_it_is():
    loss = LearnerLost("learner rank 0 ended")
    with pytest.raises(LearnerLost) as raised:
        Restarts(0).allow("the learner", loss)
    assert raised.value is loss
