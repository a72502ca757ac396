"""docs/metrics.md knows every metric that a run writes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from dummy_batches import batch

from areal.config import LearnerConfig
from areal.learner.learner import Learner
from areal.models import resolve_model
from areal.runtime.accounting import StepAccount

PAGE = Path(__file__).parents[2] / "docs" / "metrics.md"


@pytest.mark.parametrize("settings", [{"objective": "ppo"}, {"kl": 0.1}])
def test_every_metric_of_an_update_is_explained(settings: dict[str, object]):
    learner = Learner(resolve_model("starter"), LearnerConfig(minibatches=1, **settings), "cpu", 1.0)
    learner._peak = 1e12  # as on a GPU that is known
    data = batch(0)
    written = learner.update(data) | StepAccount(0.0, 0).close(data, 1.0, {}, 1.0, 10)
    explained = set(re.findall(r"`([\w/@]+)`", PAGE.read_text()))
    assert not set(written) - explained
