"""Two engines in a run: both work, both have each version, and together they are one engine."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest
import torch

import areal
from areal.rollout.engines import Engines
from areal.rollout.worker import RolloutWorker
from areal.runtime import loop
from areal.runtime.plan import Plan

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="each engine needs a GPU of its own")


def test_a_run_with_two_engines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    started, seen, processes = loop.start_rollout_worker, list[Engines](), list[psutil.Process]()
    before = set(psutil.Process().children(recursive=True))

    async def start_rollout_worker(plan: Plan, backend: str | None) -> RolloutWorker:
        worker = await started(plan, backend)
        assert isinstance(worker.engine, Engines)
        seen.append(worker.engine)
        now = set(psutil.Process().children(recursive=True)) - before
        processes.extend(p for p in now if "resource_tracker" not in " ".join(p.cmdline()))
        return worker

    monkeypatch.setattr(loop, "start_rollout_worker", start_rollout_worker)
    run = areal.train(
        env="math-v1",
        engine={"count": 2},
        output=tmp_path,
        name="r",
        steps=2,
        rollout={"batch_size": 32, "max_model_len": 256, "max_staleness": 0},
        learner={"learning_rate": 1e-3},
        evaluation={"problems": 8},
    )
    [engines] = seen
    assert min(engines.requests) > 0.3 * sum(engines.requests), "both have worked"
    assert engines.version == 2
    rows = [row for row in run.metrics if "reward/mean" in row]
    assert len(rows) == 2
    assert max(row["staleness/max"] for row in rows) == 0, "no token of an old version"
    # The learner computes what either engine did: one that kept old weights would be far off.
    assert min(row["mismatch/tokens"] for row in rows) == 1
    assert max(row["mismatch/logprob_max"] for row in rows) < 1e-3
    assert len(processes) >= 2
    assert psutil.wait_procs(processes, timeout=10)[1] == []
