"""A run whose parts die keeps its promises: benchmarks/soak.py, as a short list of deaths, and in full."""

from __future__ import annotations

import itertools
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
DEATHS = [("engine", "crash"), ("learner rank", "kill"), ("environment", "memory"), ("run", "kill")]


@pytest.fixture
def soak(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import soak

    return soak


@pytest.mark.long
def test_a_run_whose_parts_die_keeps_its_promises(soak: Any, tmp_path: Path):
    settings = ["rollout.batch_size=16", "rollout.max_concurrent=8", "evaluation.problems=0"]
    run = soak.Run(tmp_path, [*settings, "steps=1000", "checkpoint.every=3"])
    deaths, began = [], time.monotonic()
    try:
        assert run.wait("the first updates", lambda: run.updates >= 2) is not None, run.said()
        for kind, way in DEATHS:
            victim = next(v for v in soak.victims(run.path, run.process.pid) if v.kind == kind)
            deaths.append(soak.strike(run, victim, way, began))
        run.stop()
    finally:
        run.kill()
    print("\n".join(map(soak.row, deaths)))
    assert [str(verdict) for verdict in soak.verdicts(run, deaths) if verdict.broken] == []
    assert len(deaths) == len(DEATHS)
    said = (run.path / "engine.log").read_text(errors="replace")
    assert "Fatal Python error: Segmentation fault" in said, "no library handles a crash of vLLM"


def test_each_kind_dies_in_each_way_equally_often(soak: Any):
    drawn = soak.draws(soak.KINDS, soak.WAYS, 0)
    for _ in range(2):
        pairs = list(itertools.islice(drawn, len(soak.KINDS) * len(soak.WAYS)))
        assert len(set(pairs)) == len(pairs)
        first = pairs[: len(soak.KINDS)]
        assert len({kind for kind, _ in first}) == len(first), "each kind once in a round"
        counts = Counter(way for _, way in first)
        assert max(counts.values()) - min(counts[way] for way in soak.WAYS) <= 1


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_ten_minutes_of_deaths(tmp_path: Path):
    command = [sys.executable, str(BENCHMARKS / "soak.py"), "--minutes", "10", "--output", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
