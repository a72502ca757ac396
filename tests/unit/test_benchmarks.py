"""What the benchmarks build on: finished runs are kept, broken ones are not, other settings are refused."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def common(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import common

    return common


def counting(metrics: list[dict[str, Any]], calls: list[list[str]]) -> Any:
    def train(folder: Path, settings: list[str]) -> list[dict[str, Any]]:
        calls.append(settings)
        return metrics

    return train


def test_a_finished_run_is_not_made_again(common: Any, tmp_path: Path):
    calls: list[list[str]] = []
    train = counting([{"x": 1}], calls)
    results = [
        common.train_once(tmp_path, "run", ["seed=0"], lambda metrics: {"sum": metrics[0]["x"]}, train)
        for _ in range(2)
    ]
    assert results == [{"settings": ["seed=0"], "sum": 1}] * 2
    assert calls == [["seed=0"]]
    saved = json.loads((tmp_path / "runs" / "run.json").read_text())
    assert saved["results"] == results[0]
    assert {"command", "date", "commit", "hardware", "versions"} <= saved.keys()
    with pytest.raises(SystemExit, match="other settings"):
        common.train_once(tmp_path, "run", ["seed=1"], dict, train)


def test_a_broken_run_is_not_counted(common: Any, tmp_path: Path):
    def fails(folder: Path, settings: list[str]) -> list[dict[str, Any]]:
        raise subprocess.CalledProcessError(1, "areal")

    with pytest.raises(subprocess.CalledProcessError):
        common.train_once(tmp_path, "run", [], dict, fails)
    calls: list[list[str]] = []
    common.train_once(tmp_path, "run", [], lambda metrics: {}, counting([], calls))
    assert len(calls) == 1


def test_staleness_rows_have_every_seed(common: Any, tmp_path: Path):
    import staleness

    for eta, objective, seed, accuracy in (
        ("0", "naive", 0, 0.5),
        ("0", "naive", 1, 0.7),
        ("inf", "decoupled", 0, 0.9),
    ):
        figures = {
            "tokens_per_s": 10.0,
            "seconds_per_step": 1.0,
            "staleness_mean": 0.0,
            "accuracy_before": 0.4,
            "rewards": [0.25, 0.75],
        }
        point = staleness.Point(eta, objective, seed)
        result = {"eta": eta, "objective": objective, "seed": seed, "accuracy": accuracy, **figures}
        common.save(tmp_path, point.name, result)
    first, second = staleness.summary(tmp_path)
    assert (first["seeds"], first["accuracies"]) == (2, [0.5, 0.7])
    assert first["accuracy"] == pytest.approx(0.6)
    assert (second["eta"], second["objective"]) == ("inf", "decoupled")
    assert first["reward_means"] == [0.5, 0.5]
    row = "| ∞ |  | 0.900 (0.900 to 0.900) |  | 0.500 (0.500 to 0.500) | 0.0 | 10 |"
    assert row in staleness.table([first, second])


def test_the_bound_of_a_step_is_the_slower_part_alone(common: Any):
    import async_vs_sync

    def seconds(*values: float) -> list[dict[str, float]]:
        return [{"seconds_per_step": value} for value in values]

    found = {"synchronous": seconds(4.0, 9.0, 6.0), "asynchronous": seconds(3.0, 2.0, 2.0)}
    found |= {"generate": seconds(1.0, 1.6, 1.6), "train": seconds(1.0, 1.5, 1.2)}
    results = async_vs_sync.steady_results(found)
    assert results["bound"] == 1.6
    assert results["over_bound"] == {"synchronous": 3.75, "asynchronous": 1.25}
    assert results["asynchronous_speed_up"] == {"synchronous": 3.0, "asynchronous": 1.0}


def test_gpus_are_split_in_quarters_and_shared(common: Any):
    import several_gpus

    assert several_gpus.ways_to_split(2) == [(1, 1), (2, 2)]
    assert several_gpus.ways_to_split(4) == [(1, 3), (2, 2), (3, 1), (4, 4)]
    assert several_gpus.ways_to_split(8) == [(2, 6), (4, 4), (6, 2), (8, 8)]


def test_attention_pads_runs_of_like_lengths_only(common: Any):
    import microbatch
    import numpy as np

    members = [microbatch.sequences(np.random.default_rng(0), 1, 0.3)[0] for _ in range(4)]
    for member, length in zip(members, (60, 45, 30, 12), strict=True):
        for name in ("tokens", "loss_mask", "logprobs", "versions"):
            setattr(member, name, getattr(member, name)[:length])
    assert [len(member) for member in members] == [60, 45, 30, 12]
    assert microbatch.attended(members) == 2 * 60 + 30 + 12
    assert microbatch.rectangle(members) == 4 * 60
