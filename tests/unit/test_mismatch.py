"""A run tells once that engine and learner differ more than usual, and ends where they differ by far."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from areal.config import parse_config
from areal.errors import UserError
from areal.runtime.mismatch import MismatchWatch

FLOAT32, BFLOAT16 = {torch.float32}, {torch.float32, torch.bfloat16}


def watch(dtypes: set[torch.dtype] = FLOAT32, device: str = "cpu", **settings: Any) -> MismatchWatch:
    return MismatchWatch(parse_config(settings), dtypes, device)


def metrics(mismatch: float, share: float = 1.0) -> dict[str, float]:
    return {"mismatch/logprob": mismatch, "mismatch/tokens": share}


@pytest.mark.parametrize(
    ("dtypes", "device", "usual", "far"),
    [(FLOAT32, "cpu", 4e-5, 0.02), (FLOAT32, "cuda", 5e-3, 0.3), (BFLOAT16, "cuda", 0.04, 0.6)],
)
def test_it_warns_once_and_far_off_ends_the_run(
    dtypes: set[torch.dtype], device: str, usual: float, far: float
):
    looking = watch(dtypes, device)
    assert looking.look(metrics(usual), 1000) is None
    assert looking.look({}, 1000) is None, "nothing could be compared"
    warning = looking.look(metrics(far / 3), 1000)
    assert warning is not None
    assert warning.startswith("warning: the log-probabilities of the engine and the learner differ by ")
    assert "\n" not in warning
    assert looking.look(metrics(far / 3), 1000) is None, "once"
    for worst in (far, float("nan")):
        with pytest.raises(UserError, match=r"limit of 0\.\d+: the engine does not sample from the policy"):
            looking.look(metrics(worst), 1000)


def test_the_limit_can_be_set_and_lifted():
    strict = watch(learner={"max_mismatch": 1e-6})
    with pytest.raises(UserError, match="exceeds the limit of 1e-06"):
        strict.look(metrics(2e-6), 1000)
    lifted = watch(learner={"max_mismatch": "inf"})
    assert lifted.look(metrics(9.0), 1000) is not None, "it is warning still"


def test_a_few_tokens_say_nothing():
    assert watch().look(metrics(5.0, share=0.01), 5000) is None
    with pytest.raises(UserError):
        watch().look(metrics(5.0, share=0.05), 5000)


def test_a_kept_cache_is_of_older_weights():
    stale = {"rollout": {"interruption": "keep", "max_staleness": 2}}
    assert watch(**stale).look(metrics(5.0), 1000) is None
    for counts in (
        {"rollout": {"interruption": "keep", "max_staleness": 0}},
        {**stale, "learner": {"max_mismatch": 0.5}},
    ):
        with pytest.raises(UserError):
            watch(**counts).look(metrics(5.0), 1000)
