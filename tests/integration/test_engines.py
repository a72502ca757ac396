"""Two engines in a run: both work, both have each version, and together they are one engine.

On a GPU they share it.
"""

from __future__ import annotations

import sys
from pathlib import Path

import psutil
import torch

from areal.config import parse_config
from areal.rollout.engines import Engines
from areal.runtime.build import open_trainer
from areal.runtime.plan import plan
from areal.runtime.recording import Records
from areal.telemetry.progress import Progress
from areal.telemetry.run_directory import RunDirectory, read_metrics

MISMATCH = 0.3 if torch.cuda.is_available() else 1e-3
"""In bfloat16, or in float32."""


async def test_a_run_with_two_engines(tmp_path: Path):
    config = parse_config(
        {
            "output": tmp_path,
            "name": "r",
            "steps": 2,
            "engine": {"count": 2},
            "rollout": {"batch_size": 32, "max_model_len": 256, "max_staleness": 0},
            "learner": {"learning_rate": 1e-3},
            "evaluation": {"problems": 8},
        }
    )
    checked, directory = plan(config), RunDirectory.create(config)
    before = set(psutil.Process().children(recursive=True))
    with Progress(config.steps, "", False, sys.stderr) as progress:
        async with open_trainer(checked, Records(directory, progress), None) as trainer:
            engines = trainer.sync.engine
            assert isinstance(engines, Engines)
            now = set(psutil.Process().children(recursive=True)) - before
            processes = [p for p in now if "resource_tracker" not in " ".join(p.cmdline())]
            await trainer.run()
    assert min(engines.requests.values()) > 0.3 * sum(engines.requests.values()), "both have worked"
    assert engines.version == 2
    rows = [row for row in read_metrics(directory.path) if "reward/mean" in row]
    assert len(rows) == 2
    assert max(row["staleness/max"] for row in rows) == 0, "no token of an old version"
    # The learner computes what either engine did: one that kept old weights would be far off.
    assert min(row["mismatch/tokens"] for row in rows) == 1
    assert max(row["mismatch/logprob_max"] for row in rows) < MISMATCH
    assert len(processes) >= 3
    assert psutil.wait_procs(processes, timeout=10)[1] == []
